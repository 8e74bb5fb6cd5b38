"""What one GPU of a pipeline stage stores: weights in the checkpoint's format, caches and states.

All of it is arithmetic on the lists of layers, worked out once for a model, a format and a placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ..formats import KV_CACHE_PRECISIONS, Format, Recipe
from ..layers.blocks import Block
from ..layers.states import State
from ..model import Model
from ..parallel import ALONE, Placement, stage_ends
from ..precisions import BITS, stored
from ..tensors import Tensor
from ..units import MIB, ceil_div, round_up
from ..weights import facts_of


@dataclass(frozen=True, slots=True)
class Loading:
    """What an engine makes of a checkpoint.

    vocabulary  the rows of embedding and head are padded to a multiple of it
    towers      whether encoders of images and sound are loaded
    cut_towers  whether tensor parallelism divides them too
    embedding   whether the table of tokens goes to the GPU where it is not the head too
    allocator   whether tensors are blocks of torch's caching allocator, which rounds large ones up
    fused       whether q, k, v and gate, up are one tensor each
    apart       whether each expert is a tensor of its own
    """

    vocabulary: int = 1
    towers: bool = True
    cut_towers: bool = False
    embedding: bool = True
    allocator: bool = False
    fused: bool = False
    apart: bool = False


PLAIN = Loading()


@lru_cache(maxsize=4096)
def layers_between(model: Model, first: int, last: int) -> dict[Block, int]:
    """Each different layer of a range, and how many of it there are."""
    counts: dict[Block, int] = {}
    for layer in model.layers[first:last]:
        counts[layer] = counts.get(layer, 0) + 1
    return counts


def layers_of(model: Model, pipeline: int, stage: int) -> dict[Block, int]:
    """The same for a stage."""
    if pipeline == 1:
        return model.distinct
    return layers_between(model, *stage_ends(len(model.layers), pipeline)[stage])


def stage_tensors(
    model: Model, pipeline: int, stage: int, loading: Loading = PLAIN
) -> Iterator[tuple[Tensor, int | None]]:
    """Every tensor of a stage with its layer: the first stage has embedding and towers, the last the head. A tied table
    is on both."""
    first, last = stage_ends(len(model.layers), pipeline)[stage]
    tied = not any(tensor.role == "output" for tensor in model.head.tensors())
    if stage == 0:
        for tensor in model.embedding.tensors():
            if loading.embedding or tensor.role != "embedding" or (tied and pipeline == 1):
                yield tensor, None
        if loading.towers:
            for tower in model.towers:
                for tensor in tower.tensors():
                    yield tensor, None
    for place in range(first, last):
        for tensor in model.layers[place].tensors():
            yield tensor, place
    if stage == pipeline - 1:
        for tensor in model.head.tensors():
            yield tensor, None
        if tied and pipeline > 1:
            for tensor in model.embedding.tensors():
                if tensor.role == "embedding":
                    yield tensor, None


def held_of(tensor: Tensor, placement: Placement, loading: Loading) -> int:
    """Elements of a tensor on one GPU, with the rows of a vocabulary's matrix padded."""
    if loading.cut_towers and tensor.component == "multimodal" and len(tensor.shape) > 1:
        return ceil_div(tensor.elements, placement.tensor)
    if loading.vocabulary > 1 and tensor.role in ("embedding", "output") and len(tensor.shape) == 2:
        return placement.held(tensor, round_up(tensor.shape[0], loading.vocabulary) * tensor.shape[1])
    return placement.held(tensor)


LARGE = 10 * MIB  # from here on a tensor gets a segment of its own
SEGMENT = 2 * MIB  # to which that segment is rounded
SPLIT = MIB  # a rest of the segment up to this size stays with the tensor


def block(size: int) -> int:
    """Bytes that torch's caching allocator counts for a tensor. [c10/cuda/CUDACachingAllocator.cpp: round_size,
    get_allocation_size, should_split]

    >>> block(43 * MIB) // MIB, block(42 * MIB) // MIB
    (44, 42)
    """
    if size < LARGE:
        return round_up(size, 512)
    rest = round_up(size, SEGMENT) - size
    return size + rest if rest <= SPLIT else round_up(size, 512)


_FUSED = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), "qkv"),
    **{name + end: "gate_up" + end for name in ("ffn_gate", "ffn_up") for end in ("", "_exps", "_shexp")},
}


def tensors_made(sizes: Iterable[tuple[Tensor, int | None, int]], loading: Loading) -> Iterator[tuple[int, int]]:
    """Bytes of each tensor an engine makes of a checkpoint's (tensor, its layer, bytes), and how many are alike."""
    together: dict[tuple[str, int | None], int] = {}
    for tensor, layer, size in sizes:
        name = _FUSED.get(tensor.role) if loading.fused else None
        if name is not None and tensor.linear:
            together[name, layer] = together.get((name, layer), 0) + size
        else:
            count = tensor.experts if tensor.experts and loading.apart else tensor.count
            yield size // count, count
    for size in together.values():
        yield size, 1


