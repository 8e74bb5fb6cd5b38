"""Llama 4: experts that each see every token, attention in chunks, queries scaled where there are no positions."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, HALF, LONG, Tape, Value, as_inputs, scaled
from ..tensors import Tensor
from .attention import Attention, attend, remember
from .blocks import Block
from .experts import Experts
from .feed_forward import GatedFeedForward, activate
from .norms import RMSNorm


@dataclass(frozen=True, slots=True)
class ComplexAttention(Attention):
    """Grouped attention with complex rotary products in float32 before heads and positions change places.

    unit_norm   whether q and k are normed without weights after that
    stretched   whether queries are multiplied by a figure for each position, in float32 (layers without rotary
    positions)
    """

    unit_norm: bool = False
    stretched: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Llama4TextAttention.forward."""
        q = tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query)
        k = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.key)
        v = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value))
        if self.rotary_dim != 0:
            q, k = self._turned(tape, q, k)
        if self.unit_norm:
            norm = RMSNorm(self.head_dim, "qk_norm", affine=False)
            q = norm.forward(tape, q, self.heads)
            k = norm.forward(tape, k, self.kv_heads)
        if self.stretched:
            figure = tape.new(tape.mode.query_positions, FLOAT)
            q = tape.cast(tape.multiply(q, figure), q.dtype)
            del figure
        q, k = tape.turn(q), tape.turn(k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _turned(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        table = tape.shared["frequencies"]
        wide_q, wide_k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
        out_q, out_k = tape.multiply(wide_q, table), tape.multiply(wide_k, table)
        made = tape.cast(out_q, q.dtype), tape.cast(out_k, k.dtype)
        del wide_q, wide_k, out_q, out_k
        return made


@dataclass(frozen=True, slots=True)
class RepeatedMixture:
    """Every token goes to every expert, scaled by its score, which is 0 for experts that were not chosen; a shared
    expert
    beside them."""

    experts: Experts
    shared: GatedFeedForward
    router: str = "feed_forward.router"

    def tensors(self) -> tuple[Tensor, ...]:
        """Router, stacks, shared expert."""
        inner = self.experts
        shape = (inner.experts, inner.hidden)
        weight = Tensor(f"{self.router}.weight", shape, "router", "router", True)
        return (weight, *inner.tensors(), *self.shared.tensors())

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Llama4TextMoe.forward."""
        inner = self.experts
        count = inner.experts
        scores, logits = self._scores(tape, x)
        routed = tape.operate(scaled(x.elements, count), x.dtype, (x,), (), as_inputs)
        flat = tape.operate(scores.elements, scores.dtype, (scores,), (), as_inputs)
        routed = tape.multiply(routed, flat)
        del flat
        made = self._experts(tape, routed)
        out = self.shared.forward(tape, x)
        total = tape.operate(x.elements, made.dtype, (made,), (), as_inputs)
        out = tape.attach(Value(out.elements, out.dtype, out.storage), (out, total), (), None)
        del total, routed, made, scores, logits
        return out

    def _scores(self, tape: Tape, x: Value) -> tuple[Value, Value]:
        inner, rows = self.experts, tape.mode.queries
        logits = tape.linear(x, inner.hidden, inner.experts, False, "router")
        places = tape.new(scaled(rows, inner.chosen), LONG)
        values = tape.operate(places.elements, logits.dtype, (logits,), (places,), as_inputs)
        scores = tape.operate(logits.elements, logits.dtype, (values,), (places,), as_inputs)
        scores = tape.cast(tape.unary_output(tape.cast(scores, FLOAT)), scores.dtype)
        del values, places
        return scores, logits

    def _experts(self, tape: Tape, x: Value) -> Value:
        inner = self.experts
        rows = scaled(tape.mode.queries, inner.experts)
        wide = scaled(rows, inner.intermediate)
        both = tape.parameter(inner.experts * inner.hidden * 2 * inner.intermediate)
        joined = self._batched(tape, x, both, scaled(rows, 2 * inner.intermediate))
        gate, up = tape.split(joined, wide, wide, dense=True)
        product = tape.multiply(up, activate(tape, gate, inner.activation))
        down = tape.parameter(inner.experts * inner.hidden * inner.intermediate)
        result = self._batched(tape, product, down, scaled(rows, inner.hidden))
        del joined, gate, up
        return result

    def _batched(self, tape: Tape, x: Value, weight: Value, elements: tuple[int, int, int, int, int, int]) -> Value:
        if tape.mode.autocast:
            x = tape.cast(x, HALF)
        weight = tape.lowered(weight)
        saved = [x] if weight.node is not None else []
        if x.node is not None:
            saved.append(weight)
        return tape.operate(elements, x.dtype, (x, weight), saved, as_inputs)


@dataclass(frozen=True, slots=True)
class HoldingBlock(Block):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)), with attention's output in a variable of its own."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Llama4TextDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        attended = self.mixer.forward(tape, x)
        x = tape.add(residual, attended)
        residual = x
        x = self.norms[1].forward(tape, x)
        x = self.feed_forward.forward(tape, x)
        result = tape.add(residual, x)
        del attended
        return result


__all__ = ["ComplexAttention", "HoldingBlock", "RepeatedMixture"]
