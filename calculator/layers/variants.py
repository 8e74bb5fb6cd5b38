"""Parts that differ from the common ones by the order of their operators, a layout or an activation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tape import BOOL, FLOAT, HALF, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from .attention import Attention, attend, remember
from .blocks import Block
from .feed_forward import FeedForward, GatedFeedForward
from .norms import LayerNorm, statistics_rows

# ---------------------------------------------------------------------- norms


@dataclass(frozen=True, slots=True)
class LayerNorm1P(LayerNorm):
    """A layer norm around 1: weight + 1 is made at each call, and autocast runs it in 16 bit (Nemotron)."""

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x, weight + 1, and mean and rstd in float32."""
        weight, bias = tape.shift(tape.parameter(self.width)), tape.parameter(self.width)
        if tape.mode.autocast:
            x, weight, bias = tape.cast(x, HALF), tape.cast(weight, HALF), tape.cast(bias, HALF)
        out = tape.new(x.elements, x.dtype)
        per_row = statistics_rows(x, self.width)
        mean, rstd = tape.new(per_row, FLOAT), tape.new(per_row, FLOAT)
        return tape.attach(out, (x, weight, bias), (x, weight, mean, rstd))


# ---------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True)
class WideRotary(Attention):
    """Rotates in float32, by tables whose entries stand in pairs and are made anew for each layer (ERNIE 4.5)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Ernie4_5Attention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self._turned(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _turned(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        dtype, table = q.dtype, scaled(tape.mode.query_positions, self.head_dim)
        cos, sin = tape.new(table, FLOAT), tape.new(table, FLOAT)
        q = self._rotated(tape, q, cos, sin)
        k = self._rotated(tape, k, cos, sin)
        return tape.cast(q, dtype), tape.cast(k, dtype)

    def _rotated(self, tape: Tape, x: Value, cos: Value, sin: Value) -> Value:
        straight = tape.multiply(tape.cast(x, FLOAT), cos)
        return tape.add(straight, tape.multiply(self._crossed(tape, x), sin))

    def _crossed(self, tape: Tape, x: Value) -> Value:
        half = _part(x.elements, 1, 2)
        first, second = tape.slice(x, half), tape.slice(x, half)
        return tape.cast(tape.concatenate(tape.scale(second), first), FLOAT)


@dataclass(frozen=True, slots=True)
class RotatedThenNormed(Attention):
    """Norms over each head of q and k after they are rotated (Hunyuan)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' HunYuanDenseV1Attention.forward."""
        assert self.query_norm is not None and self.key_norm is not None
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query))
        k = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, self.names.key))
        v = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value))
        q, k = self.rotate(tape, q), self.rotate(tape, k)
        q = self.query_norm.forward(tape, q, self.heads)
        k = self.key_norm.forward(tape, k, self.kv_heads)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)


@dataclass(frozen=True, slots=True)
class ScaledQueries(Attention):
    """Rotated queries are multiplied by a figure for each position (Ministral 3)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Ministral3Attention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate(tape, q), self.rotate(tape, k)
        figure = tape.new(tape.mode.query_positions, FLOAT)
        figure = tape.cast(figure, q.dtype)
        q = tape.multiply(q, figure)
        del figure
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)


@dataclass(frozen=True, slots=True)
class PublishedAttention(Attention):
    """As modeling files published beside checkpoints have it: keys and values are repeated to all heads by a copy
    before any kernel sees them.

    gathered    whether one matrix holds q, k and v group by group, so that q is gathered by a copy (InternLM 2)
    wide_turn   whether q and k are rotated in float32 (Qwen 1)
    """

    gathered: bool = False
    wide_turn: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """Project, rotate, remember, repeat, attend."""
        q, k, v = self.project(tape, x)
        if self.gathered:
            q = tape.turn(tape.copy(q))
        if self.wide_turn:
            q, k = self._turned(tape, q), self._turned(tape, k)
        else:
            q, k = self.rotate(tape, q), self.rotate(tape, k)
        k, v = remember(tape, k, v, self)
        k, v = tape.repeat(k, self.heads // self.kv_heads), tape.repeat(v, self.heads // self.kv_heads)
        y = attend(tape, q, k, v, replace(self, kv_heads=self.heads))
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _turned(self, tape: Tape, x: Value) -> Value:
        wide = self.rotate(tape, tape.cast(x, FLOAT))
        return tape.cast(wide, x.dtype)


@dataclass(frozen=True, slots=True)
class Linear:
    """A single matrix in the place of attention or of the feed-forward layer (DeciLM)."""

    width: int
    name: str
    component: str
    role: str

    def tensors(self) -> tuple[Tensor, ...]:
        """Width × width."""
        shape = (self.width, self.width)
        return (Tensor(f"{self.name}.weight", shape, self.component, self.role, True, Cut.TENSOR, self.width),)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Nothing is kept."""
        return 0

    def state(self, tensor: int = 1) -> int:
        """Nothing is kept."""
        return 0

    def forward(self, tape: Tape, x: Value) -> Value:
        """x · W."""
        return tape.linear(x, self.width, self.width, False, self.name.rsplit(".", 1)[-1])


