"""Families that hear, some of which see and speak too: a text-only step runs the text model alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .experts import qwen3_moe
from .fields import Fields, with_defaults
from .gemma4 import gemma3n_text
from .linear_attention import completed
from .scenes import floored_head
from .table import Reader
from .texts import part, plain_head, read_text, text_part, tied_outside
from .vision import qwen2_5_tower, qwen3_vl_tower, seen_in_three

# ---------------------------------------------------------------------- Whisper's encoder

WIDTH = ("d_model", "hidden_size")
WIDE = ("encoder_ffn_dim", "intermediate_size")
COUNT = ("encoder_layers", "num_hidden_layers")
HEADS = ("encoder_attention_heads", "num_attention_heads")


def heard_sizes(fields: Fields) -> tuple[int, int, int]:
    """Width, width of the feed-forward layers, layers."""
    width = fields.size(*WIDTH, default=1280)
    fields.divides(width, fields.size(*HEADS, default=20), (WIDTH[0], HEADS[0]))
    return width, fields.size(*WIDE, default=5120), fields.size(*COUNT, default=32)


def heard_block(width: int, wide: int, key_bias: bool) -> tuple[Tensor, ...]:
    """A layer of Whisper's encoder: biases but on k."""
    return (
        *matrix("self_attn.q_proj", width, width),
        *matrix("self_attn.k_proj", width, width, key_bias),
        *matrix("self_attn.v_proj", width, width),
        *matrix("self_attn.out_proj", width, width),
        *layer_norm("self_attn_layer_norm", width),
        *matrix("fc1", wide, width),
        *matrix("fc2", width, wide),
        *layer_norm("final_layer_norm", width),
    )


def whisper_tower(fields: Fields, learned: bool = True) -> Tower:
    """Two convolutions over time, positions (`learned`, or computed), blocks, a norm."""
    width, wide, count = heard_sizes(fields)
    return Tower(
        "audio",
        (
            table("conv1.weight", width, fields.size("num_mel_bins", default=128), 3),
            table("conv1.bias", width),
            table("conv2.weight", width, width, 3),
            table("conv2.bias", width),
            *(
                (table("embed_positions.weight", fields.size("max_source_positions", default=1500), width),)
                if learned
                else ()
            ),
            *times(heard_block(width, wide, False), count),
            *layer_norm("layer_norm", width),
        ),
    )


def qwen2_audio(fields: Fields, name: str | None) -> Model:
    """Qwen2-Audio: Qwen 2 and Whisper's encoder, with one matrix between."""
    kind, text = text_part(fields, "qwen2")
    model = read_text(kind, text, name, False)  # its class ties nothing
    heard = part(fields, "audio_config")
    projector = matrix("multi_modal_projector.linear", model.hidden, heard.size(*WIDTH, default=1280))
    return completed(fields, model, (whisper_tower(heard), Tower("projector", projector)))


def audioflamingo3(fields: Fields, name: str | None) -> Model:
    """Audio Flamingo 3: the same with two matrices between."""
    kind, text = text_part(fields, "qwen2")
    model = read_text(kind, text, name, False)  # its class ties nothing
    heard, bias = part(fields, "audio_config"), fields.flag("projector_bias", default=True)
    projector = (
        *matrix("multi_modal_projector.linear_1", model.hidden, heard.size(*WIDTH, default=1280), bias),
        *matrix("multi_modal_projector.linear_2", model.hidden, model.hidden, bias),
    )
    return completed(fields, model, (whisper_tower(heard), Tower("projector", projector)))


VOXTRAL_TEXT: dict[str, Any] = {
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "head_dim": 128,
}


def voxtral(fields: Fields, name: str | None) -> Model:
    """Voxtral: Llama's layers and Whisper's encoder, whose states are joined to the width of its feed-forward layers.

    Here the text part is completed by Voxtral's own figures, not by Llama's."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, with_defaults(text, **VOXTRAL_TEXT), name, False)  # its class ties nothing
    heard = part(fields, "audio_config")
    projector = (
        *matrix("multi_modal_projector.linear_1", model.hidden, heard.size(*WIDE, default=5120), False),
        *matrix("multi_modal_projector.linear_2", model.hidden, model.hidden, False),
    )
    return completed(fields, model, (whisper_tower(heard), Tower("projector", projector)))


# ---------------------------------------------------------------------- Qwen2.5-Omni, Qwen3-Omni


def omni_audio(fields: Fields) -> Tower:
    """Qwen2.5-Omni's: Whisper's encoder with computed positions, two learned marks, a matrix to the text's width."""
    width, out = fields.size(*WIDTH, default=1280), fields.size("output_dim", default=3584)
    stored = whisper_tower(fields, learned=False).stored
    return Tower("audio", (*stored, table("audio_bos_eos_token.weight", 2, out), *matrix("proj", out, width)))


