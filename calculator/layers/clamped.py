"""Gated feed-forward layers and experts whose gate and up are clamped out of place."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import Size, Tape, Value, scaled
from .experts import Experts
from .feed_forward import GatedFeedForward, activate


def half(size: Size) -> Size:
    """Half a size."""
    a, b, c, d, e, f = size
    return (a // 2, b // 2, c // 2, d // 2, e // 2, f // 2)


def clamped_after(tape: Tape, gate: Value, up: Value, activation: str) -> Value:
    """clamp(act(gate)) · clamp(up): keeps gate, act(gate), up, and both factors. [Step 3.5]"""
    gate = tape.unary(activate(tape, gate, activation))
    up = tape.unary(up)
    return tape.multiply(gate, up)


def clamped_before(tape: Tape, gate: Value, up: Value) -> Value:
    """(clamp(up) + 1) · g · sigmoid(α · g) with g = clamp(gate). [GPT-OSS, MiniMax M3]"""
    gate = tape.unary(gate)
    up = tape.unary(up)
    glu = tape.multiply(gate, tape.unary_output(tape.scale(gate)))
    return tape.multiply(tape.shift(up), glu)


@dataclass(frozen=True, slots=True)
class LateClampedExperts(Experts):
    """Experts that clamp after the activation."""

    def gate(self, tape: Tape, joined: Value) -> Value:
        """Of the two halves."""
        gate, up = tape.split(joined, half(joined.elements), half(joined.elements), dense=True)
        return clamped_after(tape, gate, up, self.activation)


@dataclass(frozen=True, slots=True)
class EarlyClampedExperts(Experts):
    """Experts that clamp before the activation."""

    def gate(self, tape: Tape, joined: Value) -> Value:
        """Of the two halves."""
        gate, up = tape.split(joined, half(joined.elements), half(joined.elements), dense=True)
        return clamped_before(tape, gate, up)


@dataclass(frozen=True, slots=True)
class LateClampedFeedForward(GatedFeedForward):
    """A feed-forward layer that clamps after the activation."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Step3p7MLP.forward."""
        gate = tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.gate))
        gate = tape.unary(activate(tape, gate, self.activation))
        up = tape.unary(tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.up)))
        result = tape.linear(
            tape.multiply(gate, up), self.intermediate, self.hidden, self.bias, self._module(self.down)
        )
        del gate, up
        return result


@dataclass(frozen=True, slots=True)
class EarlyClampedFeedForward(GatedFeedForward):
    """A feed-forward layer of one matrix for gate and up that clamps before the activation."""

    fused: str | None = "gate_up_proj"

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MiniMaxM3VLDenseMLP.forward."""
        wide = scaled(tape.mode.queries, self.intermediate)
        joined = tape.linear(x, self.hidden, 2 * self.intermediate, self.bias, self._module(self.fused or ""))
        gate, up = tape.split(joined, wide, wide, dense=True)
        gate = tape.unary(gate)
        up = tape.unary(up)
        glu = tape.multiply(gate, tape.unary_output(tape.scale(gate)))
        product = tape.multiply(tape.shift(up), glu)
        result = tape.linear(product, self.intermediate, self.hidden, self.bias, self._module(self.down))
        del joined, gate, up, glu
        return result
