"""Attention that rotates part of each head, or rotates in another precision; and the norms that go with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, Node, Tape, Value, scaled
from ..tensors import Tensor
from .attention import Attention, attend, divided, remember, rotated
from .blocks import Block
from .norms import LayerNorm, Norm, statistics_rows


@dataclass(frozen=True, slots=True)
class PartlyRotated(Attention):
    """Rotates the first dimensions of each head; the rotated parts keep their names until the layer is through.

    (transformers' PhiAttention, StableLmAttention)
    """

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of PhiAttention.forward."""
        q, k, v = self.project(tape, x)
        turned = self.head_dim if self.rotary_dim is None else self.rotary_dim
        q_part, q_rest = _sliced(tape, q, self.head_dim, turned)
        k_part, k_rest = _sliced(tape, k, self.head_dim, turned)
        q_part, k_part = self._turned(tape, q_part, k_part)
        q = tape.concatenate(q_part, q_rest)
        k = tape.concatenate(k_part, k_rest)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del q_part, k_part, q_rest, k_rest
        return y

    def _turned(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        cos, sin = (tape.shared[name] for name in self.tables)
        return rotated(tape, q, cos, sin), rotated(tape, k, cos, sin)


@dataclass(frozen=True, slots=True)
class PairwiseRotated(Attention):
    """Rotates pairs of neighbours in part of each head, by tables made in each layer. (transformers' GlmAttention)"""

    def rotate_both(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        """With the local variables of its apply_rotary_pos_emb."""
        turned = self.head_dim if self.rotary_dim is None else self.rotary_dim
        made = [tape.new(scaled(tape.mode.query_positions, turned), tape.shared[name].dtype) for name in self.tables]
        cos, sin = made
        q_part, q_rest = _sliced(tape, q, self.head_dim, turned)
        k_part, k_rest = _sliced(tape, k, self.head_dim, turned)
        q = rotated(tape, q_part, cos, sin)
        k = rotated(tape, k_part, cos, sin)
        q = tape.concatenate(q, q_rest)
        return q, tape.concatenate(k, k_rest)


@dataclass(frozen=True, slots=True)
class RotatedInFloat(Attention):
    """Rotates in float32. (transformers' CohereAttention)"""

    def rotate_both(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        """With the local variables of its apply_rotary_pos_emb."""
        dtype = q.dtype
        q, k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
        cos, sin = (tape.shared[name] for name in self.tables)
        turned_q = rotated(tape, q, cos, sin)
        turned_k = rotated(tape, k, cos, sin)
        return tape.cast(turned_q, dtype), tape.cast(turned_k, dtype)


@dataclass(frozen=True, slots=True)
class ClippedAttention(Attention):
    """Queries, keys and values are clipped in place. (transformers' OlmoAttention)"""

    def project(self, tape: Tape, x: Value) -> tuple[Value, Value, Value]:
        """Autograd keeps what they were before."""
        q = tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query)
        k = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.key)
        v = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value)
        q, k, v = _clipped(tape, q), _clipped(tape, k), _clipped(tape, v)
        return tape.turn(q), tape.turn(k), tape.turn(v)


def _clipped(tape: Tape, x: Value) -> Value:
    saved = (tape.new(x.elements, x.dtype),) if tape.recording and x.node is not None else ()
    return tape.attach(Value(x.elements, x.dtype, x.storage, dense=x.dense), (x,), saved)


def _sliced(tape: Tape, x: Value, head_dim: int, turned: int) -> tuple[Value, Value]:
    heads = divided(x.elements, head_dim)
    return tape.slice(x, scaled(heads, turned)), tape.slice(x, scaled(heads, head_dim - turned))


# ---------------------------------------------------------------------- norms


@dataclass(frozen=True, slots=True)
class CenteredNorm(Norm):
    """A layer norm without bias in Python, in float32. (transformers' CohereLayerNorm)

    heads   rows of the weights where each head has its own, else 0
    """

    heads: int = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """A weight of the width, for each head where they differ."""
        shape = (self.heads, self.width) if self.heads else (self.width,)
        return (Tensor(f"{self.name}.weight", shape, "norm", "norm"),)

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x less its mean twice and the normalized x, all in float32."""
        dtype, per_row = x.dtype, statistics_rows(x, self.width)
        x = tape.cast(x, FLOAT)
        mean = tape.mean(x, per_row)
        variance = tape.mean(tape.power(_less(tape, x, mean)), per_row)
        x = tape.multiply(_less(tape, x, mean), tape.unary_output(tape.shift(variance)))
        weight = tape.cast(tape.parameter(self.width * max(self.heads, 1)), FLOAT)
        x = tape.multiply(x, weight)
        return tape.cast(x, dtype)


def _less(tape: Tape, a: Value, b: Value) -> Value:
    """a - b, b a figure a row: its gradient is negated whole and then summed."""
    return tape.operate(a.elements, a.dtype, (a, b), (), _negated_and_summed, dense=a.dense)


def _negated_and_summed(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    grad = grads[0]
    assert grad is not None
    first, second = node.inputs
    passed = None if first is None else Value(grad.elements, grad.dtype, grad.storage)
    if second is None:
        return [passed, None]
    negated = tape.new(grad.elements, grad.dtype)
    summed = tape.new(second[2], second[3])
    del negated
    return [passed, summed]


@dataclass(frozen=True, slots=True)
class PlainLayerNorm(Norm):
    """A layer norm without weights, in float32. (transformers' OlmoLayerNorm)"""

    affine: bool = False

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x in float32, and its mean and rstd."""
        dtype, per_row = x.dtype, statistics_rows(x, self.width)
        raised = tape.cast(x, FLOAT)
        out = tape.new(x.elements, FLOAT)
        mean, rstd = tape.new(per_row, FLOAT), tape.new(per_row, FLOAT)
        out = tape.attach(out, (raised,), (raised, mean, rstd))
        del raised
        return tape.cast(out, dtype)


@dataclass(frozen=True, slots=True)
class ScatteredNorm(Norm):
    """A layer norm over each head, then a weight and a bias that every head has for itself. (transformers'
    ChameleonLayerNorm)"""

    heads: int = 1

    def tensors(self) -> tuple[Tensor, ...]:
        """A weight and a bias of the full width."""
        shape = (self.heads, self.width)
        return Tensor(f"{self.name}.weight", shape, "norm", "norm"), Tensor(f"{self.name}.bias", shape, "norm", "norm")

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x, its mean and rstd, and the normalized x that the weight multiplies."""
        per_row = statistics_rows(x, self.width)
        out = tape.new(x.elements, x.dtype)
        mean, rstd = tape.new(per_row, FLOAT), tape.new(per_row, FLOAT)
        x = tape.attach(out, (x,), (x, mean, rstd))
        del out, mean, rstd
        x = tape.multiply(x, tape.parameter(self.width * self.heads))
        return tape.add(x, tape.parameter(self.width * self.heads))


@dataclass(frozen=True, slots=True)
class HeadNorms(Norm):
    """A layer norm without bias for each head, one after the other. (transformers' StableLmLayerNormPerHead)"""

    heads: int = 1

    def tensors(self) -> tuple[Tensor, ...]:
        """A weight a head."""
        return (Tensor(f"{self.name}.norms.weight", (self.width,), "norm", "norm", count=self.heads),)

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Heads are taken apart by views, normed, and joined."""
        one = divided(x.elements, self.heads)
        parts = tape.split(x, *(one,) * self.heads)
        norm = LayerNorm(self.width, self.name, bias=False)
        return tape.concatenate(*(norm.forward(tape, part) for part in parts))


# ---------------------------------------------------------------------- blocks


@dataclass(frozen=True, slots=True)
class StableLMBlock(Block):
    """x + attention(norm(x)), then x + feed_forward(norm(x)). (transformers' StableLmDecoderLayer)"""

    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With its local variables; a call holds its arguments until it returns."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        attended = self.mixer.forward(tape, x)
        residual = tape.add(residual, attended)
        argument = self.norms[1].forward(tape, residual)
        made = self.feed_forward.forward(tape, argument)
        del argument
        made = tape.dropout(made, self.dropout)
        return tape.add(residual, made)
