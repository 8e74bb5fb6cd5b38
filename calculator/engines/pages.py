"""vLLM's cache: groups of equal layers that share pages of one size.

A model whose layers all keep everything holds, for each block of tokens, the sum of its layers' pages. One that mixes
kinds (full attention, windows, recurrent states) is dealt into groups of equally many layers, and every page is as
large as the largest: a page belongs to any group at any time. [vllm/v1/core/kv_cache_utils.py:
_get_kv_cache_groups_uniform_page_size, unify_kv_cache_spec_page_size; vllm/v1/kv_cache_interface.py]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..formats import Format
from ..layers.blocks import Block
from ..model import Model
from ..parallel import Placement, mixers
from ..units import ceil_div
from .holdings import growth, layers_of, state_bytes

ALIGNMENT = 16  # tokens: a block enlarged for a state's sake is a multiple of it


@dataclass(frozen=True, slots=True)
class Kind:
    """Layers that keep alike.

    layers   how many
    token    bytes of a token in one of them
    window   tokens kept, None for all
    state    bytes kept a sequence whatever its length
    """

    layers: int
    token: int = 0
    window: int | None = None
    state: int = 0


INDEX_BLOCK = 128  # elements of an indexer's key that share a float32 scale


def token_bytes(layer: Block, placement: Placement, stored: Format, packed: bool) -> int:
    """Bytes of a token in one layer. `packed`: an indexer's key is kept in fp8 with its scales, and beside it a latent
    in fp8 keeps scales too and its rotary part in 16 bit. [deepseek_v2.py: DeepseekV32IndexerCache; fp8_ds_mla]"""
    elements = layer.cache(1, placement.tensor)
    for mixer in mixers(layer) if packed else ():
        index = getattr(mixer, "index_dim", 0) if getattr(mixer, "indexer", True) else 0
        latent = getattr(mixer, "latent", 0)
        if not index or index >= elements:
            continue
        rest = stored.bytes(elements - index)
        if latent and stored.bits_per_weight == 8:
            rest = latent + ceil_div(latent, INDEX_BLOCK) * 4 + mixer.rotary * 2
        return rest + index + ceil_div(index, INDEX_BLOCK) * 4
    return stored.bytes(elements)


@lru_cache(maxsize=4096)
def kinds(
    model: Model, placement: Placement, stage: int, stored: Format, width: int, packed: bool = True
) -> tuple[Kind, ...]:
    """The kinds of layers of a stage, on one GPU. A convolution's newest input is not kept (spared = 1)."""
    counts: dict[tuple[int, int | None, int], int] = {}
    for layer, count in layers_of(model, placement.pipeline, stage).items():
        token = token_bytes(layer, placement, stored, packed)
        if token:
            window = next((mixer.window for mixer in mixers(layer) if getattr(mixer, "window", None)), None)
            counts[token, window, 0] = counts.get((token, window, 0), 0) + count
            beyond = stored.bytes(growth(layer, placement.tensor)) if window is not None else 0
            if beyond:  # compressed entries are a cache of their own
                counts[beyond, None, 0] = counts.get((beyond, None, 0), 0) + count
        state = sum(state_bytes(each, width, spared=1) for each in layer.states(placement.tensor))
        if state:
            counts[0, None, state] = counts.get((0, None, state), 0) + count
    return tuple(Kind(count, *key) for key, count in counts.items())


@dataclass(frozen=True, slots=True)
class Group:
    """Layers whose pages are handed out together: tokens of a block, window, and whether it is a state."""

    block: int
    window: int | None = None
    state: bool = False


@dataclass(frozen=True, slots=True)
class Pages:
    """How a stage's cache is paged.

    page    bytes that one block takes over all layers of a group
    groups  of which each takes pages of its own
    """

    page: int
    groups: tuple[Group, ...]

    def per_sequence(self, tokens: int, batched: int, state_pages: int) -> int:
        """Pages of one sequence. A window keeps what a step of `batched` tokens may still need, and a block more."""
        pages = 0
        for group in self.groups:
            if group.state:
                pages += state_pages
                continue
            whole = ceil_div(tokens, group.block)
            if group.window is not None:
                whole = min(whole, ceil_div(min(group.window - 1 + batched, tokens), group.block) + 1)
            pages += whole
        return pages


@lru_cache(maxsize=4096)
def paged(layers: tuple[Kind, ...], block: int, ratio: float) -> Pages:
    """The groups of some kinds of layers. `ratio`: up to this many times the smallest kind's layers, groups are as
    large as the largest kind instead, padded.

    >>> paged((Kind(12, 2048), Kind(12, 2048, 128)), 16, 1.5).page == 12 * 16 * 2048
    True
    """
    if not layers:
        return Pages(1, ())
    states = [kind for kind in layers if kind.state]
    attending = [kind for kind in layers if kind.token]
    windowed = any(kind.window is not None for kind in attending)
    if not states and (len(attending) == 1 or not windowed):
        window = attending[0].window if len(attending) == 1 else None
        return Pages(block * sum(kind.layers * kind.token for kind in attending), (Group(block, window),))
    if not attending:
        return Pages(sum(kind.layers * kind.state for kind in states), (Group(1, state=True),))
    token = max(kind.token for kind in attending)
    if states:
        largest = max(kind.state for kind in states)
        least = min(kind.token for kind in attending)
        block = max(block, ALIGNMENT * ceil_div(largest, ALIGNMENT * least))
    page = block * token
    smallest, most = min(kind.layers for kind in layers), max(kind.layers for kind in layers)
    size = most if most < smallest * ratio else smallest
    groups: list[Group] = []
    for kind in layers:
        times = ceil_div(kind.layers, size)
        if kind.state:
            groups += [Group(block, state=True)] * times
        else:
            # as many blocks as the largest page holds
            groups += [Group(block * (token // kind.token), kind.window)] * times
    return Pages(size * page, tuple(groups))
