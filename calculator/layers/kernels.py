"""Fused kernels on the tape: outputs, what they save, and the scratch tensors that live only inside their passes."""

from __future__ import annotations

from collections.abc import Sequence

from ..tape import FLOAT, HALF, Node, Rule, Size, Tape, Value, scaled

Scratch = tuple[tuple[Size, str], ...]


def per_chunk(rows: Size, elements: int, chunk: int) -> Size:
    """`elements` for every `chunk` tokens of `rows`, in whole elements a token.

    >>> per_chunk((0, 0, 0, 1, 0, 0), 1000, 64)
    (0, 0, 0, 16, 0, 0)
    """
    return scaled(rows, -(-elements // chunk))


def hold(tape: Tape, scratch: Sequence[tuple[Size, str]]) -> list[Value]:
    """Tensors that live as long as the returned list."""
    return [tape.new(size, dtype) for size, dtype in scratch]


def backward_with(scratch: Scratch) -> Rule:
    """A backward pass that holds scratch tensors while it makes a gradient for each input that needs one."""

    def rule(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
        held = hold(tape, scratch)
        results: list[Value | None] = [None if link is None else tape.new(link[2], link[3]) for link in node.inputs]
        del held
        return results

    return rule


def weight(tape: Tape, elements: int) -> Value:
    """A parameter that a kernel reads: under autocast the kernel makes a 16-bit copy of it for itself."""
    made = tape.parameter(elements)
    return tape.cast(made, HALF) if tape.mode.autocast else made


def in_float(tape: Tape, elements: int) -> Value:
    """A parameter in float32: itself, or a copy."""
    return tape.cast(tape.parameter(elements), FLOAT)


def causal_convolution(tape: Tape, x: Value, channels: int, kernel: int, bias: bool) -> Value:
    """causal_conv1d with its activation inside: saves only its input. [github.com/Dao-AILab/causal-conv1d]

    Its backward pass recomputes the activation.
    """
    weights = [weight(tape, channels * kernel)]
    if bias:
        weights.append(weight(tape, channels))
    out = tape.new(x.elements, x.dtype)
    return tape.attach(out, (x, *weights), (x, *weights))
