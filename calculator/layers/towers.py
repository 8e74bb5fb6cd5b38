"""Encoders beside the text layers, as lists of tensors: a text-only step holds them and does not run them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..tensors import Tensor


def matrix(name: str, out: int, into: int, bias: bool = True, count: int = 1) -> tuple[Tensor, ...]:
    """A linear layer of an encoder."""
    made = (Tensor(f"{name}.weight", (out, into), "multimodal", "other", True, count=count),)
    return (*made, Tensor(f"{name}.bias", (out,), "multimodal", "bias", count=count)) if bias else made


def layer_norm(name: str, width: int, bias: bool = True, count: int = 1) -> tuple[Tensor, ...]:
    """A norm of an encoder."""
    made = (Tensor(f"{name}.weight", (width,), "multimodal", "norm", count=count),)
    return (*made, Tensor(f"{name}.bias", (width,), "multimodal", "norm", count=count)) if bias else made


def table(name: str, *shape: int, count: int = 1) -> Tensor:
    """Any other weight of an encoder."""
    return Tensor(name, shape, "multimodal", "other", count=count)


def times(tensors: Iterable[Tensor], count: int) -> tuple[Tensor, ...]:
    """The tensors of `count` equal layers."""
    return tuple(replace(tensor, count=tensor.count * count) for tensor in tensors)
