"""Attention whose output is gated or scaled by what the layer sees, and blocks around it."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, Node, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from .attention import Attention, _repeated, attend, divided, mask_of, remember, rotated, score_entries
from .blocks import Block
from .sinks import sunk


@dataclass(frozen=True, slots=True)
class OutputGatedAttention(Attention):
    """A sigmoid of a matrix as wide as the heads weighs what they give. [AFM: Trinity]

    gate      name of the matrix
    adapted   False where adapters leave layers of that name to the stacks of experts
    """

    gate: str = "gate_proj"
    adapted: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """And the gate's matrix."""
        shape, picked = (self.query_width, self.hidden), None if self.adapted else ()
        path = f"{self.prefix}.{self.gate}.weight"
        gate = Tensor(path, shape, "attention", "other", True, Cut.TENSOR, self.heads, targets=picked)
        return (*super(OutputGatedAttention, self).tensors(), gate)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' AfmoeAttention.forward."""
        assert self.query_norm is not None and self.key_norm is not None
        q = tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query)
        k = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.key)
        v = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value)
        gate = tape.linear(x, self.hidden, self.query_width, False, self.gate if self.adapted else "")
        q = tape.turn(self.query_norm.forward(tape, q, self.heads))
        k = tape.turn(self.key_norm.forward(tape, k, self.kv_heads))
        v = tape.turn(v)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = tape.multiply(y, tape.unary_output(gate))
        result = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del q, k, v, gate, y
        return result


@dataclass(frozen=True, slots=True)
class SoftplusGatedAttention(Attention):
    """A softplus in float32, of one figure a head or of one an element, weighs what the heads give. [Laguna]

    per_head   which of the two
    """

    per_head: bool = True

    @property
    def gate_width(self) -> int:
        """Figures of a token's gate."""
        return self.heads if self.per_head else self.query_width

    def tensors(self) -> tuple[Tensor, ...]:
        """And the gate's matrix."""
        shape = (self.gate_width, self.hidden)
        gate = Tensor(f"{self.prefix}.g_proj.weight", shape, "attention", "other", True, Cut.TENSOR, self.heads)
        return (*super(SoftplusGatedAttention, self).tensors(), gate)

    def rotate(self, tape: Tape, x: Value) -> Value:
        """Joined from the rotated and the passing part, even where nothing passes."""
        return joined_rotation(tape, x, self)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' LagunaAttention.forward."""
        assert self.query_norm is not None and self.key_norm is not None
        q = tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query)
        k = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.key)
        v = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value)
        q = tape.turn(self.query_norm.forward(tape, q, self.heads))
        k = tape.turn(self.key_norm.forward(tape, k, self.kv_heads))
        v = tape.turn(v)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        gate = tape.cast(tape.linear(x, self.hidden, self.gate_width, False, "g_proj"), FLOAT)
        gate = tape.cast(tape.unary(gate), y.dtype)
        y = tape.multiply(y, gate)
        result = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del q, k, v, gate, y
        return result


def joined_rotation(tape: Tape, x: Value, layer: Attention) -> Value:
    """The rotated part of each head beside the passing one, joined by a copy even where nothing passes."""
    heads = divided(x.elements, layer.head_dim)
    width = layer.head_dim if layer.rotary_dim is None else layer.rotary_dim
    turning, passing = tape.slice(x, scaled(heads, width)), tape.slice(x, scaled(heads, layer.head_dim - width))
    cos, sin = (tape.shared[name] for name in layer.tables)
    return tape.concatenate(rotated(tape, turning, cos, sin), passing)


@dataclass(frozen=True, slots=True)
class SinkScaledAttention(Attention):
    """What the heads give is scaled by a sigmoid of their scores' log-sum less a learned sink; Python alone.
    [Granite Swash]"""

    sinks: bool = True

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GraniteSWAAttention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = self._attend(tape, q, k, v)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _attend(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        groups, rows = self.heads // self.kv_heads, scaled(tape.mode.queries, self.heads)
        key, value = _repeated(tape, k, groups, self), _repeated(tape, v, groups, self)
        weights = tape.scale(tape.matmul(q, key, score_entries(tape.mode, self)))
        mask = tape.shared.get(mask_of(self.window))
        if mask is not None:
            weights = tape.add(weights, mask)
        total = log_sum(tape, weights, rows)
        less = tape.operate(rows, total.dtype, (total, sunk(tape, rows, self.heads)), (), None)
        factor = tape.unary_output(tape.cast(less, FLOAT))
        del less
        weights = tape.cast(tape.softmax(tape.cast(weights, FLOAT)), q.dtype)
        weights = tape.dropout(weights, self.dropout)
        tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
        out = tape.matmul(weights, value, q.elements)
        out = tape.multiply(out, tape.cast(factor, out.dtype))
        result = tape.copy(tape.turn(out))
        del key, value, total, factor, weights, out
        return result


@dataclass(frozen=True, slots=True)
class WideSinkAttention(Attention):
    """Scores in float32 even under autocast, beside them a learned sink that takes weight; Python alone. [Flint]"""

    sinks: bool = True

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' FlintAttention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = self._attend(tape, q, k, v)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _attend(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        groups = self.heads // self.kv_heads
        key, value = _repeated(tape, k, groups, self), _repeated(tape, v, groups, self)
        entries = score_entries(tape.mode, self)
        weights = tape.scale(tape.matmul(tape.cast(q, FLOAT), tape.cast(key, FLOAT), entries, inside=True))
        mask = tape.shared.get(mask_of(self.window))
        if mask is not None:
            weights = tape.add(weights, mask)
        sink = sunk(tape, scaled(tape.mode.queries, self.heads), self.heads)
        chances = tape.softmax(tape.concatenate(weights, sink))
        weights = tape.cast(tape.slice(chances, entries, dense=True), value.dtype)
        del chances
        weights = tape.dropout(weights, self.dropout)
        tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
        out = tape.matmul(weights, value, q.elements)
        result = tape.copy(tape.turn(out))
        del key, value, sink, weights, out
        return result


def log_sum(tape: Tape, scores: Value, rows: Size) -> Value:
    """log Σ exp over the last dimension: the exponentials are made for the sum and again for the gradient."""
    largest = tape.new(rows, scores.dtype)
    powers = tape.new(scores.elements, scores.dtype)
    del powers
    out = tape.operate(rows, scores.dtype, (scores,), (scores,), _log_sum_gradient, save_output=True)
    del largest
    return out


def _log_sum_gradient(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """grad · exp(x - log-sum): the difference, its power and the product."""
    link = node.inputs[0]
    assert link is not None
    difference = tape.new(link[2], link[3])
    power = tape.new(link[2], link[3])
    del difference
    result = tape.new(link[2], link[3])
    del power
    return [result]


@dataclass(frozen=True, slots=True)
class ScaledSandwichBlock(Block):
    """x + c · norm(mixer(norm(x))), then x + c · norm(feed_forward(norm(x))): HyperCLOVA X."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' HyperCLOVAXDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        for before, part, after in (
            (self.norms[0], self.mixer, self.norms[1]),
            (self.norms[2], self.feed_forward, self.norms[3]),
        ):
            residual = x
            x = before.forward(tape, x)
            x = part.forward(tape, x)
            x = after.forward(tape, x)
            x = tape.add(residual, tape.scale(x))
        return x
