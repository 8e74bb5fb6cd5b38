"""Attention of families with experts where it differs: a learned sink for each head, a clamp on q, k and v."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import LONG, Size, Tape, Value, as_inputs, scaled
from .attention import Attention, _repeated, remember
from .latent import subtract, turned


@dataclass(frozen=True, slots=True)
class SinkAttention(Attention):
    """Grouped attention whose softmax has one entry more: the sink, which takes weight and gives no value.
    [arXiv:2309.17453, GPT-OSS]

    transformers runs it in Python alone; the softmax stays in the dtype of the scores, whose largest is taken off
    first. Rotary
    tables hold one half, and the halves of a head are turned apart.
    """

    sinks: bool = True

    def forward(self, tape: Tape, x: Value) -> Value:
        """x: the hidden states. Returns as much."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate(tape, q), self.rotate(tape, k)
        k, v = remember(tape, k, v, self)
        y = self.attend(tape, q, k, v)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def rotate(self, tape: Tape, x: Value) -> Value:
        """(first · cos - second · sin) beside (second · cos + first · sin)."""
        a, b, c, d, e, f = x.elements
        half = (a // 2, b // 2, c // 2, d // 2, e // 2, f // 2)
        first, second = tape.split(x, half, half)
        return turned(tape, first, second, tape.shared["cos"], tape.shared["sin"])

    def attend(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        """With the local variables of transformers' eager_attention_forward of GPT-OSS."""
        mode, groups = tape.mode, self.heads // self.kv_heads
        key, value = _repeated(tape, k, groups, self), _repeated(tape, v, groups, self)
        weights = tape.scale(tape.matmul(q, key, scaled(mode.scores, self.heads)))
        mask = tape.shared.get("mask" if self.window is None else "window_mask")
        if mask is not None:
            weights = tape.add(weights, mask)
        sink = sunk(tape, scaled(mode.queries, self.heads), self.heads)
        joined = tape.concatenate(weights, sink)
        joined = subtract(tape, joined, largest(tape, joined, self.heads))
        chances = tape.unary_output(joined)
        kept = tape.slice(chances, weights.elements, dense=True)
        weights = tape.cast(kept, value.dtype)
        tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
        out = tape.matmul(weights, value, q.elements)
        result = tape.copy(tape.turn(out))
        del key, value, weights, sink, joined, chances, kept, out
        return result


def sunk(tape: Tape, elements: Size, heads: int) -> Value:
    """The sinks seen for every query: a view, whose gradient is summed."""
    sinks = tape.parameter(heads)
    return tape.attach(Value(elements, sinks.dtype, None), (sinks,), (), as_inputs)


def largest(tape: Tape, scores: Value, heads: int) -> Value:
    """The largest score of each head and query; its place is saved."""
    rows = scaled(tape.mode.queries, heads)
    places = tape.new(rows, LONG)
    return tape.operate(rows, scores.dtype, (scores,), (places,), as_inputs)


@dataclass(frozen=True, slots=True)
class ClampedAttention(Attention):
    """q, k and v from one matrix whose result is clamped, out of place. [DBRX]"""

    def project(self, tape: Tape, x: Value) -> tuple[Value, Value, Value]:
        """Keeps what is clamped."""
        wide, narrow, rows = self.query_width, self.key_width, tape.mode.queries
        joined = tape.linear(x, self.hidden, wide + 2 * narrow, self.bias, self.names.fused or "")
        joined = tape.unary(joined)
        q, k, v = tape.split(joined, scaled(rows, wide), scaled(rows, narrow), scaled(rows, narrow))
        return q, k, v
