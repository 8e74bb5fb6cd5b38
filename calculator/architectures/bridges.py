"""Families with more than a projector between tower and text (BLIP-2, Florence-2, MiniCPM-V, Molmo 2), encoders that
timm builds (FastVLM, Perception LM), and Gemma 4 without encoders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .families import TEXTS
from .fields import Fields, with_defaults
from .gemma4 import gemma4_text
from .linear_attention import completed
from .llama import llama_like
from .sight import encoder_block, heads_of, patches, sides
from .sounds import timm_tower
from .speech import convolution, sizes
from .table import Reader
from .texts import part, plain_head, read_text, text_part, tied_anywhere, tied_outside

# ---------------------------------------------------------------------- BLIP-2, InstructBLIP


def blip_tower(fields: Fields) -> Tower:
    """BLIP-2's: a token for the class, learned positions, q, k and v in one matrix."""
    width, wide = fields.size("hidden_size", default=1408), fields.size("intermediate_size", default=6144)
    heads_of(fields, width, 16)
    high, across = sides(fields, "patch_size", 14)
    block = (
        *matrix("self_attn.qkv", 3 * width, width, fields.flag("qkv_bias", default=True)),
        *matrix("self_attn.projection", width, width),
        *layer_norm("layer_norm1", width),
        *layer_norm("layer_norm2", width),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    return Tower(
        "vision",
        (
            table("class_embedding", 1, 1, width),
            table("position_embedding", 1, patches(fields, 224, 14) + 1, width),
            *convolution("patch_embedding", width, 3, high, across),
            *times(block, fields.size("num_hidden_layers", default=39)),
            *layer_norm("post_layernorm", width),
        ),
    )


def bert_part(name: str, width: int, into: int) -> tuple[Tensor, ...]:
    """BERT's attention and the norm after it; keys and values are of what is `into` wide."""
    return (
        *matrix(f"{name}.attention.query", width, width),
        *matrix(f"{name}.attention.key", width, into),
        *matrix(f"{name}.attention.value", width, into),
        *matrix(f"{name}.output.dense", width, width),
        *layer_norm(f"{name}.output.LayerNorm", width),
    )


def bert_wide(name: str, width: int, wide: int) -> tuple[Tensor, ...]:
    """BERT's feed-forward layer and the norm after it."""
    return (
        *matrix(f"intermediate{name}.dense", wide, width),
        *matrix(f"output{name}.dense", width, wide),
        *layer_norm(f"output{name}.LayerNorm", width),
    )


def querying(fields: Fields, seen: int, reads: bool) -> tuple[Tensor, ...]:
    """The Q-Former's layers: BERT's with attention to the tower in every n-th, and a second feed-forward layer for
    text where it `reads` any."""
    width, wide = fields.size("hidden_size", default=768), fields.size("intermediate_size", default=3072)
    heads_of(fields, width, 12)
    count, every = (
        fields.size("num_hidden_layers", default=12, most=10_000),
        fields.size("cross_attention_frequency", default=2),
    )
    layer = (
        *bert_part("attention", width, width),
        *bert_wide("_query", width, wide),
        *(bert_wide("", width, wide) if reads else ()),
    )
    return (*times(layer, count), *times(bert_part("crossattention", width, seen), -(-count // every)))


def blip(fields: Fields, name: str | None, instructed: bool) -> Model:
    """A text model as its own class builds it, its head included, after a tower and a Q-Former."""
    kind, text = text_part(fields, "opt")
    model = TEXTS[kind](text, name)
    seen, asking = part(fields, "vision_config"), part(fields, "qformer_config")
    tower = blip_tower(seen)
    width = asking.size("hidden_size", default=768)
    reads = instructed or asking.flag("use_qformer_text_input")
    words = (
        table("embeddings.word_embeddings.weight", asking.size("vocab_size", default=30522), width),
        table("embeddings.position_embeddings.weight", asking.size("max_position_embeddings", default=512), width),
    )
    bridge = (
        table("query_tokens", 1, fields.size("num_query_tokens", default=32), width),
        *(words if instructed else ()),
        *layer_norm("qformer.layernorm", width),
        *querying(asking, seen.size("hidden_size", default=1408), reads),
        *matrix("language_projection", model.hidden, width),
    )
    return completed(fields, model, (tower, Tower("projector", bridge)))


def blip_2(fields: Fields, name: str | None) -> Model:
    """BLIP-2: OPT or FLAN-T5 behind a Q-Former that sees."""
    return blip(fields, name, instructed=False)


def instructblip(fields: Fields, name: str | None) -> Model:
    """InstructBLIP: Vicuna or FLAN-T5 behind a Q-Former that sees and reads the question."""
    return blip(fields, name, instructed=True)


# ---------------------------------------------------------------------- Florence-2


def davit(fields: Fields) -> tuple[Tensor, ...]:
    """Florence-2's tower (DaViT): four stages, each of which joins patches and then attends over windows and over
    channels in turn."""
    widths = sizes(fields, "embed_dim", [128, 256, 512, 1024])
    depths, kernels = sizes(fields, "depths", [1, 1, 9, 1]), sizes(fields, "patch_size", [7, 3, 3, 3])
    heads, groups = sizes(fields, "num_heads", [4, 8, 16, 32]), sizes(fields, "num_groups", [4, 8, 16, 32])
    first = fields.items("patch_prenorm")
    first = [False, True, True, True] if first is None else first
    if not len(widths) == len(depths) == len(kernels) == len(first) == len(heads) == len(groups):
        fields.refuse("embed_dim", "must have as many entries as every other list of stages")
    into = fields.size("in_channels", default=3)
    made: list[Tensor] = []
    ratio = fields.number("mlp_ratio", default=4.0)
    bias = fields.flag("qkv_bias", default=True)
    for width, depth, kernel, normed, head, group in zip(widths, depths, kernels, first, heads, groups, strict=True):
        fields.divides(width, head, ("embed_dim", "num_heads"))
        fields.divides(width, group, ("embed_dim", "num_groups"))
        if not 1 <= width * ratio <= 10**9:
            fields.refuse("mlp_ratio", "makes no layer")
        wide = int(width * ratio)
        block = (
            *convolution("conv", width, 1, 3, 3, count=2),
            *layer_norm("norm", width, count=2),
            *matrix("attn.qkv", 3 * width, width, bias),
            *matrix("attn.proj", width, width),
            *matrix("ffn.fc1", wide, width),
            *matrix("ffn.fc2", width, wide),
        )
        made += convolution("convs.conv", width, into, kernel, kernel)
        made += layer_norm("convs.norm", into if normed else width)
        made += times(block, 2 * depth)
        into = width
    return tuple(made)


def florence2(fields: Fields, name: str | None) -> Model:
    """Florence-2: BART whose encoder is given patches before the question."""
    kind, text = text_part(fields, "bart")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config")
    last, out = sizes(seen, "embed_dim", [128, 256, 512, 1024])[-1], seen.size("projection_dim", default=1024)
    projector = (
        *matrix("multi_modal_projector.image_projection", out, last, False),
        *layer_norm("multi_modal_projector.image_proj_norm", out),
        table("image_position_embed.weight", seen.size("max_position_embeddings", default=50), last),
    )
    return completed(fields, model, (Tower("vision", davit(seen)), Tower("projector", projector)))


# ---------------------------------------------------------------------- FastVLM, Perception LM


def fast_vlm(fields: Fields, name: str | None) -> Model:
    """FastVLM: Qwen 2 and a convolutional encoder of timm's."""
    absent = {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "vocab_size": 152128,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "num_hidden_layers": 28,
    }
    kind, text = text_part(fields, "qwen2", absent)
    model = read_text(kind, text, name, tied_anywhere(fields, kind))
    seen = part(
        fields,
        "vision_config",
        {"architecture": "fastvit_mci3", "hidden_size": 3072, "model_args": {"inference_mode": True}},
    )
    bias = fields.flag("multimodal_projector_bias", default=True)
    projector = (
        *matrix("multi_modal_projector.linear_1", model.hidden, seen.size("hidden_size", default=3072), bias),
        *matrix("multi_modal_projector.linear_2", model.hidden, model.hidden, bias),
    )
    return completed(fields, model, (timm_tower(seen, "fastvit_mci3"), Tower("projector", projector)))


PERCEPTION: dict[str, dict[str, Any]] = {  # timm 1.0.31's Perception Encoders: what `model_args` may change
    "vit_pe_core_large_patch14_336": {"depth": 24, "img_size": 336, "wide": 4, "token": True},
    "vit_pe_core_gigantic_patch14_448": {"depth": 50, "img_size": 448, "wide": 8960 / 1536, "token": False},
}


def perception_tower(fields: Fields) -> tuple[Tower, int]:
    """A Perception Encoder as timm builds it, and its width."""
    named = fields.text("architecture", default="resnet50")
    if named not in PERCEPTION:
        fields.refuse("architecture", f"{named!r:.60} is no encoder that this program knows: {', '.join(PERCEPTION)}")
    plan, given = PERCEPTION[named], fields.inner("model_args")
    width = given.size("embed_dim")
    heads = given.size("num_heads", default=16)
    given.divides(width, heads, ("embed_dim", "num_heads"))
    wide = int(width * given.number("mlp_ratio", default=plan["wide"]))
    if not 0 < wide <= 10**9:
        given.refuse("mlp_ratio", "makes no layer")
    high, across = sides(given, "img_size", plan["img_size"])
    places = (high // 14) * (across // 14) + plan["token"]
    block = (
        *(table(each, width) for each in ("gamma_1", "gamma_2") if given.has("init_values")),
        *layer_norm("norm1", width),
        *layer_norm("norm2", width),
        *matrix("attn.qkv", 3 * width, width),
        *matrix("attn.proj", width, width),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    pool = (
        table("attn_pool.latent", 1, 1, width),
        *matrix("attn_pool.q", width, width),
        *matrix("attn_pool.kv", 2 * width, width),
        *matrix("attn_pool.proj", width, width),
        *layer_norm("attn_pool.norm", width),
        *matrix("attn_pool.mlp.fc1", wide, width),
        *matrix("attn_pool.mlp.fc2", width, wide),
    )
    stored = (
        *((table("cls_token", 1, 1, width),) if plan["token"] else ()),
        table("pos_embed", 1, places, width),
        table("patch_embed.proj.weight", width, 3, 14, 14),
        *layer_norm("norm_pre", width),
        *times(block, given.size("depth", default=plan["depth"])),
        *(layer_norm("norm", width) if given.flag("use_post_transformer_norm", default=True) else ()),
        *(pool if given.text("global_pool", default="map") == "map" else ()),
    )
    return Tower("vision", stored), width


def perception_lm(fields: Fields, name: str | None) -> Model:
    """Perception LM: Llama and a Perception Encoder."""
    kind, text = text_part(fields, "llama")
    inside = text.flag("tie_word_embeddings")
    model = read_text(kind, text, name, fields.flag("tie_word_embeddings", default=inside))
    tower, width = perception_tower(part(fields, "vision_config"))
    projector = (
        *matrix("multi_modal_projector.linear_1", model.hidden, width),
        *matrix("multi_modal_projector.linear_2", model.hidden, model.hidden),
    )
    return completed(fields, model, (tower, Tower("projector", projector)))


# ---------------------------------------------------------------------- MiniCPM-V 4.6


def minicpmv4_6(fields: Fields, name: str | None) -> Model:
    """MiniCPM-V 4.6: Qwen 3.5's text layers; SigLIP's blocks with a merger of windows among them, then mergers."""
    kind, text = text_part(fields, "qwen3_5_text")
    model = replace(read_text(kind, text, name, tied_outside(fields, False)), batched_tables=True)
    seen = part(fields, "vision_config")
    width, wide = seen.size("hidden_size", default=768), seen.size("intermediate_size", default=3072)
    heads_of(seen, width, 12)
    high, across = sides(seen, "patch_size", 16)
    down, beside = sides(seen, "window_kernel_size", 2)
    merged = width * down * beside
    tower = (
        *convolution("patch_embedding", width, seen.size("num_channels", default=3), high, across),
        table("position_embedding.weight", patches(seen, 224, 16), width),
        *times(encoder_block(width, wide), seen.size("num_hidden_layers", default=12)),
        *layer_norm("post_layernorm", width),
        *(each for name in ("q", "k", "v", "out") for each in matrix(f"vit_merger.{name}_proj", width, width)),
        *layer_norm("vit_merger.layer_norm1", width),
        *layer_norm("vit_merger.pre_norm", merged),
        *matrix("vit_merger.linear_1", wide * down * beside, merged),
        *matrix("vit_merger.linear_2", width, wide * down * beside),
    )
    repeats = fields.size("merger_times", default=1, most=1024) - 1
    first = (*layer_norm("merger.pre_norm", 4 * width), *matrix("merger.linear_1", 4 * width, 4 * width))
    projector = (
        *times(first, repeats + 1),
        *(matrix("merger.linear_2", width, 4 * width, count=repeats) if repeats else ()),
        *matrix("merger.linear_2", model.hidden, 4 * width),
    )
    return completed(fields, model, (Tower("vision", tower), Tower("projector", projector)))


# ---------------------------------------------------------------------- Molmo 2


def molmo2_text(text: Fields, name: str | None) -> Model:
    """Molmo 2's text model: Qwen 3's layers, or OLMo 2's; further rows in the table that the head lacks."""
    text = with_defaults(
        text,
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=36864,
    )
    bias = text.flag("attention_bias", "qkv_bias")
    plan = text.text("qk_norm_type", default="qwen3"), text.flag("norm_after")
    if plan == ("qwen3", False):
        model = llama_like(text, name, bias=bias, output_bias=False, head_norm=True)
    elif plan == ("olmo", True) and not bias:
        model = TEXTS["olmo2"](text, name)
    else:
        text.refuse("qk_norm_type", "must be qwen3 without norm_after, or olmo with it and without biases")
    rows = model.embedding.vocabulary + text.size("additional_vocab_size", default=128, least=0)
    return replace(
        model, embedding=replace(model.embedding, vocabulary=rows), head=plain_head(model.head, False)
    )  # its class ties nothing


def grouped(
    fields: Fields, width: int, into: int, defaults: tuple[int, int, int], letter_bias: bool
) -> tuple[Tensor, ...]:
    """Grouped heads of Molmo 2's tower and adapter."""
    heads = fields.size("num_attention_heads", default=defaults[0])
    kv_heads = fields.size("num_key_value_heads", default=defaults[1])
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    head = fields.size("head_dim", default=defaults[2])
    return (
        *matrix("self_attn.q_proj", heads * head, into, letter_bias),
        *matrix("self_attn.k_proj", kv_heads * head, into, letter_bias),
        *matrix("self_attn.v_proj", kv_heads * head, into, letter_bias),
        *matrix("self_attn.o_proj", width, heads * head, letter_bias),
    )


def molmo2(fields: Fields, name: str | None) -> Model:
    """Molmo 2: a tower, of whose layers two are joined, pooled by attention and brought to the text's width.

    Older checkpoints call the tower `vit_config`: of that, only the layers that are used are built."""
    model = molmo2_text(text_part(fields, "molmo2_text", fixed=True)[1], name)
    older = not fields.has("vision_config") and fields.has("vit_config")
    seen, adapter = fields.inner("vit_config" if older else "vision_config"), fields.inner("adapter_config")
    width, wide = seen.size("hidden_size", default=1152), seen.size("intermediate_size", default=4304)
    patch = seen.size("image_patch_size", "patch_size", default=14)
    image = "image_default_input_size" if seen.has("image_default_input_size") else "image_size"
    high, across = sides(seen, image, 378)
    places = seen.size("image_num_pos", "num_position_embeddings", default=max((high // patch) * (across // patch), 1))
    count = seen.size("num_hidden_layers", default=25, most=10_000)
    used = adapter.items("vit_layers") or adapter.items("vision_feature_layer") or [24, 18]
    if not all(type(each) is int and -count <= each < count for each in used):
        adapter.refuse("vision_feature_layer", f"must be numbers of the tower's {count} layers")
    if older:
        count = max(each % count for each in used) + 1
    block = (
        *grouped(seen, width, width, (16, 16, 72), seen.flag("attention_bias", default=True)),
        *layer_norm("layer_norm1", width),
        *layer_norm("layer_norm2", width),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    pixels = seen.size("num_channels", default=3) * patch**2
    tower = (
        table("positional_embedding", places, width),
        *matrix("patch_embedding", width, pixels),
        *times(block, count),
    )
    narrow, between = adapter.size("hidden_size", default=1152), adapter.size("intermediate_size", default=18944)
    bias = adapter.flag("mlp_bias")
    projector = (
        *grouped(adapter, narrow, narrow * len(used), (16, 16, 72), adapter.flag("attention_bias", default=True)),
        *matrix("image_projector.gate_proj", between, narrow, bias),
        *matrix("image_projector.up_proj", between, narrow, bias),
        *matrix("image_projector.down_proj", adapter.size("text_hidden_size", default=3584), between, False),
    )
    return completed(fields, model, (Tower("vision", tower), Tower("projector", projector)))


# ---------------------------------------------------------------------- Gemma 4 without encoders


def gemma4_unified_text(fields: Fields, name: str | None) -> Model:
    """The text layers of Gemma 4 without embeddings of their own and without experts."""
    plain = {"hidden_size_per_layer_input": 0, "enable_moe_block": False}
    return gemma4_text(Fields({"sliding_window": 1024, **fields.values, **plain}, fields.path), name)


def gemma4_unified(fields: Fields, name: str | None) -> Model:
    """Gemma 4 that is given pixels and sound almost as they are: a matrix and norms stand for encoders."""
    text = text_part(fields, "gemma4_unified_text", fixed=True)[1]
    tied = tied_outside(fields, True)
    model = gemma4_unified_text(Fields({**text.values, "tie_word_embeddings": tied}, text.path), name)
    towers: list[Tower] = []
    if fields.values.get("vision_config") is not None:
        seen = fields.inner("vision_config")
        side = seen.size("patch_size", default=16) * seen.size("pooling_kernel_size", default=3)
        width, out = seen.size("mm_embed_dim", default=3840), seen.size("output_proj_dims", default=3840)
        stored = (
            *layer_norm("embed_vision.patch_ln1", 3 * side**2),
            *matrix("embed_vision.patch_dense", width, 3 * side**2),
            *layer_norm("embed_vision.patch_ln2", width),
            table("embed_vision.pos_embedding", seen.size("mm_posemb_size", default=1120), 2, width),
            *layer_norm("embed_vision.pos_norm", width),
            *matrix("embed_vision.embedding_projection", model.hidden, out, False),
        )
        towers.append(Tower("vision", stored))
    if fields.values.get("audio_config") is not None:
        heard = fields.inner("audio_config")
        names = ("audio_embed_dim", "hidden_size", "output_proj_dims", "audio_samples_per_token")
        projection = matrix("embed_audio.embedding_projection", model.hidden, heard.size(*names, default=640), False)
        towers.append(Tower("audio", projection))
    return completed(fields, model, tuple(towers))


READERS: dict[str, Reader] = {
    "blip-2": blip_2,
    "fast_vlm": fast_vlm,
    "florence2": florence2,
    "gemma4_unified": gemma4_unified,
    "gemma4_unified_text": gemma4_unified_text,
    "instructblip": instructblip,
    "instructblipvideo": instructblip,
    "minicpmv4_6": minicpmv4_6,
    "molmo2": molmo2,
    "perception_lm": perception_lm,
}