def qwen2_5_omni_thinker(fields: Fields, name: str | None) -> Model:
    """The part of Qwen2.5-Omni that thinks: Qwen 2.5 whose positions have three parts, Qwen2.5-VL's tower."""
    text = with_defaults(
        text_part(fields, "qwen2", fixed=True)[1],
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
    )
    model = seen_in_three(read_text("qwen2", text, name, tied_outside(fields, False)))
    seen = part(fields, "vision_config")
    seen.size("num_heads", "num_attention_heads", default=16)
    return completed(fields, model, (qwen2_5_tower(seen), omni_audio(part(fields, "audio_config"))))


def omni3_audio(fields: Fields) -> Tower:
    """Qwen3-Omni's: three convolutions over time and pitch, each of which halves both, blocks, two matrices."""
    width, wide, count = heard_sizes(fields)
    channels, pitches = fields.size("downsample_hidden_size", default=480), fields.size("num_mel_bins", default=128)
    for _ in range(3):
        pitches = (pitches + 1) // 2
    return Tower(
        "audio",
        (
            table("conv2d1.weight", channels, 1, 3, 3),
            table("conv2d1.bias", channels),
            table("conv2d2.weight", channels, channels, 3, 3, count=2),
            table("conv2d2.bias", channels, count=2),
            *matrix("conv_out", width, channels * pitches, False),
            *times(heard_block(width, wide, True), count),
            *layer_norm("ln_post", width),
            *matrix("proj1", width, width),
            *matrix("proj2", fields.size("output_dim", default=3584), width),
        ),
    )


def qwen3_omni_moe_thinker(fields: Fields, name: str | None) -> Model:
    """The part of Qwen3-Omni that thinks: Qwen 3 with experts whose positions have three parts, Qwen3-VL's tower."""
    text = with_defaults(
        text_part(fields, "qwen3_moe", fixed=True)[1],
        vocab_size=3584,
        hidden_size=2048,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        max_position_embeddings=32768,
    )
    model = seen_in_three(qwen3_moe(floored_head(text, own=True), name, adapted_stacks=False))
    model = replace(model, head=plain_head(model.head, tied_outside(fields, False)))
    seen = part(fields, "vision_config")
    seen.size("num_heads", "num_attention_heads", default=16)
    return completed(fields, model, (qwen3_vl_tower(seen), omni3_audio(part(fields, "audio_config"))))


# ---------------------------------------------------------------------- Gemma 3n

ENCODERS: dict[tuple[str, bool], int] = {
    # Parameters of image encoders that timm 1.0.31 builds by name, without their classifiers (its classes on the meta
    # device), as they are trained (False) or with parallel branches merged for inference (True).
    ("fastvit_mci3", False): 122_875_584,
    ("fastvit_mci3", True): 122_714_208,
    ("mobilenetv5_300m_enc", False): 294_126_912,
}


