"""Encoders: BERT's layers as transformers has them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tape import BOOL, FLOAT, LONG, Mode, Size, Tape, Value, as_inputs, scaled
from ..tensors import Tensor
from .attention import Attention, attend, eager
from .blocks import Block
from .crossed import plain_eager
from .ends import Embedding, Head
from .feed_forward import FeedForward, GatedFeedForward, activate
from .norms import LayerNorm, Norm

# ---------------------------------------------------------------------- BERT


@dataclass(frozen=True, slots=True)
class EncoderEmbedding(Embedding):
    """Tokens, token types and positions, then a norm and dropout, and perhaps a matrix to the width of the layers; what
    the model holds is their result.

    projection  name of that matrix
    stored      further tensors
    outside     whether the matrix is applied outside, so that the model holds the narrow rows (ALBERT)
    """

    type_name: str = "token_type_embeddings"
    projection: str = "embeddings_project"
    stored: tuple[Tensor, ...] = ()
    outside: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """The tables, the norm, and the matrix with its bias."""
        kept = Embedding.tensors(replace(self, projected=0))
        made = [*kept, *self.stored]
        if self.projected:
            made += dense(self.projection, self.projected, self.width, "other")
        return tuple(made)

    def forward(self, tape: Tape) -> Value:
        """With the local variables of transformers' BertEmbeddings.forward."""
        rows = tape.mode.queries
        tokens = tape.embed(rows, self.vocabulary, self.width)
        x = tokens
        if self.types:
            kinds = tape.embed(rows, self.types, self.width)
            x = tape.add(tokens, kinds)
        if self.positions:
            positions = tape.embed(tape.mode.query_positions, self.positions, self.width)
            x = tape.add(x, positions)
        if self.norm is not None:
            x = self.norm.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        narrow = x
        if self.projected:
            x = tape.linear(x, self.width, self.projected, True, last(self.projection))
        tape.held.append(narrow if self.outside else x)
        return x


def dense(path: str, out: int, into: int, component: str, role: str = "other") -> tuple[Tensor, Tensor]:
    """A matrix and its bias."""
    return (
        Tensor(f"{path}.weight", (out, into), component, role, True),
        Tensor(f"{path}.bias", (out,), component, "bias"),
    )


@dataclass(frozen=True, slots=True)
class EncoderAttention(Attention):
    """Attention over the whole sequence; eager's softmax stays in the dtype of the weights.

    stored   further tensors
    lasting  whether the eager program holds the scores until the heads are joined
    widened  whether queries and keys are rotated in float32
    """

    stored: tuple[Tensor, ...] = ()
    lasting: bool = False
    widened: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """Four matrices, their biases, and what else it holds."""
        return (*Attention.tensors(self), *self.stored)

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
        if self.rotary_dim:
            q, k = (self._turned(tape, each) for each in (q, k))
        if tape.mode.attention == "eager":
            return plain_eager(tape, q, k, v, self, lasting=self.lasting)
        return attend(tape, q, k, v, self)

    def _turned(self, tape: Tape, x: Value) -> Value:
        if not self.widened:
            return self.rotate(tape, x)
        wide = tape.cast(x, FLOAT)
        return tape.cast(self.rotate(tape, wide), x.dtype)


def last(name: str) -> str:
    """The last part of a module's path.

    >>> last("self.query")
    'query'
    """
    return name.rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class ReachingAttention(EncoderAttention):
    """Every token attends to a fixed number of others, in chunks that overlap (Longformer, BigBird).

    reach   how many
    """

    reach: int = 1

    def attended(self, tape: Tape, x: Value) -> Value:
        """Scores of a row for each token and head, softmax in float32, and the values they weigh."""
        rows, narrow = tape.mode.queries, self.bias
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, narrow, last(self.names.query)))
        k = tape.turn(tape.linear(x, self.hidden, self.key_width, narrow, last(self.names.key)))
        v = tape.turn(tape.linear(x, self.hidden, self.key_width, narrow, last(self.names.value)))
        key, value = (tape.gather(each, scaled(each.elements, 2)) for each in (k, v))
        weights = tape.scale(tape.matmul(q, key, scaled(rows, self.heads * self.reach)))
        weights = tape.cast(tape.softmax(tape.cast(weights, FLOAT)), q.dtype)
        weights = tape.dropout(weights, self.dropout)
        return tape.copy(tape.turn(tape.matmul(weights, value, q.elements)))


