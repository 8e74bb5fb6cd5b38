"""T5's layers, and those of its kin, as transformers has them."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, LONG, NOTHING, WIDTH, Mode, Node, Size, Tape, Value, scaled
from ..tensors import Tensor
from .blocks import Block
from .crossed import CrossAttention, for_both, plain_eager
from .ends import Head
from .feed_forward import FeedForward, GatedFeedForward, activate
from .norms import Norm, statistics_rows


@dataclass(frozen=True, slots=True)
class T5Norm(Norm):
    """x / rms(x) · weight, where the float32 copy serves the statistics alone."""

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """With the local variables of transformers' T5LayerNorm.forward."""
        variance = tape.mean(tape.power(tape.cast(x, FLOAT)), statistics_rows(x, self.width))
        y = tape.multiply(x, tape.unary_output(tape.shift(variance)))
        if tape.mode.weights == HALF:
            y = tape.cast(y, HALF)
        return tape.multiply(y, tape.parameter(self.width))


@dataclass(frozen=True, slots=True)
class T5Attention(CrossAttention):
    """Scores without a scale, to which a learned bias by distance is added.

    buckets   rows of the table of biases, in the first layer of a stack (UMT5: in all); 0 in the others
    first     whether the layer is the first of its stack, which makes the biases that the others are handed
    each      whether every layer makes its own (UMT5)
    table     name of what all layers add to their scores
    """

    buckets: int = 0
    first: bool = False
    each: bool = False
    table: str = "bias"

    def tensors(self) -> tuple[Tensor, ...]:
        """Four matrices, and the table of biases in the first layer."""
        made = CrossAttention.tensors(self)
        if not self.buckets:
            return made
        shape, name = (self.buckets, self.heads), f"{self.prefix}.relative_attention_bias.weight"
        return (*made, Tensor(name, shape, "attention", "position"))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' T5Attention.forward."""
        mode = tape.mode
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, False, self.names.query))
        k, v = self.keys_and_values(tape, x)
        bias = self._bias(tape)
        if mode.attention == "eager":
            mask = tape.shared.get("mask") if self.causal else None
            y = plain_eager(tape, q, k, v, self, *((bias,) if mask is None else (bias, mask)))
        else:
            y = self._efficient(tape, q, k, v, bias)
        return tape.linear(y, self.query_width, self.hidden, False, self.names.output)

    def _bias(self, tape: Tape) -> Value:
        """Handed on from the first layer, whose table of a row for each distance they are looked up in. Those for the
        encoder's tokens are zeros, which under checkpointing ask for a gradient too."""
        elements = scaled(tape.mode.mask, self.heads)
        if self.each:
            return self._looked_up(tape, None) if self.buckets else tape.new(elements, tape.mode.hidden)
        bias = tape.shared[self.table]
        if not tape.recording or (self.across and not tape.recomputed):
            return bias
        if not self.first:
            return tape.outside(bias, self.last)
        if tape.recomputed:  # made once more beside the first, whose gradient is there by now
            given = tape.outside(bias, self.last)
            made = tape.new(elements, bias.dtype) if self.across else self._looked_up(tape, None)
            return tape.attach(Value(made.elements, made.dtype, made.storage), (made, given), ())
        return self._looked_up(tape, bias)

    def _looked_up(self, tape: Tape, bias: Value | None) -> Value:
        found = tape.new(tape.mode.mask, LONG)
        table = tape.parameter(self.buckets * self.heads)
        if bias is None:
            bias = tape.new(scaled(tape.mode.mask, self.heads), tape.mode.hidden)
        return tape.attach(Value(bias.elements, bias.dtype, bias.storage), (table,), (found,))

    def _efficient(self, tape: Tape, q: Value, k: Value, v: Value, bias: Value) -> Value:
        """torch's memory-efficient kernel, which is given the bias as a mask of its own memory."""
        if not self.across:  # turned, or joined with the causal mask: a copy that asks for a gradient
            bias = self._copied(tape, bias)
        if tape.mode.autocast:
            q, k, v, bias = (tape.cast(each, HALF) for each in (q, k, v, bias))
        saved = [q, k, v, bias]
        out = tape.new(q.elements, q.dtype)
        out.dense = False
        saved.append(out)
        if tape.recording:
            saved.append(tape.new(scaled(tape.mode.queries, self.heads), FLOAT))
        out = tape.attach(out, (q, k, v, bias), saved, _with_bias)
        return tape.copy(tape.turn(out, dense=True))

    def _copied(self, tape: Tape, bias: Value) -> Value:
        if not self.causal:
            return tape.operate(bias.elements, bias.dtype, (bias,))
        mask = tape.new(tape.mode.mask, BOOL)
        chosen = tape.operate(bias.elements, bias.dtype, (bias,), (mask,))
        chosen.dense = False  # heads come last in memory, as they were looked up
        return tape.copy(chosen)


