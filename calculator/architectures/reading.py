"""Families that read pages (DeepSeek-OCR 2, Unlimited-OCR, ModernVBERT), and those of NVIDIA that see and hear."""

from __future__ import annotations

from typing import Any

from ..layers.attention import Attention
from ..layers.blocks import PreNormBlock
from ..layers.experts import Experts, GroupedSoftmaxRouter, MixtureOfExperts
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.norms import RMSNorm
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .experts import expert_counts, two_norms
from .fields import Fields, with_defaults
from .kin import rms_pair, stack
from .latent import sparse_layers
from .linear_attention import completed
from .llama import attention_sizes
from .pictures import gated
from .rotary_encoders import modernbert
from .scenes import segment_tower
from .sight import encoder_block, heads_of, patches, tower_of
from .speech import convolution, sizes
from .state_space import nemotron_h
from .table import Reader
from .texts import part, text_part, tied_outside
from .vision import seen_in_three

# ---------------------------------------------------------------------- DeepSeek-OCR 2, Unlimited-OCR


def page_text(text: Fields, name: str | None, tied: bool) -> Model:
    """The text model of both: plain attention, DeepSeek-V2's experts.

    Unlimited-OCR's attention reads the whole of a prompt and a window of what was written since: a step over a prompt
    is one over all positions, so no window is taken off here."""
    text = Fields({**text.values, "head_dim": None}, text.path)
    hidden, heads, kv_heads, head_dim = attention_sizes(text)
    bias, biased = text.flag("attention_bias"), text.flag("mlp_bias")
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    experts, chosen = expert_counts(text, "n_routed_experts", "num_experts", chosen=6, experts=64)
    limited = text.text("topk_method", default="greedy") == "group_limited_greedy"
    groups = text.size("n_group", default=1) if limited else 0
    best = text.size("topk_group", default=1, most=groups) if limited else 0
    activation, wide = text.text("hidden_act", default="silu"), text.size("moe_intermediate_size")
    always = GatedFeedForward(
        hidden,
        wide * text.size("n_shared_experts", default=2),
        activation,
        biased,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    mixture = MixtureOfExperts(
        GroupedSoftmaxRouter(hidden, experts, chosen, groups=groups, best=best),
        Experts(hidden, wide, experts, chosen, activation),
        always,
    )
    dense = GatedFeedForward(hidden, text.size("intermediate_size"), activation, biased)
    made = {
        sparse: PreNormBlock(attention, mixture if sparse else dense, two_norms(hidden)) for sparse in (False, True)
    }
    kinds = sparse_layers(text, text.size("num_hidden_layers"), 1)
    return stack(
        text,
        name,
        lambda _: made[True],
        RMSNorm(hidden, "norm"),
        layers=tuple(made[kind] for kind in kinds),
        tied=tied,
        rotary=head_dim,
    )


def page_encoder(fields: Fields, channels: list[int]) -> tuple[tuple[Tensor, ...], int]:
    """Segment Anything's encoder with two convolutions that halve the sides, and what they give."""
    channels = sizes(fields, "downsample_channels", channels)
    if len(channels) != 2:
        fields.refuse("downsample_channels", "must be two")
    ratio, width = fields.number("mlp_ratio", default=4.0), fields.size("hidden_size", default=768)
    if not 1 <= width * ratio <= 10**9:
        fields.refuse("mlp_ratio", "makes no layer")
    plan = {**fields.values, "mlp_dim": fields.size("mlp_dim", default=int(width * ratio))}
    stored = (
        *segment_tower(Fields(plan, fields.path)),
        table("proj.conv1.weight", channels[0], fields.size("output_channels", default=256), 3, 3),
        table("proj.conv2.weight", channels[1], channels[0], 3, 3),
    )
    return stored, channels[1]


def deepseek_ocr2(fields: Fields, name: str | None) -> Model:
    """DeepSeek-OCR 2: Segment Anything's encoder, then Qwen 2's layers over patches and learned queries."""
    text = with_defaults(
        text_part(fields, "deepseek_ocr2_text", fixed=True)[1],
        vocab_size=102400,
        hidden_size=4096,
        intermediate_size=11008,
        moe_intermediate_size=1407,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    model = page_text(text, name, tied_outside(fields, False))
    seen = part(fields, "vision_config")
    close, _ = page_encoder(part(seen, "sam_config"), [512, 896])
    inner = part(seen, "encoder_config")
    width, heads = inner.size("hidden_size", default=4096), inner.size("num_attention_heads", default=32)
    kv_heads = inner.size("num_key_value_heads", default=heads if "num_key_value_heads" in inner.values else 32)
    inner.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    head = inner.size("head_dim", default=max(width // heads, 1))
    block = (
        *matrix("self_attn.q_proj", heads * head, width),
        *matrix("self_attn.k_proj", kv_heads * head, width),
        *matrix("self_attn.v_proj", kv_heads * head, width),
        *matrix("self_attn.o_proj", width, heads * head, False),
        *gated("mlp", width, inner.size("intermediate_size", default=22016), width),
        *layer_norm("input_layernorm", width, False),
        *layer_norm("post_attention_layernorm", width, False),
    )
    tower = (
        *times(block, inner.size("num_hidden_layers", default=32)),
        *layer_norm("norm", width, False),
        table("query_768_resolution.weight", 12 * 12, width),
        table("query_1024_resolution.weight", 16 * 16, width),
    )
    projector = (*matrix("multi_modal_projector", model.hidden, width), table("view_separator", model.hidden))
    return completed(fields, model, (Tower("vision", (*close, *tower)), Tower("projector", projector)))


def unlimited_ocr(fields: Fields, name: str | None) -> Model:
    """Unlimited-OCR: Segment Anything's encoder and CLIP's blocks over what it gives, both joined.

    Its first checkpoint calls the text part `language_config`."""
    given = fields
    if not fields.has("text_config") and fields.has("language_config"):
        given = Fields({**fields.values, "text_config": fields.inner("language_config").values}, fields.path)
    text = with_defaults(
        text_part(given, "unlimited_ocr_text", fixed=True)[1],
        vocab_size=129280,
        hidden_size=1280,
        intermediate_size=6848,
        moe_intermediate_size=896,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=10,
        max_position_embeddings=32768,
    )
    model = page_text(text, name, tied_outside(fields, False))
    seen = part(fields, "vision_config")
    close, out = page_encoder(part(seen, "sam_config"), [512, 1024])
    inner = part(seen, "encoder_config")
    width, wide = inner.size("hidden_size", default=1024), inner.size("intermediate_size", default=4096)
    heads_of(inner, width, 16)
    tower = (
        table("class_embedding", width),
        table("position_embedding.weight", patches(inner, 224, 14) + 1, width),
        *layer_norm("pre_layrnorm", width),
        *times(encoder_block(width, wide), inner.size("num_hidden_layers", default=24)),
    )
    projector = (
        *matrix("multi_modal_projector", model.hidden, out + width),
        table("view_separator", model.hidden),
        table("image_newline", model.hidden),
    )
    return completed(fields, model, (Tower("vision", (*close, *tower)), Tower("projector", projector)))


# ---------------------------------------------------------------------- ModernVBERT


def modernvbert(fields: Fields, name: str | None) -> Model:
    """ModernVBERT: ModernBERT with its head over the vocabulary, or bare, and SigLIP; neighbouring patches joined."""
    _, text = text_part(fields, "modernbert", fixed=True)
    over = {"tie_word_embeddings": tied_outside(fields, False), "architectures": fields.values.get("architectures")}
    model = modernbert(Fields({**text.values, **over}, text.path), name)
    seen = part(fields, "vision_config")
    joined = seen.size("hidden_size", default=768) * fields.size("pixel_shuffle_factor", default=4) ** 2
    connector = matrix("connector.modality_projection", model.hidden, joined, False)
    return completed(fields, model, (tower_of(seen, "siglip_vision_model"), Tower("projector", connector)))


# ---------------------------------------------------------------------- Cosmos 3 Edge, Nemotron Omni


def cosmos3_edge(fields: Fields, name: str | None) -> Model:
    """Cosmos 3 Edge, the part that reasons: Llama's attention, squared ReLU without a gate, SigLIP 2's tower with
    patches as rows of pixels."""
    text = with_defaults(
        text_part(fields, "cosmos3_edge_text", fixed=True)[1],
        vocab_size=131072,
        hidden_size=2048,
        intermediate_size=9216,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(text)
    bias, dropout = text.flag("attention_bias"), text.number("attention_dropout", default=0.0)
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias, dropout=dropout)
    feed_forward = FeedForward(
        hidden,
        text.size("intermediate_size"),
        text.text("hidden_act", default="relu2"),
        text.flag("mlp_bias"),
        up="fc1",
        down="fc2",
    )
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    model = seen_in_three(stack(text, name, lambda _: block, RMSNorm(hidden, "norm"), rotary=head_dim))
    seen = part(fields, "vision_config")
    width, wide = seen.size("hidden_size", default=1152), seen.size("intermediate_size", default=4304)
    heads_of(seen, width, 16)
    pixels = seen.size("num_channels", default=3) * seen.size("patch_size", default=16) ** 2
    tower = (
        *matrix("patch_embedding", width, pixels),
        table("position_embedding.weight", seen.size("num_patches", default=256), width),
        *times(encoder_block(width, wide), seen.size("num_hidden_layers", default=27)),
        *layer_norm("post_layernorm", width),
    )
    joined, between = width * seen.size("spatial_merge_size", default=2) ** 2, "projector_hidden_size"
    projector = (
        *layer_norm("projector.norm", width),
        *matrix("projector.linear_fc1", fields.size(between, default=11520), joined),
        *matrix("projector.linear_fc2", hidden, fields.size(between, default=11520)),
    )
    return completed(fields, model, (Tower("vision", tower), Tower("projector", projector)))


def radio(fields: Fields, frames: int) -> tuple[Tensor, ...]:
    """RADIO's tower: positions cropped from a large table, marks for the class, scales on each branch; a second matrix
    for patches over several frames."""
    width = fields.size("hidden_size", default=1280)
    heads = fields.size("num_attention_heads", default=16)
    head = fields.size("head_dim", default=max(width // heads, 1))
    bias, ratio = fields.flag("qkv_bias", default=True), fields.number("mlp_ratio", default=4.0)
    if not 8 <= width * ratio <= 10**9:
        fields.refuse("mlp_ratio", "makes no layer")
    wide = int(width * ratio)
    feed_forward = (*matrix("mlp.fc1", wide, width), *matrix("mlp.fc2", width, wide))
    if fields.flag("use_swiglu_ffn"):
        feed_forward = gated("mlp", width, (int(wide * 2 / 3) + 7) // 8 * 8, width, True)
    block = (
        *layer_norm("norm1", width),
        *layer_norm("norm2", width),
        *(each for letter in "qkv" for each in matrix(f"attention.{letter}_proj", heads * head, width, bias)),
        *matrix("attention.o_proj", width, heads * head),
        table("layer_scale.lambda1", width, count=2),
        *feed_forward,
    )
    patch, channels = fields.size("patch_size", default=16), fields.size("num_channels", default=3)
    side = fields.size("max_img_size", default=2048, least=patch) // patch
    marks = fields.size("num_cls_tokens", default=3, least=0) + fields.size("num_registers", default=7, least=0)
    pixels = channels * patch**2
    return (
        table("position_embedding", 1, side**2, width),
        *((table("cls_register_token", marks, width),) if marks else ()),
        *matrix("patch_projection", width, pixels, False),
        *matrix("video_patch_projection", width, pixels * frames, False),
        *times(block, fields.size("num_hidden_layers", default=32)),
    )


def parakeet(fields: Fields) -> tuple[Tensor, ...]:
    """Parakeet's encoder: convolutions that halve time and pitch, then conformer blocks with relative positions."""
    width, wide = fields.size("hidden_size", default=1024), fields.size("intermediate_size", default=4096)
    heads = fields.size("num_attention_heads", default=8)
    head = fields.size("head_dim", default=max(width // heads, 1))
    kv_heads = fields.size("num_key_value_heads", default=heads)
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    bias, convolved = fields.flag("attention_bias"), fields.flag("convolution_bias", default=True)
    factor, step = fields.size("subsampling_factor", default=8, least=2), "subsampling_conv_stride"
    layers = factor.bit_length() - 1
    channels, kernel = fields.size("subsampling_conv_channels", default=256), "subsampling_conv_kernel_size"
    side = fields.size(kernel, default=3)
    pitches = fields.size("num_mel_bins", default=80) // fields.size(step, default=2) ** layers
    if not pitches:
        fields.refuse("num_mel_bins", "is too small for subsampling_factor")

    def point(label: str, out: int, into: int, *shape: int) -> tuple[Tensor, ...]:
        return convolution(label, out, into, *shape) if convolved else (table(f"{label}.weight", out, into, *shape),)

    block = (
        *(each for one in "12" for each in matrix(f"feed_forward{one}.linear1", wide, width, bias)),
        *(each for one in "12" for each in matrix(f"feed_forward{one}.linear2", width, wide, bias)),
        table("self_attn.bias", heads, head, count=2),
        *matrix("self_attn.q_proj", heads * head, width, bias),
        *matrix("self_attn.k_proj", kv_heads * head, width, bias),
        *matrix("self_attn.v_proj", kv_heads * head, width, bias),
        *matrix("self_attn.o_proj", width, heads * head, bias),
        *matrix("self_attn.relative_k_proj", heads * head, width, False),
        *point("conv.pointwise_conv1", 2 * width, width, 1),
        *point("conv.depthwise_conv", width, 1, fields.size("conv_kernel_size", default=9)),
        *layer_norm("conv.norm", width),
        *point("conv.pointwise_conv2", width, width, 1),
        *layer_norm("norms", width, count=5),
    )
    further = (*convolution("depthwise", channels, 1, side, side), *convolution("pointwise", channels, channels, 1, 1))
    return (
        *convolution("subsampling.layers.0", channels, 1, side, side),
        *(times(further, layers - 1) if layers > 1 else ()),
        *matrix("subsampling.linear", width, channels * pitches),
        *times(block, fields.size("num_hidden_layers", default=24)),
    )


OLDER = {  # names of released checkpoints
    "llm_config": "text_config",
    "sound_config": "audio_config",
    "vit_hidden_size": "vision_hidden_size",
}


def relu_squared(name: str, into: int, wide: int, out: int, bias: bool = False) -> tuple[Tensor, ...]:
    """Nemotron Omni's projectors: a norm and two matrices."""
    return (
        *layer_norm(f"{name}.layer_norm", into, False),
        *matrix(f"{name}.linear_1", wide, into, bias),
        *matrix(f"{name}.linear_2", out, wide, bias),
    )


def nemotron_h_omni(fields: Fields, name: str | None) -> Model:
    """Nemotron 3 Nano Omni: Nemotron-H, RADIO's tower, and Parakeet's encoder of sound where one is described."""
    moved: dict[str, Any] = {new: fields.values[old] for old, new in OLDER.items() if fields.has(old)}
    whole = Fields({**moved, **{key: value for key, value in fields.values.items() if value is not None}}, fields.path)
    _, text = text_part(whole, "nemotron_h", fixed=True)
    model = nemotron_h(text, name)
    frames = whole.size("video_temporal_patch_size", default=2)
    ratio = whole.number("downsample_ratio", default=0.5)
    if not 0 < ratio <= 1 or int(1 / ratio) > 64:
        whole.refuse("downsample_ratio", "must be from 1/64 to 1")
    width = whole.size("vision_hidden_size", default=1280)
    joined = width * int(1 / ratio) ** 2
    seen = radio(part(whole, "vision_config"), frames)
    projector = relu_squared(
        "multi_modal_projector", joined, whole.size("projector_hidden_size", default=4096), model.hidden
    )
    if text.size("num_nextn_predict_layers", default=0, least=0):
        seen = (*seen, *layer_norm("vision_final_layernorm", width))
    towers = [Tower("vision", seen)]
    if whole.has("audio_config"):
        heard = whole.inner("audio_config")
        towers.append(Tower("audio", parakeet(heard)))
        projector = (
            *projector,
            *relu_squared(
                "embed_audio",
                heard.size("hidden_size", default=1024),
                heard.size("projection_hidden_size"),
                model.hidden,
                heard.flag("projection_bias"),
            ),
        )
    return completed(fields, model, (*towers, Tower("projector", projector)))


READERS: dict[str, Reader] = {
    "cosmos3_edge": cosmos3_edge,
    "deepseek_ocr2": deepseek_ocr2,
    "modernvbert": modernvbert,
    "nemotron_h_omni": nemotron_h_omni,
    "unlimited_ocr": unlimited_ocr,
}