@dataclass(frozen=True, slots=True)
class EncoderBlock(Block):
    """norm(x + dropout(mixer(x))), then norm(y + dropout(feed_forward(y))): BERT.

    dropout   rate after both
    stored    further tensors
    owner     whether the parameters are this layer's own, or those of an earlier one (ALBERT)
    """

    dropout: float = 0.0
    stored: tuple[Tensor, ...] = ()
    owner: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        return (*Block.tensors(self), *self.stored) if self.owner else ()

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BertAttention.forward and BertLayer.feed_forward_chunk."""
        assert self.mixer is not None and self.feed_forward is not None
        tape.borrowing = not self.owner
        y = self._attended(tape, x)
        wide = self.feed_forward.widened(tape, y)
        out = self._summed(tape, self.feed_forward.narrowed(tape, wide), y, self.norms[1])
        tape.borrowing = False
        return out

    def _attended(self, tape: Tape, x: Value) -> Value:
        assert self.mixer is not None
        y = self.mixer.attended(tape, x)
        return self._summed(tape, self.mixer.joined(tape, y), x, self.norms[0])

    def _summed(self, tape: Tape, y: Value, x: Value, norm: Norm) -> Value:
        y = tape.dropout(y, self.dropout)
        return norm.forward(tape, tape.add(y, x))


@dataclass(frozen=True, slots=True)
class StatedBlock(EncoderBlock):
    """A layer whose tensors are stated one by one; its activations are answered by BERT's program at its sizes."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Those that are stated."""
        return self.stored


@dataclass(frozen=True, slots=True)
class EarlyNormBlock(EncoderBlock):
    """x + dropout(mixer(norm(x))), then y + dropout(feed_forward(norm(y))): Megatron-BERT, XLM-RoBERTa XL, ESM.

    inside    whether what the second norm gives has no name once the first matrix is through
    fed_dropout   whether the feed-forward layer has dropout
    """

    inside: bool = False
    fed_dropout: bool = True

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MegatronBertAttention.forward and MegatronBertLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        y = self._attended(tape, x)
        normed: Value | None = self.norms[1].forward(tape, y)
        wide = self.feed_forward.widened(tape, normed)
        if self.inside:
            normed = None
        out = self.feed_forward.narrowed(tape, wide)
        result = tape.add(y, tape.dropout(out, self.dropout if self.fed_dropout else 0.0))
        del normed
        return result

    def _attended(self, tape: Tape, x: Value) -> Value:
        assert self.mixer is not None
        normed = self.norms[0].forward(tape, x)
        y = self.mixer.joined(tape, self.mixer.attended(tape, normed))
        return tape.add(x, tape.dropout(y, self.dropout))