def _with_bias(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """The kernel makes a gradient of the bias for every sequence, which are then summed."""
    made = [None if link is None else tape.new(link[2], link[3]) for link in node.inputs[:3]]
    link = node.inputs[3]
    if link is None:
        return [*made, None]
    heads = max(link[2][4], link[2][2])  # figures of a matrix a head, or of a row a head in a decode step
    whole = tape.new(scaled(tape.mode.scores, heads), link[3])
    total = tape.new(link[2], link[3])
    del whole
    return [*made, total]


@dataclass(frozen=True, slots=True)
class T5Block(Block):
    """x + attention(norm(x)), in the decoder also x + attention to the encoder, then x + feed_forward(norm(x)).

    across   attention to the encoder, None in the encoder itself
    encoder  whether a decode step skips it
    dropout  rate after each part
    """

    across: T5Attention | None = None
    encoder: bool = False
    dropout: float = 0.0

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        made = Block.tensors(self)
        return made if self.across is None else (*made, *self.across.tensors())

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Of the target and of the source."""
        own = self.mixer.cache(tokens, tensor) if self.mixer is not None else 0
        return own + (self.across.cache(tokens, tensor) if self.across is not None else 0)

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Of the target and of the source."""
        own = self.mixer.held(mode) if self.mixer is not None else ()
        return (*own, *(self.across.held(mode) if self.across is not None else ()))

    def handed(self, mode: Mode) -> Size:
        """Bytes of the biases that the decoder's first layer hands on: under checkpointing those of the encoder are
        still there."""
        if self.across is None or not self.across.first or self.across.each:
            return NOTHING
        return scaled(mode.mask, self.across.heads * WIDTH[mode.hidden])

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' T5Block.forward."""
        if self.encoder and tape.mode.step == "decode":
            return x
        assert self.mixer is not None
        x = self._added(tape, x, self.mixer, self.norms[0])
        if self.across is not None:
            x = self._added(tape, x, self.across, self.norms[1])
        return self._fed(tape, x)

    def _added(self, tape: Tape, x: Value, part: T5Attention, norm: Norm) -> Value:
        normed = norm.forward(tape, x)
        y = part.forward(tape, normed)
        return tape.add(x, tape.dropout(y, self.dropout))

    def _fed(self, tape: Tape, x: Value) -> Value:
        assert self.feed_forward is not None
        y = self.norms[-1].forward(tape, x)
        y = self.feed_forward.forward(tape, y)
        return tape.add(x, tape.dropout(y, self.dropout))


@dataclass(frozen=True, slots=True)
class T5FeedForward(FeedForward):
    """Dropout between activation and the second matrix."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' T5DenseActDense.forward."""
        x = tape.linear(x, self.hidden, self.intermediate, False, self.up)
        x = activate(tape, x, self.activation)
        x = tape.dropout(x, self.dropout)
        x = tape.cast(x, tape.mode.weights)
        return tape.linear(x, self.intermediate, self.hidden, False, self.down)


@dataclass(frozen=True, slots=True)
class T5GatedFeedForward(GatedFeedForward):
    """The gated one with dropout before the last matrix."""

    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' T5DenseGatedActDense.forward."""
        gate = activate(tape, tape.linear(x, self.hidden, self.intermediate, False, self.gate), self.activation)
        up = tape.linear(x, self.hidden, self.intermediate, False, self.up)
        x = tape.multiply(gate, up)
        x = tape.dropout(x, self.dropout)
        x = tape.cast(x, tape.mode.weights)
        return tape.linear(x, self.intermediate, self.hidden, False, self.down)


@dataclass(frozen=True, slots=True)
class Crossing(Block):
    """Between encoder and decoder: the encoder's last norm, and the embedding of the target.

    vocabulary, width   of the table, which is the encoder's own
    dropout   rate after both
    """

    vocabulary: int = 0
    width: int = 0
    dropout: float = 0.0

    def tensors(self) -> tuple[Tensor, ...]:
        """The norm alone: the table is shared."""
        return self.norms[0].tensors()

    def forward(self, tape: Tape, x: Value) -> Value:
        """What the decoder starts from; the encoder's states stay beside it."""
        if tape.mode.step == "decode":
            return x
        states = self.norms[0].forward(tape, x)
        states = tape.dropout(states, self.dropout)
        tape.borrowing = True
        y = tape.embed(tape.mode.queries, self.vocabulary, self.width)
        tape.borrowing = False
        y = tape.dropout(y, self.dropout)
        return tape.attach(tape.view(y), (y, states), (), for_both)


@dataclass(frozen=True, slots=True)
class T5Head(Head):
    """Dropout after the decoder's norm, and a constant factor where the embedding serves as the head."""

    dropout: float = 0.0
    factor: bool = True

    def final(self, tape: Tape, x: Value) -> Value:
        """The decoder's last norm, dropout, and the factor."""
        assert self.norm is not None
        x = self.norm.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        if not self.factor:
            return x
        tape.lingering.append(x)  # the decoder's output holds what is not yet scaled
        return tape.scale(x)
