"""Encoders: BERT's layers as transformers has them."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import Size, Tape, Value, scaled
from ..tensors import Tensor
from .attention import Attention, attend
from .blocks import Block
from .crossed import plain_eager
from .ends import Embedding, Head
from .feed_forward import FeedForward, activate
from .norms import LayerNorm, Norm

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