@dataclass(frozen=True, slots=True)
class RotaryEncoderBlock(Block):
    """norm(x + dropout(mixer(x))), then norm(y + dropout(feed_forward(y))), residuals in names of their own: Nomic
    BERT, GTE, Jina v3.

    dropout   rate after both
    """

    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' NomicBertLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        attended = self.mixer.forward(tape, x)
        x = tape.add(residual, tape.dropout(attended, self.dropout))
        x = self.norms[0].forward(tape, x)
        residual = x
        x = self.feed_forward.forward(tape, x)
        x = tape.add(residual, tape.dropout(x, self.dropout))
        out = self.norms[1].forward(tape, x)
        del attended  # its name stays until the layer is through
        return out


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
    inner        width it comes down to, 0 for that of the layers
    biased       whether the first matrix has a bias
    norm_bias    whether the norm has
    shifted      whether the matrix to the vocabulary has
    stored       further tensors
    """

    activation: str = "gelu"
    transform: str = "cls.predictions.transform.dense"
    transform_norm: str = "cls.predictions.transform.LayerNorm"
    inner: int = 0
    biased: bool = True
    norm_bias: bool = True
    shifted: bool = True
    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """The matrix before the vocabulary, its norm, and a bias as long as the vocabulary."""
        wide, rows, inner = self.width, self.vocabulary, self.inner or self.width
        made = [*(self.norm.tensors() if self.norm is not None else ())]
        made.append(Tensor(f"{self.transform}.weight", (inner, wide), "lm_head", "other", True))
        if self.biased:
            made.append(Tensor(f"{self.transform}.bias", (inner,), "lm_head", "bias"))
        made.append(Tensor(f"{self.transform_norm}.weight", (inner,), "lm_head", "norm"))
        if self.norm_bias:
            made.append(Tensor(f"{self.transform_norm}.bias", (inner,), "lm_head", "norm"))
        if self.shifted:
            made.append(Tensor("cls.predictions.bias", (rows,), "lm_head", "bias"))
        if not self.tied:
            made.append(Tensor(f"{self.name}.weight", (rows, inner), "lm_head", "output", True))
        return (*made, *self.stored)

    def final(self, tape: Tape, x: Value) -> Value:
        """What the encoder gives, normed where its layers leave that to the end."""
        return x if self.norm is None else self.norm.forward(tape, x)

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """For every position, whatever was asked for: an encoder has no last token."""
        rows, inner = tape.mode.queries, self.inner or self.width
        x = tape.linear(x, self.width, inner, self.biased, "", rows)
        x = activate(tape, x, self.activation)
        x = LayerNorm(inner, bias=self.norm_bias).forward(tape, x)
        return tape.linear(x, inner, self.vocabulary, self.shifted, "", rows)


@dataclass(frozen=True, slots=True)
class BareHead(Head):
    """None: an encoder whose hidden states are its result, normed where its layers leave that to the end.

    stored   tensors beside it
    """

    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """The norm alone."""
        return (*(self.norm.tensors() if self.norm is not None else ()), *self.stored)

    def final(self, tape: Tape, x: Value) -> Value:
        """What the encoder gives."""
        return x if self.norm is None else self.norm.forward(tape, x)

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """The hidden states themselves."""
        return tape.view(x)


@dataclass(frozen=True, slots=True)
class PoolingHead(Head):
    """A matrix and tanh on the first token: an encoder without a head over the vocabulary.

    stored   tensors beside it
    """

    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Width × width and its bias."""
        return (
            *(self.norm.tensors() if self.norm is not None else ()),
            *self.stored,
            Tensor("pooler.dense.weight", (self.width, self.width), "other", "other", True),
            Tensor("pooler.dense.bias", (self.width,), "other", "bias"),
        )

    def final(self, tape: Tape, x: Value) -> Value:
        """What the encoder gives, normed where its layers leave that to the end."""
        return x if self.norm is None else self.norm.forward(tape, x)

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """One vector a sequence."""
        first: Size = (0, 1, 0, 0, 0, 0)
        token = tape.slice(x, scaled(first, self.width))
        return tape.unary_output(tape.linear(token, self.width, self.width, True, "", first))


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


# ---------------------------------------------------------------------- later ones


