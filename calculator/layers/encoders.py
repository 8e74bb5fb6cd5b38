"""Encoders, and decoders that attend to an encoder: BERT's and T5's layers as transformers has them."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, LONG, Mode, Node, Size, Tape, Value, scaled
from ..tensors import Tensor
from .attention import Attention, attend
from .blocks import Block
from .crossed import CrossAttention, for_both, plain_eager, waiting_node
from .ends import Embedding, Head
from .feed_forward import FeedForward, GatedFeedForward, activate
from .norms import LayerNorm, Norm, statistics_rows

# ---------------------------------------------------------------------- BERT


@dataclass(frozen=True, slots=True)
class EncoderEmbedding(Embedding):
    """Tokens, token types and positions, then a norm and dropout; what the model holds is their result."""

    type_name: str = "token_type_embeddings"

    def forward(self, tape: Tape) -> Value:
        """With the local variables of transformers' BertEmbeddings.forward."""
        rows = tape.mode.queries
        tokens = tape.embed(rows, self.vocabulary, self.width)
        x = tokens
        if self.types:
            kinds = tape.embed(rows, self.types, self.width)
            x = tape.add(tokens, kinds)
        positions = tape.embed(tape.mode.query_positions, self.positions, self.width)
        x = tape.add(x, positions)
        if self.norm is not None:
            x = self.norm.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        tape.held.append(x)
        return x


@dataclass(frozen=True, slots=True)
class EncoderAttention(Attention):
    """Attention over the whole sequence, without positions; eager's softmax stays in the dtype of the weights."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """Attention and the matrix after it."""
        y = self.attended(tape, x)
        return self.joined(tape, y)

    def joined(self, tape: Tape, y: Value) -> Value:
        """The matrix that joins the heads."""
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, last(self.names.output))

    def attended(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BertSelfAttention.forward."""
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, self.bias, last(self.names.query)))
        k = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, last(self.names.key)))
        v = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, last(self.names.value)))
        if tape.mode.attention == "eager":
            return plain_eager(tape, q, k, v, self)
        return attend(tape, q, k, v, self)


def last(name: str) -> str:
    """The last part of a module's path.

    >>> last("self.query")
    'query'
    """
    return name.rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class EncoderBlock(Block):
    """norm(x + dropout(mixer(x))), then norm(y + dropout(feed_forward(y))): BERT.

    dropout   rate after both
    """

    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BertAttention.forward and BertLayer.feed_forward_chunk."""
        assert self.mixer is not None and self.feed_forward is not None
        y = self._attended(tape, x)
        wide = self.feed_forward.widened(tape, y)
        return self._summed(tape, self.feed_forward.narrowed(tape, wide), y, self.norms[1])

    def _attended(self, tape: Tape, x: Value) -> Value:
        assert self.mixer is not None
        y = self.mixer.attended(tape, x)
        return self._summed(tape, self.mixer.joined(tape, y), x, self.norms[0])

    def _summed(self, tape: Tape, y: Value, x: Value, norm: Norm) -> Value:
        y = tape.dropout(y, self.dropout)
        return norm.forward(tape, tape.add(y, x))


@dataclass(frozen=True, slots=True)
class EncoderFeedForward(FeedForward):
    """In two steps: what comes between them keeps its name until the layer is through."""

    def widened(self, tape: Tape, x: Value) -> Value:
        """The first matrix and the activation."""
        return activate(tape, tape.linear(x, self.hidden, self.intermediate, True, last(self.up)), self.activation)

    def narrowed(self, tape: Tape, x: Value) -> Value:
        """The second matrix."""
        return tape.linear(x, self.intermediate, self.hidden, True, last(self.down))


@dataclass(frozen=True, slots=True)
class MaskedHead(Head):
    """A matrix, an activation and a norm before the tied matrix to the vocabulary, which has a bias.

    activation   of the first
    transform, transform_norm   names of the first matrix and of the norm
    """

    activation: str = "gelu"
    transform: str = "cls.predictions.transform.dense"
    transform_norm: str = "cls.predictions.transform.LayerNorm"

    def tensors(self) -> tuple[Tensor, ...]:
        """The matrix before the vocabulary, its norm, and a bias as long as the vocabulary."""
        wide, rows = self.width, self.vocabulary
        made = (
            Tensor(f"{self.transform}.weight", (wide, wide), "lm_head", "other", True),
            Tensor(f"{self.transform}.bias", (wide,), "lm_head", "bias"),
            Tensor(f"{self.transform_norm}.weight", (wide,), "lm_head", "norm"),
            Tensor(f"{self.transform_norm}.bias", (wide,), "lm_head", "norm"),
            Tensor("cls.predictions.bias", (rows,), "lm_head", "bias"),
        )
        return made if self.tied else (*made, Tensor(f"{self.name}.weight", (rows, wide), "lm_head", "output", True))

    def final(self, tape: Tape, x: Value) -> Value:
        """What the encoder gives is handed on as it is."""
        return x

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """For every position, whatever was asked for: an encoder has no last token."""
        rows = tape.mode.queries
        x = tape.linear(x, self.width, self.width, True, "", rows)
        x = activate(tape, x, self.activation)
        x = LayerNorm(self.width).forward(tape, x)
        return tape.linear(x, self.width, self.vocabulary, True, "", rows)


@dataclass(frozen=True, slots=True)
class PoolingHead(Head):
    """A matrix and tanh on the first token: an encoder without a head over the vocabulary."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Width × width and its bias."""
        return (
            Tensor("pooler.dense.weight", (self.width, self.width), "other", "other", True),
            Tensor("pooler.dense.bias", (self.width,), "other", "bias"),
        )

    def final(self, tape: Tape, x: Value) -> Value:
        """What the encoder gives is handed on as it is."""
        return x

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """One vector a sequence."""
        first: Size = (0, 1, 0, 0, 0, 0)
        token = tape.slice(x, scaled(first, self.width))
        return tape.unary_output(tape.linear(token, self.width, self.width, True, "", first))


# ---------------------------------------------------------------------- T5


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

    buckets   rows of the table of biases, in the first layer of a stack; 0 in the others
    """

    buckets: int = 0

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
        bias = tape.shared["cross_bias" if self.across else "bias"]
        if self.across or not tape.recording:
            return bias
        if not self.buckets:
            return Value(bias.elements, bias.dtype, bias.storage, waiting_node())
        found = tape.new(tape.mode.mask, LONG)  # the first layer looks them up, and keeps where
        table = tape.parameter(self.buckets * self.heads)
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
        return tape.operate(bias.elements, bias.dtype, (bias,), (mask,))


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
        return tape.scale(x) if self.factor else x


@dataclass(frozen=True, slots=True)
class DistilBlock(EncoderBlock):
    """norm(mixer(x) + x), then norm(dropout(feed_forward(y)) + y): DistilBERT."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' TransformerBlock.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        mixed = self.mixer.forward(tape, x)
        mixed = self.norms[0].forward(tape, tape.add(mixed, x))
        y = tape.dropout(self.feed_forward.forward(tape, mixed), self.dropout)
        return self.norms[1].forward(tape, tape.add(y, mixed))