# ---------------------------------------------------------------------- feed-forward


@dataclass(frozen=True, slots=True)
class DroppedFeedForward(GatedFeedForward):
    """Dropout on what it gives (Seed-OSS)."""

    rate: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """As the gated one, then dropout."""
        y = GatedFeedForward.forward(self, tape, x)
        return tape.dropout(y, self.rate)


@dataclass(frozen=True, slots=True)
class XIELUFeedForward(FeedForward):
    """xIELU between two matrices, with two learned figures, in Python. [arXiv:2411.13010] (Apertus)"""

    def tensors(self) -> tuple[Tensor, ...]:
        """Two matrices, and alpha for either side of 0."""
        alphas = tuple(
            Tensor(f"{self.prefix}.act_fn.{name}", (1,), self.component, "other") for name in ("alpha_p", "alpha_n")
        )
        return (*FeedForward.tensors(self), *alphas)

    def forward(self, tape: Tape, x: Value) -> Value:
        """x > 0 ? α·x·x + β·x : (expm1(min(x, ε)) - x)·α' + β·x"""
        x = tape.linear(x, self.hidden, self.intermediate, self.bias, self.up)
        x = self._activated(tape, x)
        return tape.linear(x, self.intermediate, self.hidden, self.bias, self.down)

    def _activated(self, tape: Tape, x: Value) -> Value:
        positive, negative = self._alpha(tape), tape.shift(self._alpha(tape))
        above = tape.new(x.elements, BOOL)
        upper = tape.add(tape.multiply(tape.multiply(x, positive), x), tape.scale(x))
        least = tape.operate(x.elements, x.dtype, (x,), (x,))
        least = tape.cast(least, FLOAT) if tape.mode.autocast else least
        curve = tape.unary_output(least)
        del least
        curve = tape.add(curve, x)
        curve = tape.multiply(curve, negative)
        lower = tape.add(curve, tape.scale(x))
        del curve
        dtype = FLOAT if FLOAT in (upper.dtype, lower.dtype) else x.dtype
        return tape.operate(x.elements, dtype, (upper, lower), (above,))

    def _alpha(self, tape: Tape) -> Value:
        figure = tape.parameter(1)
        return tape.unary(tape.cast(figure, FLOAT) if tape.mode.autocast else figure)


@dataclass(frozen=True, slots=True)
class GeGELUFeedForward(FeedForward):
    """One matrix for gate and up in turns, both clamped, a quick GELU on the gate (Phi-3-small)."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Two matrices and their biases; the first is twice as wide."""
        up = replace(self, intermediate=2 * self.intermediate).tensors_up()
        return (*up, *(tensor for tensor in FeedForward.tensors(self) if self.down in tensor.name))

    def tensors_up(self) -> tuple[Tensor, ...]:
        """The first matrix and its bias."""
        made = tuple(tensor for tensor in FeedForward.tensors(self) if self.up in tensor.name)
        return tuple(replace(tensor, role="ffn_gate_up") if tensor.linear else tensor for tensor in made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """gate · σ(1.702 · gate) · (up + 1)"""
        x = tape.linear(x, self.hidden, 2 * self.intermediate, self.bias, self.up)
        half = _part(x.elements, 1, 2)
        gate, up = tape.slice(x, half), tape.slice(x, half)
        gate, up = _clamped(tape, gate), _clamped(tape, up)
        curve = tape.unary_output(tape.scale(gate))
        curve = tape.multiply(gate, curve)
        x = tape.multiply(curve, tape.shift(up))
        del gate, up, curve
        x = tape.linear(x, self.intermediate, self.hidden, self.bias, self.down)
        return tape.dropout(x, self.dropout)


def _clamped(tape: Tape, x: Value) -> Value:
    infinite = tape.new(x.elements, BOOL)
    bounded = tape.operate(x.elements, x.dtype, (x,), (x,))
    return tape.operate(x.elements, x.dtype, (x, bounded), (infinite,))


def _part(size: Size, times: int, of: int) -> Size:
    a, b, c, d, e, f = size
    return tuple(each * times // of for each in (a, b, c, d, e, f))  # type: ignore[return-value]


# ---------------------------------------------------------------------- blocks


@dataclass(frozen=True, slots=True)
class ScaledBlock(Block):
    """x + c · mixer(norm(x)), then x + c · feed_forward(norm(x)): MiniCPM."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of MiniCPMDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        x = self.mixer.forward(tape, x)
        x = tape.add(residual, tape.scale(x))
        residual = x
        x = self.norms[1].forward(tape, x)
        x = self.feed_forward.forward(tape, x)
        return tape.add(residual, tape.scale(x))


@dataclass(frozen=True, slots=True)
class IdleBlock(Block):
    """A layer that a text-only step skips: it stores its tensors, and hands on what it is given."""

    stored: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        return self.stored

    def forward(self, tape: Tape, x: Value) -> Value:
        """What came in."""
        return x