@dataclass(frozen=True, slots=True)
class NarrowEmbedding(EncoderEmbedding):
    """A narrow table whose rows, with those of their neighbours, are brought to the width of the layers first, to which
    positions and types are added (MobileBERT).

    times   rows side by side
    """

    times: int = 1

    def tensors(self) -> tuple[Tensor, ...]:
        """The tables, the matrix, the norm."""
        wide = self.projected
        return (
            Tensor(f"{self.name}.weight", (self.vocabulary, self.width), "embedding", "embedding"),
            Tensor(f"{self.position_name}.weight", (self.positions, wide), "embedding", "position"),
            Tensor(f"{self.type_name}.weight", (self.types, wide), "embedding", "position"),
            *dense(self.projection, wide, self.times * self.width, "other"),
            *(self.norm.tensors() if self.norm is not None else ()),
        )

    def forward(self, tape: Tape) -> Value:
        """With the local variables of transformers' MobileBertEmbeddings.forward."""
        rows, wide = tape.mode.queries, self.projected
        x = tape.embed(rows, self.vocabulary, self.width)
        if self.times > 1:
            x = tape.gather(x, scaled(rows, self.times * self.width))
        x = tape.linear(x, self.times * self.width, wide, True, last(self.projection))
        x = tape.add(x, tape.embed(tape.mode.query_positions, self.positions, wide))
        if self.types:
            x = tape.add(x, tape.embed(rows, self.types, wide))
        if self.norm is not None:
            x = self.norm.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        tape.held.append(x)
        return x


@dataclass(frozen=True, slots=True)
class DistantAttention(EncoderAttention):
    """Scores of contents, and of contents with distances, which are gathered to the pairs they belong to: DeBERTa.

    span    rows of the table of distances, 0 where attention is not relative
    kinds   how many scores with distances are added
    """

    span: int = 0
    kinds: int = 0

    def attended(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DisentangledSelfAttention.forward."""
        mode = tape.mode
        q, k, v = (tape.copy(tape.turn(each)) for each in self._projected(tape, x))
        weights = tape.matmul(q, tape.scale(k), scaled(mode.scores, self.heads))
        if self.span and self.kinds:
            weights = tape.add(weights, self._distant(tape, q, k))
        filling = tape.new(mode.scores, BOOL)
        weights = tape.operate(weights.elements, weights.dtype, (weights,), (filling,))
        weights = tape.softmax(weights)
        weights = tape.dropout(weights, self.dropout)
        return tape.copy(tape.turn(tape.matmul(weights, v, q.elements)))

    def _projected(self, tape: Tape, x: Value) -> tuple[Value, ...]:
        names, rows = self.names, scaled(tape.mode.queries, self.key_width)
        if names.fused:
            joined = tape.linear(x, self.hidden, 3 * self.key_width, False, last(names.fused))
            return tape.split(joined, rows, rows, rows)
        return tuple(
            tape.linear(x, self.hidden, self.key_width, True, last(name))
            for name in (names.query, names.key, names.value)
        )

    def _distant(self, tape: Tape, q: Value, k: Value) -> Value:
        mode, rows = tape.mode, (self.span, 0, 0, 0, 0, 0)
        total: Value | None = None
        kept: list[Value] = []
        for each in (q, k)[: self.kinds]:
            distances = tape.embed(rows, self.span, self.hidden)
            place = tape.linear(distances, self.hidden, self.key_width, True, "", rows)
            every = tape.gather(place, (0, self.span * self.key_width, 0, 0, 0, 0))
            scores = tape.matmul(each, every, scaled(mode.queries, self.heads * self.span))
            found = tape.new(mode.mask, LONG)
            kept.append(found)
            picked = tape.operate(scaled(mode.scores, self.heads), scores.dtype, (scores,), (scores, found), as_inputs)
            kept.append(picked)
            picked = tape.scale(picked)
            total = picked if total is None else tape.add_into(total, picked)
        assert total is not None
        kept.clear()  # each has a name of its own until all are summed
        return total


@dataclass(frozen=True, slots=True)
class ShiftedAttention(EncoderAttention):
    """Scores of contents, of every distance, shifted to the pairs they belong to, and of segments, which are summed;
    softmax in float32 where `widened`: XLNet, Funnel Transformer."""

    def attended(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' FunnelRelMultiheadAttention.forward."""
        mode = tape.mode
        every = scaled(mode.scores, self.heads)
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, False, last(self.names.query)))
        k = tape.turn(tape.linear(x, self.hidden, self.key_width, True, last(self.names.key)))
        v = tape.turn(tape.linear(x, self.hidden, self.key_width, True, last(self.names.value)))
        contents = tape.matmul(tape.shift(q), k, every)
        table = tape.new(scaled(mode.query_positions, 2 * self.query_width), q.dtype)
        placed = tape.matmul(tape.shift(q), table, scaled(every, 2))
        placed = tape.gather(placed, every)
        segments = tape.gather(
            tape.matmul(tape.shift(q), tape.parameter(2 * self.query_width), _two(self, mode)), every
        )
        weights = tape.add(tape.add(contents, placed), segments)
        dtype = weights.dtype
        if self.widened:
            weights = tape.cast(weights, FLOAT)
        chances = tape.cast(tape.softmax(weights), dtype)
        chances = tape.dropout(chances, self.dropout)
        out = tape.copy(tape.turn(tape.matmul(chances, v, q.elements)))
        del contents, placed, segments, weights
        return out


