"""Vision towers by the `model_type` that their own part of a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..layers.towers import layer_norm, matrix, table, times
from ..model import Tower
from ..tensors import Tensor
from .fields import Fields
from .vision import pixtral_tower, siglip_tower

TowerReader = Callable[[Fields], Tower]


def sides(fields: Fields, name: str, default: int) -> tuple[int, int]:
    """A size in both directions: one number, or a list of two."""
    value = fields.values.get(name)
    if isinstance(value, list | tuple):
        if len(value) != 2:
            fields.refuse(name, "must be one number or two")
        both = Fields(dict(zip(("height", "width"), value, strict=True)), f"{fields.path}.{name}")
        return both.size("height"), both.size("width")
    side = fields.size(name, default=default)
    return side, side


def patches(fields: Fields, image: int, patch: int) -> int:
    """Patches of one image."""
    high, wide = sides(fields, "image_size", image)
    down, across = sides(fields, "patch_size", patch)
    if high < down or wide < across:
        fields.refuse("patch_size", "must fit into image_size")
    return (high // down) * (wide // across)


def heads_of(fields: Fields, width: int, default: int, *names: str) -> int:
    """Heads of an encoder, which must divide its width."""
    names = names or ("num_attention_heads",)
    heads = fields.size(*names, default=default)
    fields.divides(width, heads, ("hidden_size", names[0]))
    return heads


def encoder_block(
    width: int, wide: int, *, bias: bool = True, out: str = "out_proj", norms: tuple[str, str] = ("norm1", "norm2")
) -> tuple[Tensor, ...]:
    """Two layer norms, four matrices of attention, two of the feed-forward layer, all with biases but perhaps those of
    q, k and v."""
    return (
        *(each for norm in norms for each in layer_norm(norm, width)),
        *(each for name in "qkv" for each in matrix(f"self_attn.{name}_proj", width, width, bias)),
        *matrix(f"self_attn.{out}", width, width),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )


def convolution(fields: Fields, width: int, patch: int, bias: bool) -> tuple[Tensor, ...]:
    """What turns patches into hidden states."""
    high, across = sides(fields, "patch_size", patch)
    made = table("patch_embedding.weight", width, fields.size("num_channels", default=3), high, across)
    return (made, table("patch_embedding.bias", width)) if bias else (made,)


def clip(fields: Fields) -> Tower:
    """CLIP's: a token for the class, learned positions, norms before and after the blocks."""
    width, wide = fields.size("hidden_size", default=768), fields.size("intermediate_size", default=3072)
    heads_of(fields, width, 12)
    return Tower(
        "vision",
        (
            table("class_embedding", width),
            *convolution(fields, width, 32, False),
            table("position_embedding.weight", patches(fields, 224, 32) + 1, width),
            *layer_norm("pre_layrnorm", width),
            *times(encoder_block(width, wide), fields.size("num_hidden_layers", default=12)),
            *layer_norm("post_layernorm", width),
        ),
    )


def siglip(fields: Fields) -> Tower:
    """SigLIP's, whose patches must fit into an image."""
    patches(fields, 224, 16)
    return siglip_tower(fields)


def siglip2(fields: Fields) -> Tower:
    """SigLIP 2's: patches come as rows of pixels, positions on a grid of fixed size."""
    width, wide = fields.size("hidden_size", default=768), fields.size("intermediate_size", default=3072)
    heads_of(fields, width, 12)
    pixels = fields.size("num_channels", default=3) * fields.size("patch_size", default=16) ** 2
    return Tower(
        "vision",
        (
            *matrix("patch_embedding", width, pixels),
            table("position_embedding.weight", fields.size("num_patches", default=256), width),
            *times(encoder_block(width, wide), fields.size("num_hidden_layers", default=12)),
            *layer_norm("post_layernorm", width),
            *(attention_pool(width, wide) if fields.flag("vision_use_head", default=True) else ()),
        ),
    )


