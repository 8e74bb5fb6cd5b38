"""The weights of a model in a checkpoint format, tensor by tensor."""

from __future__ import annotations

from functools import lru_cache

from .formats import Facts, Recipe
from .model import Model
from .tensors import Tensor

_VALUES = frozenset({"attn_v", "attn_qkv", "attn_kv_b"})
_DOWNS = frozenset({"ffn_down", "ffn_down_exps", "ffn_down_shexp"})


@lru_cache(maxsize=512)
def facts_of(model: Model) -> Facts:
    """What of a model decides how its tensors are stored, read off its tensors."""
    values: list[int] = []
    downs: list[int] = []
    experts, heads, shared = 0, 1, 1
    for place, layer in enumerate(model.layers):
        tensors = layer.tensors()
        roles = {tensor.role for tensor in tensors}
        if roles & _VALUES:
            values.append(place)
        if roles & _DOWNS:
            downs.append(place)
        experts = max([experts, *(tensor.experts for tensor in tensors)])
        if heads == shared == 1 and layer.mixer is not None:
            heads = getattr(layer.mixer, "heads", 0) or 1
            shared = getattr(layer.mixer, "kv_heads", 0) or heads
    every = len(model.layers)
    return Facts(
        layers=every,
        tied=not any(tensor.role == "output" for tensor in model.head.tensors()),
        experts=experts,
        sharing=max(heads // shared, 1),
        model_type=model.model_type,
        value_layers=() if len(values) == every else tuple(values),
        down_layers=() if len(downs) == every else tuple(downs),
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
    return sum(held(each, None) for each in outside) + sum(
        held(each, place) for place, layer in enumerate(model.layers) for each in layer.tensors()
    )
