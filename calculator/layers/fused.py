"""Attention with queries, keys and values in one matrix."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import Tape, Value, scaled
from .attention import Attention, attend, divided, remember, rotated


@dataclass(frozen=True, slots=True)
class SlicedAttention(Attention):
    """One matrix, of which slices are taken; each slice's gradient is a whole tensor. (transformers' Phi3Attention)

    Rotated and passing dimensions of a head are always joined by a copy, also where all of them are rotated.
    """

    def forward(self, tape: Tape, x: Value) -> Value:
        """The joined tensor lives until the layer is through."""
        wide, narrow = scaled(tape.mode.queries, self.query_width), scaled(tape.mode.queries, self.key_width)
        joined = tape.linear(x, self.hidden, self.query_width + 2 * self.key_width, self.bias, self.names.fused or "")
        q, k, v = tape.slice(joined, wide), tape.slice(joined, narrow), tape.slice(joined, narrow)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def rotate(self, tape: Tape, x: Value) -> Value:
        """The rotated dimensions and the others, joined."""
        cos, sin = (tape.shared[name] for name in self.tables)
        turned = self.head_dim if self.rotary_dim is None else self.rotary_dim
        heads = divided(x.elements, self.head_dim)
        turning, passing = tape.slice(x, scaled(heads, turned)), tape.slice(x, scaled(heads, self.head_dim - turned))
        return tape.concatenate(rotated(tape, turning, cos, sin), passing)
