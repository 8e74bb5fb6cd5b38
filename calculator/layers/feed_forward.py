"""Feed-forward layers: gated and plain."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import Tape, Value, scaled
from ..tensors import Cut, Tensor

FUSED_ACTIVATIONS = frozenset({"silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_fast_fused"})
OUTPUT_ACTIVATIONS = frozenset({"relu", "sigmoid", "tanh"})


def activate(tape: Tape, x: Value, name: str) -> Value:
    """An activation by its Hugging Face name: fused kernels save their input, Python ones whatever they touch."""
    if name in OUTPUT_ACTIVATIONS:
        return tape.unary_output(x)
    if name == "relu2":
        return tape.power(tape.unary_output(x))
    if name in ("gelu_new", "gelu_fast", "gelu_python_tanh"):
        # 0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))
        half = tape.scale(x)
        curve = tape.shift(tape.unary_output(tape.scale(tape.add(x, tape.scale(tape.power(x))))))
        return tape.multiply(half, curve)
    if name == "gelu_python":  # x · 0.5 · (1 + erf(x / √2))
        half = tape.scale(x)
        return tape.multiply(half, tape.shift(tape.unary(tape.scale(x))))
    return tape.unary(x)


@dataclass(frozen=True, slots=True)
class GatedFeedForward:
    """act(x · gate) · (x · up), then down. [arXiv:2002.05202]

    fused: gate and up are one matrix of twice the width.
    """

    hidden: int
    intermediate: int
    activation: str = "silu"
    bias: bool = False
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    fused: str | None = None
    prefix: str = "mlp"
    component: str = "mlp_dense"
    suffix: str = ""  # of the roles: "_shexp" for shared experts
    adapted: bool = True  # False where peft leaves layers of these names to the stacks of experts

    def tensors(self) -> tuple[Tensor, ...]:
        """Three matrices, or two where gate and up are fused, and their biases."""
        made: list[Tensor] = []
        if self.fused:
            made += self._matrix(self.fused, 2 * self.intermediate, self.hidden, "ffn_gate_up")
        else:
            made += self._matrix(self.gate, self.intermediate, self.hidden, "ffn_gate")
            made += self._matrix(self.up, self.intermediate, self.hidden, "ffn_up")
        made += self._matrix(self.down, self.hidden, self.intermediate, "ffn_down")
        return tuple(made)

    def _matrix(self, name: str, out: int, into: int, role: str) -> list[Tensor]:
        path, pieces = f"{self.prefix}.{name}", self.intermediate
        kind, targets = role + self.suffix, None if self.adapted else ()
        made = [Tensor(f"{path}.weight", (out, into), self.component, kind, True, Cut.TENSOR, pieces, targets=targets)]
        if self.bias:
            cut = Cut.NONE if role == "ffn_down" else Cut.TENSOR
            made.append(Tensor(f"{path}.bias", (out,), self.component, "bias", False, cut, pieces))
        return made

    def _module(self, name: str) -> str:
        return name if self.adapted else ""

    def forward(self, tape: Tape, x: Value) -> Value:
        """Keeps gate, up, act(gate) and their product for each token."""
        wide = scaled(tape.mode.queries, self.intermediate)
        if self.fused:
            joined = tape.linear(x, self.hidden, 2 * self.intermediate, self.bias, self._module(self.fused))
            liger = tape.mode.kernels == "liger"
            gate, up = tape.split(joined, wide, wide, dense=not liger)
            if liger:  # the kernel copies both halves, keeps the copies and recomputes the rest
                gate, up = tape.copy(gate), tape.copy(up)
                product = tape.operate(wide, up.dtype, (gate, up), (gate, up))
            else:
                product = tape.multiply(up, activate(tape, gate, self.activation))
            return tape.linear(product, self.intermediate, self.hidden, self.bias, self._module(self.down))
        return tape.linear(self._product(tape, x), self.intermediate, self.hidden, self.bias, self._module(self.down))

    def _product(self, tape: Tape, x: Value) -> Value:
        if tape.mode.kernels == "liger":  # one kernel: keeps gate and up, recomputes the rest
            gate = tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.gate))
            up = tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.up))
            return tape.operate(gate.elements, gate.dtype, (gate, up), (gate, up))
        return tape.multiply(
            activate(
                tape,
                tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.gate)),
                self.activation,
            ),
            tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.up)),
        )


@dataclass(frozen=True, slots=True)
class FeedForward:
    """act(x · up), then down."""

    hidden: int
    intermediate: int
    activation: str = "gelu"
    bias: bool = True
    up: str = "up_proj"
    down: str = "down_proj"
    prefix: str = "mlp"
    component: str = "mlp_dense"
    dropout: float = 0.0
    plain: bool = False  # see Tape.linear
    suffix: str = ""  # of the roles: "_shexp" for shared experts

    def tensors(self) -> tuple[Tensor, ...]:
        """Two matrices and their biases."""
        made: list[Tensor] = []
        for name, out, into, role in (
            (self.up, self.intermediate, self.hidden, "ffn_up"),
            (self.down, self.hidden, self.intermediate, "ffn_down"),
        ):
            path = f"{self.prefix}.{name}" if self.prefix else name
            made.append(
                Tensor(
                    f"{path}.weight",
                    (out, into),
                    self.component,
                    role + self.suffix,
                    True,
                    Cut.TENSOR,
                    self.intermediate,
                )
            )
            if self.bias:
                cut = Cut.NONE if role == "ffn_down" else Cut.TENSOR
                made.append(Tensor(f"{path}.bias", (out,), self.component, "bias", False, cut, self.intermediate))
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """Keeps what goes into the activation and what comes out."""
        x = tape.linear(x, self.hidden, self.intermediate, self.bias, self.up, plain=self.plain)
        x = activate(tape, x, self.activation)
        x = tape.linear(x, self.intermediate, self.hidden, self.bias, self.down, plain=self.plain)
        return tape.dropout(x, self.dropout)