def attention_pool(width: int, wide: int) -> tuple[Tensor, ...]:
    """SigLIP's pooling: one learned query over all patches, and a feed-forward layer."""
    return (
        table("head.probe", 1, 1, width),
        *matrix("head.attention.in_proj", 3 * width, width),
        *matrix("head.attention.out_proj", width, width),
        *layer_norm("head.layernorm", width),
        *matrix("head.mlp.fc1", wide, width),
        *matrix("head.mlp.fc2", width, wide),
    )


def idefics(fields: Fields, width: int, heads: int) -> Tower:
    """Idefics 2 and 3's: SigLIP's without pooling."""
    width = fields.size("hidden_size", default=width)
    heads_of(fields, width, heads)
    return Tower(
        "vision",
        (
            *convolution(fields, width, 32, True),
            table("position_embedding.weight", patches(fields, 224, 32), width),
            *times(
                encoder_block(width, fields.size("intermediate_size", default=3072)),
                fields.size("num_hidden_layers", default=12),
            ),
            *layer_norm("post_layernorm", width),
        ),
    )


def idefics2(fields: Fields) -> Tower:
    """With the sizes that Idefics 2 has where nothing is said."""
    return idefics(fields, 768, 12)


def idefics3(fields: Fields) -> Tower:
    """With those of Idefics 3 and SmolVLM."""
    return idefics(fields, 1152, 16)


def internvl(fields: Fields) -> Tower:
    """InternViT: a token for the class, layer scales, norms of either kind, perhaps norms over q and k."""
    width, wide = fields.size("hidden_size", default=1024), fields.size("intermediate_size", default=4096)
    heads_of(fields, width, 16)
    bias, biased = fields.flag("attention_bias"), fields.text("norm_type", default="layer_norm") == "layer_norm"
    normed = fields.flag("use_qk_norm")
    block = (
        table("lambda_1", width),
        table("lambda_2", width),
        *(each for name in "qkv" for each in matrix(f"attention.{name}_proj", width, width, bias)),
        *matrix("attention.projection_layer", width, width),
        *(each for name in ("q_norm", "k_norm") if normed for each in layer_norm(f"attention.{name}", width, False)),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
        *layer_norm("layernorm_before", width, biased),
        *layer_norm("layernorm_after", width, biased),
    )
    beside = [table("cls_token", 1, 1, width)]
    if fields.flag("use_mask_token"):
        beside.append(table("mask_token", 1, 1, width))
    if fields.flag("use_absolute_position_embeddings", default=True):
        beside.append(table("position_embeddings", 1, patches(fields, 448, 14) + 1, width))
    return Tower(
        "vision",
        (
            *beside,
            *convolution(fields, width, 14, True),
            *times(block, fields.size("num_hidden_layers", default=24)),
            *(layer_norm("layernorm", width) if not fields.flag("use_mean_pooling", default=True) else ()),
        ),
    )


TOWERS: dict[str, TowerReader] = {
    "clip_vision_model": clip,
    "siglip_vision_model": siglip,
    "siglip2_vision_model": siglip2,
    "idefics2_vision": idefics2,
    "idefics3_vision": idefics3,
    "smolvlm_vision": idefics3,
    "internvl_vision": internvl,
    "pixtral": pixtral_tower,
}


def tower_of(fields: Fields, kind: str) -> Tower:
    """The tower that a vision part describes: of the family it names itself, else of `kind`."""
    named = fields.text("model_type", default=kind)
    reader = TOWERS.get(named)
    if reader is None:
        known = ", ".join(sorted(TOWERS))
        fields.refuse("model_type", f"{named!r:.60} is no vision tower that this program reads; known: {known}")
    return reader(fields)


def feature_layers(fields: Fields, default: Any = -2) -> int:
    """How many layers of the tower the projector takes: `vision_feature_layer`, a number or a list of them."""
    value = fields.values.get("vision_feature_layer", fields.values.get("vision_feature_layers"))
    value = default if value is None else value
    if isinstance(value, list | tuple) and value:
        return len(value)
    if isinstance(value, bool) or not isinstance(value, int):
        fields.refuse("vision_feature_layer", "must be a number of a layer or a list of them")
    return 1