def rounding(sizes: Iterable[tuple[Tensor, int | None, int]], loading: Loading) -> int:
    """Bytes that the allocator's blocks are larger than tensors of these sizes."""
    return sum((block(size) - size) * count for size, count in tensors_made(sizes, loading))


POOLED = 20 * MIB  # the segment that tensors from 1 to 10 MiB share
LEAST = 2 * MIB  # the segment that tensors up to 1 MiB share


def segments(sizes: Iterable[tuple[int, int]]) -> int:
    """Bytes of the driver that the allocator holds for tensors of these sizes, made one after the other: segments of
    their own from 10 MiB on, below that the best fit in shared ones."""
    total = small = 0
    free: list[int] = []
    for size, count in sizes:
        for _ in range(count):
            if size <= SPLIT:
                small += round_up(size, 512)
                continue
            fitting = [rest for rest in free if rest >= size]
            if fitting:
                rest = min(fitting)
                free.remove(rest)
            else:
                rest = POOLED if size < LARGE else round_up(size, SEGMENT)
                total += rest
            if rest - size > SPLIT:
                free.append(rest - size)
    return total + round_up(small, LEAST)


@lru_cache(maxsize=4096)
def weights_held(
    model: Model,
    recipe: Recipe | None,
    precision: str,
    placement: Placement = ALONE,
    stage: int = 0,
    loading: Loading = PLAIN,
) -> int:
    """Bytes of the weights on one GPU of a stage."""
    if recipe is None and placement == ALONE and loading == PLAIN:
        return stored(model.parameters, precision)
    elements = 0
    sizes = _sizes(model, recipe, precision, placement, stage, loading)
    if recipe is None:
        for tensor, _ in stage_tensors(model, placement.pipeline, stage, loading):
            elements += held_of(tensor, placement, loading)
    added = rounding(sizes, loading) if loading.allocator and model.stated is None else 0
    if recipe is not None:
        return sum(size for _, _, size in sizes) + added
    if model.stated is not None:  # sizes stand for as many parameters as were said
        elements = ceil_div(elements * model.stated, sum(tensor.elements for tensor in model.tensors()))
    return stored(elements, precision) + added


def _sizes(
    model: Model, recipe: Recipe | None, precision: str, placement: Placement, stage: int, loading: Loading
) -> list[tuple[Tensor, int | None, int]]:
    facts = facts_of(model)
    sizes: list[tuple[Tensor, int | None, int]] = []
    for tensor, layer in stage_tensors(model, placement.pipeline, stage, loading):
        held = held_of(tensor, placement, loading)
        size = stored(held, precision) if recipe is None else recipe.bytes(tensor, layer, facts, held)
        sizes.append((tensor, layer, size))
    return sizes


@lru_cache(maxsize=4096)
def weights_reserved(
    model: Model, recipe: Recipe | None, precision: str, placement: Placement, stage: int, loading: Loading
) -> int:
    """Bytes that the driver counts for the weights on one GPU of a stage: whole segments of the allocator."""
    held = weights_held(model, recipe, precision, placement, stage, loading)
    if model.stated is not None:
        return held
    sizes = _sizes(model, recipe, precision, placement, stage, loading)
    return max(held, segments(tensors_made(sizes, loading)))


@lru_cache(maxsize=512)
def cache_formats(precision: str) -> Format:
    """The format of a cache."""
    return KV_CACHE_PRECISIONS[precision]


def cache_held(model: Model, placement: Placement, stage: int, tokens: int) -> int:
    """Elements that the layers of a stage keep for one sequence, on one GPU."""
    return sum(
        count * layer.cache(tokens, placement.tensor)
        for layer, count in layers_of(model, placement.pipeline, stage).items()
    )


@lru_cache(maxsize=4096)
def states_of(model: Model, placement: Placement, stage: int) -> tuple[State, ...]:
    """States that the layers of a stage keep for one sequence, on one GPU."""
    return tuple(
        state.times(count)
        for layer, count in layers_of(model, placement.pipeline, stage).items()
        for state in layer.states(placement.tensor)
    )


def state_bytes(state: State, width: int, spared: int = 0) -> int:
    """Bytes of a state; activations are `width` wide. `spared` columns of a convolution's inputs are not kept.

    >>> state_bytes(State("convolution", 32768, columns=4), 2, spared=1)
    49152
    """
    elements = state.elements
    if state.columns and spared:
        elements = elements * (state.columns - spared) // state.columns
    size = {"float32": 4, "bfloat16": 2, "float16": 2}.get(state.precision, width)
    return elements * size


@lru_cache(maxsize=4096)
def states_held(model: Model, placement: Placement, stage: int, width: int, spared: int = 0) -> int:
    """Bytes of all states of one sequence on one GPU of a stage."""
    return sum(state_bytes(state, width, spared) for state in states_of(model, placement, stage))


def spelled(recipe: Recipe | None, precision: str) -> str:
    """How the weights are stored, for a formula."""
    return recipe.name if recipe is not None else f"{BITS[precision]} bits ({precision})"
