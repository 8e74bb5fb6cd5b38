"""What one GPU of a pipeline stage stores: weights in the checkpoint's format, caches and states.

All of it is arithmetic on the lists of layers, worked out once for a model, a format and a placement.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from operator import attrgetter

from ..formats import KV_CACHE_PRECISIONS, Facts, Format, Recipe
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
    allocator   whether tensors are blocks of torch's caching allocator, which rounds large ones up
    fused       whether q, k, v and gate, up are one tensor each
    apart       whether each expert is a tensor of its own
    ahead       of the weights, the share for which one block is set aside before they are loaded one after the other
                into blocks of the allocator; None where they are not loaded so
    """

    vocabulary: int = 1
    towers: bool = True
    cut_towers: bool = False
    allocator: bool = False
    fused: bool = False
    apart: bool = False
    ahead: Fraction | None = None


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


@lru_cache(maxsize=1024)
def stages_alike(model: Model, recipe: Recipe | None, pipeline: int) -> tuple[int, ...]:
    """For each stage the first one that holds the same: equal layers, stored alike, and the same ends."""
    if pipeline == 1:
        return (0,)
    facts = facts_of(model)
    numbers: dict[tuple[Block, Hashable], int] = {}
    kinds = [
        numbers.setdefault((layer, None if recipe is None else recipe.alike(place, facts)), len(numbers))
        for place, layer in enumerate(model.layers)
    ]
    seen: dict[tuple[int | bool, ...], int] = {}
    return tuple(
        seen.setdefault((stage == 0, stage == pipeline - 1, *kinds[first:last]), stage)
        for stage, (first, last) in enumerate(stage_ends(len(model.layers), pipeline))
    )


Bundle = tuple[tuple[Tensor, ...], int | None, int]  # tensors, the layer they are weighed as, how many are alike


def bundles(model: Model, recipe: Recipe | None, pipeline: int, stage: int, loading: Loading) -> Iterator[Bundle]:
    """The tensors of a stage, equal layers that the format stores alike together. The first stage has embedding and
    towers, the last the head; a tied table is on both."""
    first, last = stage_ends(len(model.layers), pipeline)[stage]
    tied = not any(tensor.role == "output" for tensor in model.head.tensors())
    outside: list[Tensor] = []
    if stage == 0:
        outside += model.embedding.tensors()
        if loading.towers:
            outside += [tensor for tower in model.towers for tensor in tower.tensors()]
    if stage == pipeline - 1:
        outside += model.head.tensors()
        if tied and stage:
            outside += [tensor for tensor in model.embedding.tensors() if tensor.role == "embedding"]
    yield tuple(outside), None, 1
    facts = facts_of(model)
    counts: dict[tuple[Block, Hashable], list[int]] = {}
    for place in range(first, last):
        layer = model.layers[place]
        key = layer, None if recipe is None else recipe.alike(place, facts)
        counts.setdefault(key, [place, 0])[1] += 1
    for (layer, _), (place, count) in counts.items():
        yield layer.tensors(), place, count


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


Sizes = list[tuple[Tensor, int]]  # tensors of a bundle and the bytes of each on one GPU


def tensors_made(sizes: Sizes, loading: Loading) -> Iterator[tuple[int, int]]:
    """Bytes of each tensor that an engine makes of a checkpoint's, and how many are alike."""
    together: dict[str, int] = {}
    for tensor, size in sizes:
        name = _FUSED.get(tensor.role) if loading.fused else None
        if name is not None and tensor.linear:
            together[name] = together.get(name, 0) + size
        else:
            count = tensor.experts if tensor.experts and loading.apart else tensor.count
            yield size // count, count
    for size in together.values():
        yield size, 1


def rounding(sizes: Sizes, loading: Loading) -> int:
    """Bytes that the allocator's blocks are larger than tensors of these sizes."""
    return sum((block(size) - size) * count for size, count in tensors_made(sizes, loading))


POOLED = 20 * MIB  # the segment that tensors from 1 to 10 MiB share
LEAST = 2 * MIB  # the segment that tensors up to 1 MiB share


def segments(sizes: Iterable[tuple[int, int]]) -> int:
    """Bytes of the driver that the allocator holds for tensors of these sizes, made one after the other: segments of
    their own from 10 MiB on, below that the best fit in shared ones."""
    total = small = 0
    free: list[int] = []  # what is left of segments, in order
    for size, count in sizes:
        for _ in range(count):
            if size <= SPLIT:
                small += round_up(size, 512)
                continue
            place = bisect_left(free, size)
            if place < len(free):
                rest = free.pop(place)
            else:
                rest = POOLED if size < LARGE else round_up(size, SEGMENT)
                total += rest
            if rest - size > SPLIT:
                insort(free, rest - size)
    return total + round_up(small, LEAST)