def gemma3n_audio(fields: Fields) -> Tower:
    """Gemma 3n's conformer: two convolutions that halve time and pitch, blocks of two half feed-forward layers around
    attention with relative positions and a light convolution."""
    width = fields.size("hidden_size", default=1536)
    heads = fields.size("conf_num_attention_heads", default=8)
    head = fields.divides(width, heads, ("hidden_size", "conf_num_attention_heads"))
    channels = listed(fields, "sscp_conv_channel_size", [128, 32])
    kernels, strides = fields.values.get("sscp_conv_kernel_size"), fields.values.get("sscp_conv_stride_size")
    kernels = kernels if isinstance(kernels, list) and len(kernels) == 2 else [[3, 3], [3, 3]]
    strides = strides if isinstance(strides, list) and len(strides) == 2 else [[2, 2], [2, 2]]
    pitches, into, stored = fields.size("input_feat_size", default=128), 1, []
    for index in range(2):
        high, across = listed(Fields({"kernel": kernels[index]}, fields.path), "kernel", [3, 3])
        _, step = listed(Fields({"stride": strides[index]}, fields.path), "stride", [2, 2])
        stored.append(table(f"conv_{index}.conv.weight", channels[index], into, high, across))
        stored += layer_norm(f"conv_{index}.norm", channels[index], False)
        pitches, into = (pitches + 2 - across) // step + 1, channels[index]
        if pitches < 1:
            fields.refuse("sscp_conv_kernel_size", "leaves nothing of input_feat_size")
    half = (
        *layer_norm("pre_layer_norm", width, False),
        *matrix("ffw_layer_1", 4 * width, width, False),
        *matrix("ffw_layer_2", width, 4 * width, False),
        *layer_norm("post_layer_norm", width, False),
    )
    block = (
        *times(half, 2),
        *layer_norm("attention.pre_attn_norm", width, False),
        table("attention.attn.per_dim_scale", head),
        *(
            each
            for name in ("attn.relative_position_embedding.pos", "attn.q", "attn.k", "attn.v")
            for each in matrix(f"attention.{name}_proj", width, width, False)
        ),
        *matrix("attention.post", width, width, False),
        *layer_norm("attention.post_norm", width, False),
        *layer_norm("lconv1d.pre_layer_norm", width, False),
        *matrix("lconv1d.linear_start", 2 * width, width, False),
        table("lconv1d.depthwise_conv1d.weight", width, 1, fields.size("conf_conv_kernel_size", default=5)),
        *layer_norm("lconv1d.conv_norm", width, False),
        *matrix("lconv1d.linear_end", width, width, False),
        *layer_norm("norm", width, False),
    )
    return Tower(
        "audio",
        (
            *stored,
            *matrix("input_proj_linear", width, into * pitches, False),
            *times(block, fields.size("conf_num_hidden_layers", default=12)),
        ),
    )


def listed(fields: Fields, name: str, default: list[int]) -> list[int]:
    """A list of as many sizes as the default has."""
    values = fields.items(name)
    if values is None:
        return default
    if len(values) != len(default):
        fields.refuse(name, f"must have {len(default)} entries")
    each = Fields({str(index): value for index, value in enumerate(values)}, f"{fields.path}.{name}")
    return [each.size(str(index)) for index in range(len(default))]


def gemma3n_embedder(fields: Fields, width: int, hidden: int, name: str) -> tuple[Tensor, ...]:
    """Tokens of a kind of input other than text, norms, and a matrix to the text's width."""
    return (
        table(f"{name}.embedding.weight", fields.size("vocab_size", default=128), width),
        *layer_norm(f"{name}.hard_embedding_norm", width, False),
        *layer_norm(f"{name}.soft_embedding_norm", width, False),
        *matrix(f"{name}.embedding_projection", hidden, width, False),
    )


def timm_tower(fields: Fields, architecture: str) -> Tower:
    """An image encoder known by its name alone."""
    named = fields.text("architecture", default=architecture)
    key = named, fields.inner("model_args").flag("inference_mode")
    if key not in ENCODERS:
        known = ", ".join(dict.fromkeys(each for each, _ in ENCODERS))
        fields.refuse("architecture", f"{named!r:.60} with these model_args is no encoder known here: {known}")
    return Tower("vision", (table(named, ENCODERS[key]),))


def gemma3n(fields: Fields, name: str | None) -> Model:
    """Gemma 3n with its encoders of images and sound."""
    text = text_part(fields, "gemma3n_text", fixed=True)[1]
    model = gemma3n_text(Fields({**text.values, "tie_word_embeddings": tied_outside(fields, True)}, text.path), name)
    seen, heard = part(fields, "vision_config"), part(fields, "audio_config")
    seen_width = seen.size("hidden_size", default=2048)
    heard_width = heard.size("hidden_size", default=1536)
    between = (
        *gemma3n_embedder(seen, seen_width, model.hidden, "embed_vision"),
        *gemma3n_embedder(heard, heard_width, model.hidden, "embed_audio"),
    )
    towers = (timm_tower(seen, "mobilenetv5_300m_enc"), gemma3n_audio(heard), Tower("projector", between))
    return completed(fields, model, towers)


READERS: dict[str, Reader] = {
    "audioflamingo3": audioflamingo3,
    "gemma3n": gemma3n,
    "qwen2_5_omni_thinker": qwen2_5_omni_thinker,
    "qwen2_audio": qwen2_audio,
    "qwen3_omni_moe_thinker": qwen3_omni_moe_thinker,
    "voxtral": voxtral,
}
