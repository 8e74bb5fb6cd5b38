"""What a recurrent layer keeps for a sequence whatever its length."""

from __future__ import annotations

from dataclasses import dataclass

from ..units import ceil_div

ACTIVATIONS = "activations"  # precision of a state that is kept as the layer's activations are


@dataclass(frozen=True, slots=True)
class State:
    """One kind of state of a layer, for one sequence.

    name       "recurrent" (the running sum of the layer) or "convolution" (its last inputs)
    elements   all of them
    precision  "float32", "bfloat16", or "activations" where it follows the model's activations
    columns    inputs kept a channel of a convolution: transformers keeps as many as the kernel is long, vLLM one fewer
    """

    name: str
    elements: int
    precision: str = ACTIVATIONS
    columns: int = 0

    def times(self, count: int) -> State:
        """The same state of so many layers."""
        return State(self.name, self.elements * count, self.precision, self.columns)


def recurrent(heads: int, key: int, value: int, precision: str, tensor: int = 1) -> State:
    """One key × value matrix a head; a head is never divided over GPUs.

    >>> recurrent(32, 128, 128, "float32").elements
    524288
    """
    return State("recurrent", ceil_div(heads, tensor) * key * value, precision)


def convolution(channels: int, kernel: int, precision: str = ACTIVATIONS) -> State:
    """The last inputs of each channel.

    >>> convolution(8192, 4).elements
    32768
    """
    return State("convolution", channels * kernel, precision, kernel)
