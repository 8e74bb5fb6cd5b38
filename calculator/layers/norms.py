"""Normalizations. The Python ones keep float32 copies that a fused kernel would not."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, Tape, Value
from ..tensors import Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """What all norms share: the width they run over and the name of their weights."""

    width: int
    name: str = "norm"
    bias: bool = False
    affine: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """A weight of the width, and a bias where it has one."""
        if not self.affine:
            return ()
        weight = Tensor(f"{self.name}.weight", (self.width,), "norm", "norm")
        return (weight, Tensor(f"{self.name}.bias", (self.width,), "norm", "norm")) if self.bias else (weight,)

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """`rows` norms run side by side for each token (heads); x has rows · width elements a token."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class RMSNorm(Norm):
    """weight · (x / rms(x)) with the statistics in float32, in Python, as in transformers' LlamaRMSNorm."""

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x in float32 (pow and the product read it), the normalized x in its dtype, and one rsqrt a row."""
        if tape.mode.kernels == "liger":
            return fused_norm(tape, x, self, rows)
        dtype = x.dtype
        x = tape.cast(x, FLOAT)
        x = normalized(tape, x, self.width, rows)
        x = tape.cast(x, dtype)
        if not self.affine:
            return x
        return tape.multiply(x, tape.parameter(self.width))


@dataclass(frozen=True, slots=True)
class LateRMSNorm(Norm):
    """weight · x / rms(x), the product still in float32, as in transformers' Olmo2RMSNorm and GlmRMSNorm."""

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x and the normalized x in float32."""
        if tape.mode.kernels == "liger":
            return fused_norm(tape, x, self, rows)
        dtype = x.dtype
        x = tape.cast(x, FLOAT)
        x = normalized(tape, x, self.width, rows)
        return tape.cast(tape.multiply(x, tape.parameter(self.width)), dtype)


@dataclass(frozen=True, slots=True)
class FloatRMSNorm(Norm):
    """weight · x / rms(x) with the weight in float32 too, as in transformers' NemotronHRMSNorm."""

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x, the normalized x and the weight in float32."""
        dtype = x.dtype
        x = normalized(tape, tape.cast(x, FLOAT), self.width, rows)
        return tape.cast(tape.multiply(x, tape.cast(tape.parameter(self.width), FLOAT)), dtype)


def normalized(tape: Tape, x: Value, width: int, rows: int) -> Value:
    """x · rsqrt(mean(x²) + ε), in x's dtype."""
    per_row = statistics_rows(x, width)
    variance = tape.mean(tape.power(x), per_row)
    return tape.multiply(x, tape.unary_output(tape.shift(variance)))


def statistics_rows(x: Value, width: int) -> tuple[int, int, int, int, int, int]:
    """One figure for each run of `width` elements."""
    a, b, c, d, e, f = x.elements
    return (a // width, b // width, c // width, d // width, e // width, f // width)


def fused_norm(tape: Tape, x: Value, norm: Norm, rows: int) -> Value:
    """A fused kernel: saves its input and one float32 figure a row."""
    figure = tape.new(statistics_rows(x, norm.width), FLOAT)
    terms = [x, tape.parameter(norm.width)] if norm.affine else [x]
    return tape.attach(tape.new(x.elements, x.dtype), terms, (x, figure))


@dataclass(frozen=True, slots=True)
class LayerNorm(Norm):
    """torch's layer_norm: one kernel that saves its input, and mean and rstd in float32. Autocast runs it in
    float32."""

    bias: bool = True

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Output in x's dtype (float32 under autocast)."""
        if tape.mode.autocast:
            x = tape.cast(x, FLOAT)
        per_row = statistics_rows(x, self.width)
        out = tape.new(x.elements, x.dtype)
        mean, rstd = tape.new(per_row, FLOAT), tape.new(per_row, FLOAT)
        terms = [x]
        if self.affine:
            terms.append(tape.parameter(self.width))
            if self.bias:
                terms.append(tape.parameter(self.width))
        return tape.attach(out, terms, (x, mean, rstd))


@dataclass(frozen=True, slots=True)
class GemmaRMSNorm(Norm):
    """(1 + weight) · x / rms(x), all in float32 until the end, as in transformers' GemmaRMSNorm."""

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x and the normalized x in float32."""
        if tape.mode.kernels == "liger":
            return fused_norm(tape, x, self, rows)
        dtype = x.dtype
        y = normalized(tape, tape.cast(x, FLOAT), self.width, rows)
        if self.affine:
            weight = tape.shift(tape.cast(tape.parameter(self.width), FLOAT))
            y = tape.multiply(y, weight)
        return tape.cast(y, dtype)