def _two(layer: Attention, mode: Mode) -> Size:
    """Scores of two segments for every token and head."""
    return scaled(mode.queries, 2 * layer.heads)


@dataclass(frozen=True, slots=True)
class HalfBiasedFeedForward(GatedFeedForward):
    """A gated feed-forward layer of which the last matrix alone has a bias, dropout before it (GTE).

    dropout   its rate
    """

    dropout: float = 0.0

    def tensors(self) -> tuple[Tensor, ...]:
        """Three matrices and one bias."""
        bias = Tensor(f"{self.prefix}.{self.down}.bias", (self.hidden,), self.component, "bias")
        return (*GatedFeedForward.tensors(self), bias)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GteMLP.forward."""
        made = tape.dropout(self._product(tape, x), self.dropout)
        return tape.linear(made, self.intermediate, self.hidden, True, self.down)


@dataclass(frozen=True, slots=True)
class JoinedAttention(EncoderAttention):
    """One matrix for queries, keys and values, which are rotated in float32: ModernBERT."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' ModernBertAttention.forward."""
        joined = tape.linear(x, self.hidden, 3 * self.query_width, self.bias, str(self.names.fused))
        part = scaled(tape.mode.queries, self.query_width)
        q, k, v = tape.split(joined, part, part, part)
        q, k = (self._turned(tape, each) for each in (q, k))
        y = eager(tape, q, k, v, self) if tape.mode.attention == "eager" else attend(tape, q, k, v, self)
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del joined
        return tape.dropout(y, self.output_dropout)


@dataclass(frozen=True, slots=True)
class FusedFeedForward(GatedFeedForward):
    """Gate and input from one matrix, dropout before the last: ModernBERT."""

    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' ModernBertMLP.forward."""
        wide = scaled(tape.mode.queries, self.intermediate)
        joined = tape.linear(x, self.hidden, 2 * self.intermediate, self.bias, str(self.fused))
        value, gate = tape.split(joined, wide, wide)
        del joined
        y = tape.multiply(activate(tape, value, self.activation), gate)
        y = tape.dropout(y, self.dropout)
        return tape.linear(y, self.intermediate, self.hidden, self.bias, self.down)


@dataclass(frozen=True, slots=True)
class InlineBlock(Block):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)), written without a name for the norm's result; the first layer
    may lack the first norm: ModernBERT."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' ModernBertEncoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        attended = self.mixer.forward(tape, self.norms[0].forward(tape, x) if len(self.norms) > 1 else x)
        x = tape.add(x, attended)
        out = tape.add(x, self.feed_forward.forward(tape, self.norms[-1].forward(tape, x)))
        del attended
        return out
