"""Parts of Llama's later kin."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, HALF, WIDTH, Mode, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from .attention import Attention, attend, keep, remember, score_entries
from .feed_forward import GatedFeedForward, activate
from .kernels import causal_convolution
from .norms import Norm
from .states import State, convolution

# ---------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True)
class PairedRotary(Attention):
    """Rotates neighbours instead of halves, by tables that each layer makes anew (Helium)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' HeliumAttention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self._turned(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _turned(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        table = scaled(tape.mode.query_positions, self.head_dim)
        cos, sin = tape.new(table, tape.mode.hidden), tape.new(table, tape.mode.hidden)
        turned = self._rotated(tape, q, cos, sin)
        return turned, self._rotated(tape, k, cos, sin)

    def _rotated(self, tape: Tape, x: Value, cos: Value, sin: Value) -> Value:
        straight = tape.multiply(x, cos)
        return tape.add(straight, tape.multiply(self._crossed(tape, x), sin))

    def _crossed(self, tape: Tape, x: Value) -> Value:
        a, b, c, d, e, f = x.elements
        half: Size = (a // 2, b // 2, c // 2, d // 2, e // 2, f // 2)
        first, second = tape.slice(x, half), tape.slice(x, half)
        return tape.concatenate(tape.scale(second), first)


@dataclass(frozen=True, slots=True)
class NormedOutput(Attention):
    """A norm between the heads and the output matrix (BitNet).

    inner   that norm
    """

    inner: Norm | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """As the common one, and the norm."""
        assert self.inner is not None
        inside = tuple(
            Tensor(f"{self.prefix}.{each.name}", each.shape, each.component, each.role) for each in self.inner.tensors()
        )
        return (*Attention.tensors(self), *inside)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BitNetAttention.forward."""
        assert self.inner is not None
        q, k, v = self.project(tape, x)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = self.inner.forward(tape, y)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)


@dataclass(frozen=True, slots=True)
class FilledAttention(Attention):
    """Scores in float32 without a scale, filled by a boolean table of the model's own (GPT-Neo); always eager."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GPTNeoSelfAttention.forward."""
        q, k, v = self.project(tape, x)
        k, v = remember(tape, k, v, self)
        y = self._weighed(tape, q, k, v)
        y = tape.copy(tape.turn(y))
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        return tape.dropout(y, self.output_dropout)

    def _weighed(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        q, k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
        weights = tape.matmul(q, k, score_entries(tape.mode, self))
        weights = tape.operate(weights.elements, weights.dtype, (weights,))
        mask = tape.shared.get("mask")
        if mask is not None:
            weights = tape.add(weights, mask)
        weights = tape.softmax(weights)
        weights = tape.cast(weights, v.dtype)
        weights = tape.dropout(weights, self.dropout)
        tape.lingering.append(weights)
        return tape.matmul(weights, v, q.elements)


# ---------------------------------------------------------------------- feed-forward


@dataclass(frozen=True, slots=True)
class NormedFeedForward(GatedFeedForward):
    """A norm before the last matrix (BitNet).

    inner   that norm
    """

    inner: Norm | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """As the gated one, and the norm."""
        assert self.inner is not None
        inside = tuple(
            Tensor(f"{self.prefix}.{each.name}", each.shape, each.component, each.role) for each in self.inner.tensors()
        )
        return (*GatedFeedForward.tensors(self), *inside)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the temporaries of transformers' BitNetMLP.forward."""
        assert self.inner is not None
        product = tape.multiply(
            activate(tape, tape.linear(x, self.hidden, self.intermediate, self.bias, self.gate), self.activation),
            tape.linear(x, self.hidden, self.intermediate, self.bias, self.up),
        )
        y = self.inner.forward(tape, product)
        del product
        return tape.linear(y, self.intermediate, self.hidden, self.bias, self.down)


# ---------------------------------------------------------------------- convolution


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """A gated causal convolution over a few tokens in the place of attention (LFM 2). [arXiv:2511.23404]

    hidden   width
    kernel   tokens it looks at
    bias     on the matrices and the convolution
    """

    hidden: int
    kernel: int
    bias: bool = False
    prefix: str = "conv"

    def tensors(self) -> tuple[Tensor, ...]:
        """In, convolution, out."""
        at, wide, made = self.prefix, self.hidden, []
        for name, out, role in (("in_proj", 3 * wide, "ssm_in"), ("out_proj", wide, "ssm_out")):
            made.append(Tensor(f"{at}.{name}.weight", (out, wide), "ssm", role, True, Cut.TENSOR, wide))
            if self.bias:
                made.append(Tensor(f"{at}.{name}.bias", (out,), "ssm", "bias"))
        made.append(Tensor(f"{at}.conv.weight", (wide, 1, self.kernel), "ssm", "ssm_other", False, Cut.TENSOR, wide))
        if self.bias:
            made.append(Tensor(f"{at}.conv.bias", (wide,), "ssm", "bias"))
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that grow with the context: none."""
        return 0

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """The last inputs of the convolution.

        >>> ShortConvolution(2048, 3).states()[0].elements
        6144
        """
        return (convolution(-(-self.hidden // tensor), self.kernel),)

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return sum(state.elements for state in self.states(tensor))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the state before a decode step: overwritten in place."""
        return ((0, self.state() * WIDTH[HALF if mode.autocast else mode.weights], 0, 0, 0, 0),)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Lfm2ShortConv.forward and its fused kernels."""
        mode, wide = tape.mode, scaled(tape.mode.queries, self.hidden)
        joined = tape.turn(tape.linear(x, self.hidden, 3 * self.hidden, self.bias, "in_proj"))
        before, after, value = tape.split(joined, wide, wide, wide)
        x = tape.multiply(before, value)
        if mode.step == "prefill":
            keep(tape, tape.new((0, self.state(), 0, 0, 0, 0), x.dtype))
        x = causal_convolution(tape, x, self.hidden, self.kernel, self.bias)
        y = tape.multiply(after, x)
        y = tape.copy(tape.turn(y))
        return tape.linear(y, self.hidden, self.hidden, self.bias, "out_proj")