def placed(sizes: Iterable[tuple[int, int]], ahead: int = 0) -> int:
    """Bytes that torch's caching allocator counts for tensors of these sizes, made one after the other.

    Each takes the best fit of what is free or a segment, and a rest of up to 1 MiB stays with it. Small ones have
    segments of their own.

    ahead  bytes of a block that was there before, and free

    >>> placed([(3 * MIB // 2, 14)]) - 14 * 3 * MIB // 2 == MIB // 2  # the thirteenth of a segment of 20 MiB
    True
    """
    total = 0
    free = [round_up(ahead, SEGMENT)] if ahead >= LARGE else []
    for size, count in sizes:
        size = round_up(size, 512)
        if size <= SPLIT:
            total += size * count
            continue
        for _ in range(count):
            place = bisect_left(free, size)
            fresh = POOLED if size < LARGE else round_up(size, SEGMENT)
            block = free.pop(place) if place < len(free) else fresh
            if block - size > SPLIT:
                insort(free, block - size)
                block = size
            total += block
    return total


def pieces(
    tensor: Tensor, held: int, recipe: Recipe | None, precision: str, layer: int | None, facts: Facts, apart: bool
) -> Iterator[tuple[int, int]]:
    """Sizes of the tensors that one is in memory, `held` of its elements on this GPU: the numbers of each matrix, and
    what lies beside them; and how many are alike."""
    copies = tensor.count
    if tensor.experts and apart:
        copies = tensor.experts * (2 if "gate_up" in tensor.role else 1)
    if recipe is None:
        yield stored(held, precision) // copies, copies
        return
    kept = recipe.stored(tensor, layer, facts)
    beside = ceil_div(kept.beside * held, tensor.elements)
    yield (recipe.bytes(tensor, layer, facts, held) - beside) // copies, copies
    for part in kept.parts or (kept.beside,):
        if part:
            yield ceil_div(part * held, tensor.elements) // copies, copies


def weights_placed(
    model: Model, recipe: Recipe | None, precision: str, placement: Placement, stage: int, loading: Loading
) -> int:
    """Bytes of the weights on one GPU of a stage as the allocator counts them, loaded by name layer after layer."""
    assert loading.ahead is not None
    facts = facts_of(model)
    made: list[tuple[int, int]] = []
    for tensors, layer, times in bundles(model, recipe, placement.pipeline, stage, loading):
        bundle: list[tuple[int, int]] = []
        for tensor in sorted(tensors, key=attrgetter("name")):
            held = held_of(tensor, placement, loading)
            bundle += pieces(tensor, held, recipe, precision, layer, facts, loading.apart)
        made += bundle * times
    whole = sum(size * count for size, count in made)
    return placed(made, int(whole * loading.ahead))


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
    if loading.ahead is not None and model.stated is None:
        return weights_placed(model, recipe, precision, placement, stage, loading)
    elements = size = 0
    for sizes, held, times in weighed(model, recipe, precision, placement, stage, loading):
        elements += times * held
        size += times * sum(each for _, each in sizes)
        if loading.allocator and model.stated is None:
            size += times * rounding(sizes, loading)
    if model.stated is not None:  # sizes stand for as many parameters as were said
        counted = sum(tensor.elements for tensor in model.tensors())
        if recipe is None:
            return stored(ceil_div(elements * model.stated, counted), precision)
        return ceil_div(size * model.stated, counted)
    return size


def weighed(
    model: Model, recipe: Recipe | None, precision: str, placement: Placement, stage: int, loading: Loading
) -> Iterator[tuple[Sizes, int, int]]:
    """For each bundle of a stage the bytes of its tensors on one GPU, its elements there, and how many are alike."""
    facts = facts_of(model)
    for tensors, layer, times in bundles(model, recipe, placement.pipeline, stage, loading):
        sizes: Sizes = []
        elements = 0
        for tensor in tensors:
            held = held_of(tensor, placement, loading)
            elements += held
            size = stored(held, precision) if recipe is None else recipe.bytes(tensor, layer, facts, held)
            sizes.append((tensor, size))
        yield sizes, elements, times


@lru_cache(maxsize=4096)
def weights_reserved(
    model: Model, recipe: Recipe | None, precision: str, placement: Placement, stage: int, loading: Loading
) -> int:
    """Bytes that the driver counts for the weights on one GPU of a stage: whole segments of the allocator."""
    held = weights_held(model, recipe, precision, placement, stage, loading)
    if model.stated is not None:
        return held
    made: list[tuple[int, int]] = []
    for sizes, _, times in weighed(model, recipe, precision, placement, stage, loading):
        made += list(tensors_made(sizes, loading)) * times
    return max(held, segments(made))


@lru_cache(maxsize=512)
def cache_formats(precision: str) -> Format:
    """The format of a cache."""
    return KV_CACHE_PRECISIONS[precision]


FAR = 2**20  # tokens beyond every window


@lru_cache(maxsize=4096)
def growth(layer: Block, tensor: int = 1) -> int:
    """Elements a token that a layer with a window goes on to keep beyond it: none, but for compressed entries."""
    return ceil_div(layer.cache(2 * FAR, tensor) - layer.cache(FAR, tensor), FAR)


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
