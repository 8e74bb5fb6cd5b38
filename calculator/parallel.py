"""How GPUs share a model: ways a cut tensor is spread, layers dealt into stages, and what must divide what."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from .errors import InvalidSetup
from .layers.norms import Norm
from .model import Model
from .setup import InferenceSetup
from .tensors import Cut, Tensor
from .units import ceil_div, round_up


class Placement(NamedTuple):
    """A model over GPUs.

    tensor    GPUs that share each layer
    pipeline  stages of layers
    expert    GPUs that whole experts are dealt out over; inside them the rest of the group cuts each expert
    data      replicas
    joined    whether replicas share their experts and have only attention of their own (data-parallel attention)
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    data: int = 1
    joined: bool = False

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_group(self) -> int:
        """GPUs that hold the experts of a layer between them."""
        return self.tensor * self.data if self.joined else self.tensor

    def held(self, tensor: Tensor, elements: int | None = None) -> int:
        """Elements of a tensor on the fullest GPU; `elements` where an engine pads it.

        >>> stack = Tensor("up", (128, 768, 2048), "experts", "ffn_up_exps", cut=Cut.EXPERT, experts=128)
        >>> Placement(tensor=8, expert=2).held(stack) == stack.elements // 8
        True
        """
        elements = tensor.elements if elements is None else elements
        if tensor.cut is Cut.TENSOR:
            return ceil_div(elements, min(self.tensor, tensor.pieces))
        if tensor.cut is Cut.EXPERT:
            dealt = ceil_div(tensor.experts, min(self.expert, tensor.experts))
            return ceil_div(elements * dealt, tensor.experts * max(self.expert_group // self.expert, 1))
        return elements


ALONE = Placement()


def placement_of(model: Model, setup: InferenceSetup) -> Placement:
    """What the setup says, once it is known to be possible.

    Raises InvalidSetup, with the values that would do.
    """
    ways = setup.tensor_parallel, setup.pipeline_parallel, setup.expert_parallel, setup.data_parallel
    if ways == (1, 1, 1, 1):
        return ALONE
    placement = Placement(*ways, joined=setup.data_parallel_attention and setup.data_parallel > 1)
    _check_heads(model, placement.tensor)
    _check_widths(model, placement.tensor)
    if placement.pipeline > len(model.layers):
        raise InvalidSetup(
            f"pipeline_parallel must be at most {len(model.layers)}, the layers of this model", "pipeline_parallel"
        )
    experts = most_experts(model)
    if placement.expert > 1:
        if not experts:
            raise InvalidSetup("expert_parallel must be 1: this model has no experts", "expert_parallel")
        group = placement.expert_group
        if group % placement.expert:
            allowed = ", ".join(str(each) for each in divisors(group))
            raise InvalidSetup(
                f"expert_parallel must divide the {group} GPUs that share a layer's experts: {allowed}",
                "expert_parallel",
            )
        if placement.expert > experts:
            raise InvalidSetup(f"expert_parallel must be at most {experts}, the experts of a layer", "expert_parallel")
    return placement


def divisors(number: int) -> list[int]:
    """Every divisor, smallest first.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return small + [number // each for each in reversed(small) if each * each != number]


@lru_cache(maxsize=1024)
def most_experts(model: Model) -> int:
    """Routed experts of a layer, 0 in a dense model."""
    return max((tensor.experts for layer in model.distinct for tensor in layer.tensors()), default=0)


@lru_cache(maxsize=1024)
def head_counts(model: Model) -> tuple[tuple[int, int], ...]:
    """Query heads and key-value heads of each kind of attention."""
    found = {
        (mixer.heads, getattr(mixer, "kv_heads", mixer.heads))
        for layer in model.distinct
        for mixer in mixers(layer)
        if getattr(mixer, "heads", 0) > 1
    }
    return tuple(sorted(found))


@lru_cache(maxsize=4096)
def mixers(layer: Any) -> tuple[Any, ...]:
    """The mixers of a layer that have heads of their own: one, or those that a composite joins."""
    mixer = getattr(layer, "mixer", None)
    if mixer is None:
        return ()
    if not hasattr(mixer, "heads") and is_dataclass(mixer):
        inner = [getattr(mixer, each.name) for each in fields(mixer)]
        joined = tuple(each for each in inner if hasattr(each, "heads") and hasattr(each, "cache"))
        if joined:
            return joined
    return (mixer,)


def _check_heads(model: Model, tensor: int) -> None:
    if tensor == 1:
        return
    for heads, kv_heads in head_counts(model):
        if heads % tensor or (kv_heads % tensor and tensor % kv_heads):
            allowed = ", ".join(str(each) for each in divisors(heads) if kv_heads % each == 0 or each % kv_heads == 0)
            raise InvalidSetup(
                f"tensor_parallel must divide the {heads} attention heads"
                f" (and divide or be a multiple of the {kv_heads} key-value heads): {allowed}",
                "tensor_parallel",
            )


def _check_widths(model: Model, tensor: int) -> None:
    if tensor == 1:
        return
    for width in inner_widths(model):
        if width % tensor:
            allowed = ", ".join(str(each) for each in divisors(math.gcd(*inner_widths(model))) if each <= 64)
            raise InvalidSetup(
                f"tensor_parallel must divide the feed-forward width {width:,}: {allowed}", "tensor_parallel"
            )


@lru_cache(maxsize=1024)
def inner_widths(model: Model) -> tuple[int, ...]:
    """Widths of the feed-forward layers that tensor parallelism cuts."""
    found = {
        tensor.shape[-1]
        for layer in model.distinct
        for tensor in layer.tensors()
        if tensor.role == "ffn_down" and tensor.cut is Cut.TENSOR and tensor.linear and len(tensor.shape) == 2
    }
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def stage_ends(layers: int, pipeline: int) -> tuple[tuple[int, int], ...]:
    """First layer and the one after the last, for each stage. Layers that are left over go to the last stages but one,
    as the first and the last hold embedding and head (vLLM's rule).

    >>> stage_ends(10, 4)
    ((0, 2), (2, 5), (5, 8), (8, 10))
    """
    counts = [layers // pipeline] * pipeline
    for turn in range(layers % pipeline):
        counts[-2 - turn if pipeline > 1 else 0] += 1
    ends, first = [], 0
    for count in counts:
        ends.append((first, first + count))
        first += count
    return tuple(ends)


@lru_cache(maxsize=1024)
def part_of(model: Model, tensor: int, first: int, last: int) -> Model:
    """What one GPU runs: the layers of its stage with its share of heads and widths. The head is left out where another
    stage has it. The model itself where there is nothing to share."""
    whole = first == 0 and last == len(model.layers)
    if tensor == 1 and whole:
        return model
    made = {layer: sliced(layer, tensor) for layer in set(model.layers[first:last])}
    layers = tuple(made[layer] for layer in model.layers[first:last])
    head, ends = model.head, last == len(model.layers)
    if not ends:
        head = replace(head, vocabulary=0, bias=False)
    elif tensor > 1:
        head = replace(head, vocabulary=ceil_div(round_up(head.vocabulary, 64), tensor))
    return replace(model, layers=layers, head=head, towers=(), speculative=())


_DIVIDED = frozenset(
    {"heads", "kv_heads", "intermediate", "inner", "key_heads", "value_heads", "groups", "shared_intermediate"}
)


def sliced(part: Any, ways: int) -> Any:
    """A layer, or a part of one, as one of `ways` GPUs runs it: heads and inner widths divided, hidden width whole.

    A norm over all heads is divided with them.
    """
    if ways == 1 or not is_dataclass(part) or isinstance(part, type):
        return part
    changed: dict[str, Any] = {}
    for each in fields(part):
        value = getattr(part, each.name)
        if each.name in _DIVIDED and isinstance(value, int) and value > 1:
            changed[each.name] = ceil_div(value, ways)
        elif isinstance(value, Norm):
            if each.name in ("query_norm", "key_norm") and getattr(part, "norm_full", False):
                changed[each.name] = replace(value, width=ceil_div(value.width, ways))
        elif each.name != "norms" and is_dataclass(value):
            inner = sliced(value, ways)
            if inner != value:
                changed[each.name] = inner
    return replace(part, **changed) if changed else part
