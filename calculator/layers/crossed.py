"""Decoders that attend to an encoder, as BART and its kin have them: what T5's attention shares with theirs, too."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..tape import FLOAT, HALF, LONG, TOKENS, WIDTH, Mode, Node, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from .attention import Attention, attend, joined_to_cache, keep, kept_rows, score_entries
from .blocks import Block
from .ends import Embedding, Head
from .feed_forward import FeedForward, activate
from .norms import Norm


def plain_eager(
    tape: Tape,
    q: Value,
    k: Value,
    v: Value,
    layer: Attention,
    *added: Value,
    scores: Size | None = None,
    lasting: bool = False,
) -> Value:
    """Scores, what is added to them, softmax in their own dtype, dropout, product with the values; `lasting` where the
    scores have a name of their own until the heads are joined."""
    weights = tape.scale(tape.matmul(q, k, scores or score_entries(tape.mode, layer)))
    for each in added:
        weights = tape.add(weights, each)
    held = weights if lasting else None
    weights = tape.softmax(weights)
    weights = tape.dropout(weights, layer.dropout)
    tape.lingering.append(weights)
    out = tape.copy(tape.turn(tape.matmul(weights, v, q.elements)))
    del held
    return out


@dataclass(frozen=True, slots=True)
class CrossAttention(Attention):
    """Attention in an encoder, in a decoder, or of a decoder to its encoder.

    across    whether keys and values come from the encoder
    source    positions the encoder has, whatever the text; 0 where it has as many as the text
    last      whether the layer is the last of its stack
    unbiased  names of matrices that lack the bias the others have (Whisper's keys)
    stored    further tensors that it holds
    """

    across: bool = False
    source: int = 0
    last: bool = False
    unbiased: tuple[str, ...] = ()
    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Four matrices, their biases, and what else it holds."""
        lacking = {f"{self.prefix}.{name}.bias" for name in self.unbiased}
        return (*(each for each in Attention.tensors(self) if each.name not in lacking), *self.stored)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Of the decoder: keys and values of the target, or of the source where it attends to the encoder."""
        if not (self.causal or self.across):
            return 0
        kept = self.source if self.across and self.source else tokens
        return 2 * kept * -(-self.kv_heads // tensor) * self.head_dim

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Keys and values of the target grow by a token, those of the source are there in full."""
        if not (self.causal or self.across):
            return ()
        width = self.key_width * WIDTH[HALF if mode.autocast else mode.weights]
        size: Size = scaled(self.source_rows, width) if self.across else (0, -width, 0, width, 0, 0)
        return (size, size)

    @property
    def source_rows(self) -> Size:
        """Positions of the encoder."""
        return (0, self.source, 0, 0, 0, 0) if self.source else TOKENS

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BartAttention.forward."""
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query))
        k, v = self.keys_and_values(tape, x)
        y = self._eager(tape, q, k, v) if tape.mode.attention == "eager" else attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _eager(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        mask = tape.shared.get("mask") if self.causal else None
        return plain_eager(tape, q, k, v, self, *(() if mask is None else (mask,)), scores=self._scores(tape.mode))

    def _scores(self, mode: Mode) -> Size | None:
        return scaled(mode.queries, self.source * self.heads) if self.across and self.source else None

    def keys_and_values(self, tape: Tape, x: Value) -> tuple[Value, Value]:
        """Of the text or of the encoder's states; in a decode step those of the encoder are there."""
        if self.across and tape.mode.step == "decode":
            return self._waiting(tape), self._waiting(tape)
        source = tape.outside(tape.shared["encoded"], self.last) if self.across else x
        rows = self.source_rows if self.across else None
        into = self._source()
        k = tape.turn(tape.linear(source, into, self.key_width, self._has(0), self.names.key, rows))
        v = tape.turn(tape.linear(source, into, self.key_width, self._has(1), self.names.value, rows))
        return self._remembered(tape, k, v)

    def _source(self) -> int:
        """Width of what keys and values are made of."""
        return self.hidden

    def _has(self, index: int) -> bool:
        return self.bias and (self.names.key, self.names.value)[index] not in self.unbiased

    def _waiting(self, tape: Tape) -> Value:
        storage = tape.cached.pop(0)
        dtype = HALF if tape.mode.autocast else tape.mode.weights
        value = Value(scaled(self.source_rows, self.key_width), dtype, storage)
        keep(tape, value)
        return value

    def _remembered(self, tape: Tape, k: Value, v: Value) -> tuple[Value, Value]:
        if tape.mode.training or not (self.causal or self.across):
            return k, v
        if tape.mode.step == "decode":
            rows = kept_rows(frozenset(), None)
            return joined_to_cache(tape, k, rows, self.key_width), joined_to_cache(tape, v, rows, self.key_width)
        k, v = tape.operate(k.elements, k.dtype, (k,)), tape.operate(v.elements, v.dtype, (v,))
        keep(tape, k)
        keep(tape, v)
        return k, v


@dataclass(frozen=True, slots=True)
class DroppedFeedForward(FeedForward):
    """Dropout between the activation and the second matrix.

    inner   its rate
    """

    inner: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BartEncoderLayer.forward."""
        x = activate(tape, tape.linear(x, self.hidden, self.intermediate, self.bias, self.up), self.activation)
        x = tape.dropout(x, self.inner)
        return tape.linear(x, self.intermediate, self.hidden, self.bias, self.down)


@dataclass(frozen=True, slots=True)
class RoutedFeedForward(DroppedFeedForward):
    """Experts that are layers of their own, of which a router picks some for each token (Switch, NLLB-MoE).

    experts, chosen   how many there are, and how many a token uses
    router_bias       whether the router has a bias
    """

    experts: int = 1
    chosen: int = 1
    router_bias: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """The router, and two matrices an expert."""
        path = f"{self.prefix}.router.classifier"
        made = [Tensor(f"{path}.weight", (self.experts, self.hidden), "router", "router", True)]
        if self.router_bias:
            made.append(Tensor(f"{path}.bias", (self.experts,), "router", "bias"))
        for each in FeedForward.tensors(replace(self, prefix=f"{self.prefix}.experts")):
            role = each.role if each.role == "bias" else f"{each.role}_exps"
            made.append(
                replace(
                    each,
                    component="experts",
                    role=role,
                    cut=Cut.EXPERT,
                    pieces=1,
                    experts=self.experts,
                    chosen=self.chosen,
                    count=self.experts,
                )
            )
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """Scores in float32, the chosen experts over the tokens that picked them, and their sum."""
        rows = scaled(tape.mode.queries, self.chosen)
        scores = tape.softmax(tape.product(tape.cast(x, FLOAT), self._router(tape), tape.mode.queries, self.experts))
        weights = tape.operate(rows, x.dtype, (scores,), (scores,), as_inputs)
        found = tape.new(rows, LONG)
        out = tape.new(x.elements, x.dtype)
        mine = tape.operate(scaled(rows, self.hidden), x.dtype, (x,), (found,), as_inputs)
        mine = tape.linear(mine, self.hidden, self.intermediate, self.bias, self.up, rows)
        mine = tape.dropout(activate(tape, mine, self.activation), self.inner)
        mine = tape.linear(mine, self.intermediate, self.hidden, self.bias, self.down, rows)
        mine = tape.multiply(mine, weights)
        return tape.attach(Value(out.elements, out.dtype, out.storage), (mine,), (found,))

    def _router(self, tape: Tape) -> Value:
        return tape.cast(tape.parameter(self.experts * self.hidden), FLOAT)


@dataclass(frozen=True, slots=True)
class CrossBlock(Block):
    """Attention, in the decoder attention to the encoder, and a feed-forward layer: each is added to what went in.

    across      attention to the encoder, None in the encoder itself
    encoder     whether a decode step skips it
    dropout     rate after each part
    norm_first  whether a part is given the norm of its input (mBART), else the sum is normed (BART)
    stored      further tensors that it holds
    """

    across: CrossAttention | None = None
    encoder: bool = False
    dropout: float = 0.0
    norm_first: bool = False
    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        made = (*Block.tensors(self), *self.stored)
        return made if self.across is None else (*made, *self.across.tensors())

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Of the target and of the source."""
        own = self.mixer.cache(tokens, tensor) if self.mixer is not None else 0
        return own + (self.across.cache(tokens, tensor) if self.across is not None else 0)

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Of the target and of the source."""
        own = self.mixer.held(mode) if self.mixer is not None else ()
        return (*own, *(self.across.held(mode) if self.across is not None else ()))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BartDecoderLayer.forward or MBartDecoderLayer.forward."""
        if self.encoder and tape.mode.step == "decode":
            return x
        assert self.mixer is not None and self.feed_forward is not None
        x = self._joined(tape, x, self.mixer, self.norms[0])
        if self.across is not None:
            x = self._joined(tape, x, self.across, self.norms[1])
        return self._joined(tape, x, self.feed_forward, self.norms[-1])

    def _joined(self, tape: Tape, x: Value, part: CrossAttention | FeedForward, norm: Norm) -> Value:
        residual = x
        if self.norm_first:
            x = norm.forward(tape, x)
        x = part.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        x = tape.add(residual, x)
        return x if self.norm_first else norm.forward(tape, x)


@dataclass(frozen=True, slots=True)
class PlacedEmbedding(Embedding):
    """Rows, always multiplied by a constant, plus positions, then perhaps a norm, then dropout.

    made        whether positions come from a table that is no parameter
    norm_early  whether the norm comes before the positions (Blenderbot Small's decoder)
    borrowed    whether the table of tokens is another embedding's
    """

    made: bool = False
    norm_early: bool = False
    borrowed: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """Tokens unless they are borrowed, positions unless they are made, and the norm."""
        kept = Embedding.tensors(self)
        hidden = {f"{self.name}.weight"} if self.borrowed else set()
        if self.made:
            hidden.add(f"{self.position_name}.weight")
        return tuple(each for each in kept if each.name not in hidden)

    def forward(self, tape: Tape) -> Value:
        """With the local variables of transformers' BartEncoder.forward."""
        tape.borrowing = self.borrowed
        x = tape.embed(tape.mode.queries, self.vocabulary, self.width)
        tape.borrowing = False
        if self.scaled:
            x = tape.scale(x)
        if self.norm is not None and self.norm_early:
            x = self.norm.forward(tape, x)
        tape.held.append(x)
        if self.positions:
            x = tape.add(x, self._positions(tape))
        if self.norm is not None and not self.norm_early:
            x = self.norm.forward(tape, x)
        return tape.dropout(x, self.dropout)

    def _positions(self, tape: Tape) -> Value:
        rows = tape.mode.queries if self.positions_each else tape.mode.query_positions
        if self.made:
            found = tape.new(scaled(rows, self.width), tape.mode.weights)
        else:
            found = tape.embed(rows, self.positions, self.width)
        tape.held.append(found)
        return found


@dataclass(frozen=True, slots=True)
class DecoderStart(Block):
    """Between encoder and decoder: the encoder's last norms, and the embedding of the target.

    start   the embedding of the target
    stored  further tensors
    """

    start: PlacedEmbedding = PlacedEmbedding(0, 0)
    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """The encoder's norms and what the target's embedding does not share."""
        return (*Block.tensors(self), *self.start.tensors(), *self.stored)

    def forward(self, tape: Tape, x: Value) -> Value:
        """What the decoder starts from; the encoder's states stay beside it."""
        if tape.mode.step == "decode":
            return x
        states = x
        for norm in self.norms:
            states = norm.forward(tape, states)
        y = self.start.forward(tape)
        tape.held.clear()
        return tape.attach(tape.view(y), (y, states), (), for_both)


def for_both(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """The decoder's gradient handed on, and that of the encoder's states, summed over the decoder's layers."""
    states = node.inputs[1]
    return [grads[0], None if states is None else tape.new(states[2], states[3])]


@dataclass(frozen=True, slots=True)
class ShiftedHead(Head):
    """A matrix to the vocabulary, to whose result a row that is no parameter is added (BART)."""

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """With the local variables of transformers' BartForConditionalGeneration.forward."""
        logits = Head.logits(self, tape, x, rows)
        return tape.operate(logits.elements, tape.mode.weights, (logits,), (), as_inputs)


# ---------------------------------------------------------------------- an encoder of a fixed length


@dataclass(frozen=True, slots=True)
class FramedMode(Mode):
    """The mode of an encoder that has the same positions whatever the text."""

    frames: int = 0

    @property
    def queries(self) -> Size:
        """Positions of every sequence."""
        return (0, self.frames, 0, 0, 0, 0)

    @property
    def query_positions(self) -> Size:
        """Positions."""
        return (self.frames, 0, 0, 0, 0, 0)

    @property
    def scores(self) -> Size:
        """Every position with every other."""
        return (0, self.frames * self.frames, 0, 0, 0, 0)

    @property
    def mask(self) -> Size:
        """The same without a batch."""
        return (self.frames * self.frames, 0, 0, 0, 0, 0)


def framed(mode: Mode, frames: int) -> FramedMode:
    """The same mode at so many positions."""
    return FramedMode(**{each.name: getattr(mode, each.name) for each in fields(Mode)}, frames=frames)


@dataclass(frozen=True, slots=True)
class FramedEncoder(Block):
    """Whisper's encoder, which sees the same number of positions whatever the text: two convolutions over the sound,
    positions, and layers. The text's hidden states go past it.

    layer     each of its layers, `count` of them
    channels  of the sound, at twice as many frames
    frames    positions after the convolutions
    width     of the hidden states
    stored    tensors of convolutions and positions
    """

    layer: CrossBlock = CrossBlock(None, None)
    count: int = 1
    channels: int = 80
    frames: int = 1500
    width: int = 1
    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Convolutions, positions, all layers and the last norm."""
        inner = [replace(each, count=each.count * self.count) for each in self.layer.tensors()]
        return (*self.stored, *inner, *Block.tensors(self))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' WhisperEncoder.forward."""
        if tape.mode.step == "decode":
            return x
        outer = tape.mode
        tape.mode = framed(outer, self.frames)
        states = self._states(tape)
        tape.mode = outer
        return tape.attach(tape.view(x), (x, states), (), for_both)

    def _states(self, tape: Tape) -> Value:
        once, twice = (scaled(tape.mode.queries, times * self.width) for times in (1, 2))
        sound = tape.new(scaled(tape.mode.queries, 2 * self.channels), tape.mode.weights)
        x = self._convolved(tape, sound, 3 * self.channels, twice)
        x = self._convolved(tape, tape.unary(x), 3 * self.width, once)
        x = tape.unary(x)
        x = tape.add(x, tape.embed(tape.mode.query_positions, self.frames, self.width, trained=False))
        x = tape.dropout(x, self.layer.dropout)
        for _ in range(self.count):
            x = self.layer.forward(tape, x)
            tape.lingering.clear()  # its local variables
        for norm in self.norms:
            x = norm.forward(tape, x)
        return x

    def _convolved(self, tape: Tape, x: Value, into: int, elements: Size) -> Value:
        x = tape.cast(x, HALF) if tape.mode.autocast else x
        weight, bias = tape.lowered(tape.parameter(into * self.width)), tape.lowered(tape.parameter(self.width))
        return tape.operate(elements, x.dtype, (x, weight, bias), (x, weight), as_inputs)
