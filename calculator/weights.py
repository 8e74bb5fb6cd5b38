"""The weights of a model in a checkpoint format, tensor by tensor."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

from .formats import Facts, Recipe
from .layers.blocks import Block
from .model import Model
from .tensors import Tensor

_VALUES = frozenset({"attn_v", "attn_qkv", "attn_kv_b"})
_DOWNS = frozenset({"ffn_down", "ffn_down_exps", "ffn_down_shexp"})


@lru_cache(maxsize=512)
def facts_of(model: Model) -> Facts:
    """What of a model decides how its tensors are stored, read off its tensors."""
    values: dict[int, int] = {}
    downs: dict[int, int] = {}
    experts, heads, shared = 0, 1, 1
    roles: dict[Block, frozenset[str]] = {}
    for layer in model.distinct:
        tensors = layer.tensors()
        roles[layer] = frozenset(tensor.role for tensor in tensors)
        experts = max([experts, *(tensor.experts for tensor in tensors)])
        if heads == shared == 1 and layer.mixer is not None:
            heads = getattr(layer.mixer, "heads", 0) or 1
            shared = getattr(layer.mixer, "kv_heads", 0) or heads
    for place, layer in enumerate(model.layers):
        if roles[layer] & _VALUES:
            values[place] = len(values)
        if roles[layer] & _DOWNS:
            downs[place] = len(downs)
    every = len(model.layers)
    return Facts(
        layers=every,
        tied=not any(tensor.role == "output" for tensor in model.head.tensors()),
        experts=experts,
        sharing=max(heads // shared, 1),
        hidden=model.hidden,
        model_type=model.model_type,
        value_layers={} if len(values) == every else values,
        down_layers={} if len(downs) == every else downs,
    )


@lru_cache(maxsize=512)
def weight_bytes(model: Model, recipe: Recipe, tensor: int = 1, expert: int = 1) -> int:
    """Bytes of all weights on the fullest GPU of so many tensor- and expert-parallel ways."""
    facts = facts_of(model)

    def held(each: Tensor, layer: int | None) -> int:
        whole = tensor == 1 and expert == 1
        return recipe.bytes(each, layer, facts, None if whole else each.held(tensor, expert))

    outside = [*model.embedding.tensors(), *model.head.tensors()]
    outside += [each for tower in model.towers for each in tower.tensors()]
    seen: dict[tuple[Block, Hashable], int] = {}
    total = sum(held(each, None) for each in outside)
    for place, layer in enumerate(model.layers):
        key = layer, recipe.alike(place, facts)
        if key not in seen:
            seen[key] = sum(held(each, place) for each in layer.tensors())
        total += seen[key]
    return total
