"""Families that see, with text models and towers of their own configuration classes: GLM-V, OCR models, LFM2-VL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .experts import glm4_moe
from .fields import Fields, with_defaults
from .linear_attention import completed
from .pictures import gated
from .sight import encoder_block, heads_of, patches, sides, tower_of
from .table import Reader
from .texts import part, plain_head, read_text, text_part, tied_anywhere, tied_outside
from .vision import pixtral_tower, qwen2_5_tower, seen_in_three

# ---------------------------------------------------------------------- GLM-4.1V to 4.6V

GLM4V_TEXT: dict[str, Any] = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}
GLM4V_MOE_TEXT: dict[str, Any] = {
    "vocab_size": 151424,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "attention_bias": True,
    "max_position_embeddings": 65536,
}


def floored_head(text: Fields, own: bool) -> Fields:
    """Heads as wide as the hidden size divided by their number, rounded down; `own`: unless the configuration says
    itself."""
    if own and text.has("head_dim"):
        return text
    width = text.size("hidden_size") // text.size("num_attention_heads")
    if not width:
        text.refuse("num_attention_heads", "must not exceed hidden_size")
    return Fields({**text.values, "head_dim": width}, text.path)


def glm4v_tower(fields: Fields) -> Tower:
    """GLM-4.1V's: patches over two frames, RMSNorm, gated feed-forward layers of the output's width, a convolution
    that joins patches, a gated merger."""
    width, out = fields.size("hidden_size", default=1536), fields.size("out_hidden_size", default=4096)
    heads_of(fields, width, 12, "num_heads", "num_attention_heads")
    high, across = sides(fields, "patch_size", 14)
    time, merge = fields.size("temporal_patch_size", default=2), fields.size("spatial_merge_size", default=2)
    block = (
        *layer_norm("norm1", width, False),
        *layer_norm("norm2", width, False),
        *matrix("attn.qkv", 3 * width, width, fields.flag("attention_bias")),
        *matrix("attn.proj", width, width, False),
        *gated("mlp", width, out, width),
    )
    return Tower(
        "vision",
        (
            table("embeddings.position_embedding.weight", patches(fields, 336, 14), width),
            table("patch_embed.proj.weight", width, fields.size("in_channels", default=3), time, high, across),
            table("patch_embed.proj.bias", width),
            *times(block, fields.size("depth", "num_hidden_layers", default=24)),
            *matrix("merger.proj", out, out, False),
            *layer_norm("merger.post_projection_norm", out),
            *gated("merger", out, fields.size("intermediate_size", default=13696), out),
            *layer_norm("post_conv_layernorm", width, False),
            table("downsample.weight", out, width, merge, merge),
            table("downsample.bias", out),
            *layer_norm("post_layernorm", width, False),
        ),
    )


def glm4v_text(text: Fields, name: str | None, tied: bool) -> Model:
    """GLM-4.1V's text model: GLM-4-0414's layers, always with biases on q, k and v."""
    text = floored_head(with_defaults(text, **GLM4V_TEXT), own=False)
    rotated = {} if text.has("partial_rotary_factor", "rope_parameters") else {"partial_rotary_factor": 1.0}
    text = Fields({**text.values, **rotated, "attention_bias": True}, text.path)
    return read_text("glm4", text, name, tied)


def glm4v_moe_text(text: Fields, name: str | None, tied: bool) -> Model:
    """GLM-4.5V's: GLM 4.5's layers without norms over q and k."""
    text = floored_head(with_defaults(text, **GLM4V_MOE_TEXT), own=True)
    text = Fields({**text.values, "use_qk_norm": False, "num_nextn_predict_layers": 0}, text.path)
    model = glm4_moe(text, name)
    return replace(model, head=plain_head(model.head, tied))


def glm4v(fields: Fields, name: str | None) -> Model:
    """GLM-4.1V-9B: positions of text, rows and columns."""
    _, text = text_part(fields, "glm4v_text", fixed=True)
    model = seen_in_three(glm4v_text(text, name, tied_anywhere(fields, "glm4v_text")))
    return completed(fields, model, (glm4v_tower(part(fields, "vision_config")),))


def glm4v_moe(fields: Fields, name: str | None) -> Model:
    """GLM-4.5V and 4.6V: the same with experts."""
    _, text = text_part(fields, "glm4v_moe_text", fixed=True)
    model = seen_in_three(glm4v_moe_text(text, name, tied_anywhere(fields, "glm4v_moe_text")))
    return completed(fields, model, (glm4v_tower(part(fields, "vision_config")),))


def glm46v(fields: Fields, name: str | None) -> Model:
    """GLM-4.6V-Flash: either, by the model type of its text part; what it says as a whole decides about tying."""
    named, text = text_part(fields, fields.inner("text_config").text("model_type", default="glm4v_text"), fixed=True)
    if named not in ("glm4v_text", "glm4v_moe_text"):
        text.refuse("model_type", "must be glm4v_text or glm4v_moe_text")
    tied = tied_outside(fields, False)
    model = (glm4v_text if named == "glm4v_text" else glm4v_moe_text)(text, name, tied)
    return completed(fields, seen_in_three(model), (glm4v_tower(part(fields, "vision_config")),))


def glm_ocr(fields: Fields, name: str | None) -> Model:
    """GLM-OCR: GLM-4-0414's layers without biases; a tower with norms over each head and biases."""
    text = with_defaults(
        text_part(fields, "glm_ocr_text", fixed=True)[1],
        vocab_size=59392,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )
    text = floored_head(text, own=True)
    rotated = {} if text.has("partial_rotary_factor", "rope_parameters") else {"partial_rotary_factor": 1.0}
    text = Fields({**text.values, **rotated, "attention_bias": False}, text.path)
    model = seen_in_three(read_text("glm4", text, name, tied_anywhere(fields, "glm_ocr_text")))
    seen = part(fields, "vision_config")
    width, out = seen.size("hidden_size", default=1024), seen.size("out_hidden_size", default=1536)
    head = width // heads_of(seen, width, 16, "num_heads", "num_attention_heads")
    bias, channels = seen.flag("attention_bias", default=True), seen.size("in_channels", default=3)
    high, across = sides(seen, "patch_size", 14)
    merge = seen.size("spatial_merge_size", default=2)
    block = (
        *layer_norm("norm1", width, False),
        *layer_norm("norm2", width, False),
        *matrix("attn.qkv", 3 * width, width, bias),
        *matrix("attn.proj", width, width, bias),
        *layer_norm("attn.q_norm", head, False),
        *layer_norm("attn.k_norm", head, False),
        *gated("mlp", width, seen.size("intermediate_size", default=4096), width, bias),
    )
    tower = (
        table("patch_embed.proj.weight", width, channels, seen.size("temporal_patch_size", default=2), high, across),
        table("patch_embed.proj.bias", width),
        *times(block, seen.size("depth", "num_hidden_layers", default=24)),
        *matrix("merger.proj", out, out, False),
        *layer_norm("merger.post_projection_norm", out),
        *gated("merger", out, out * channels, out),
        table("downsample.weight", out, width, merge, merge),
        table("downsample.bias", out),
        *layer_norm("post_layernorm", width, False),
    )
    return completed(fields, model, (Tower("vision", tower),))


# ---------------------------------------------------------------------- EXAONE 4.5


def exaone4_5(fields: Fields, name: str | None) -> Model:
    """EXAONE 4.5: EXAONE 4 and Qwen2.5-VL's tower with fewer heads of keys and values."""
    given = fields.inner("text_config").text("model_type", default="exaone4")
    if given == "exaone4_5_text":
        inner = {**fields.inner("text_config").values, "model_type": "exaone4"}
        fields = Fields({**fields.values, "text_config": inner}, fields.path)
    kind, text = text_part(fields, "exaone4")
    model = seen_in_three(read_text(kind, text, name, tied_outside(fields, False)))
    seen = part(fields, "vision_config")
    width = seen.size("hidden_size", default=3584)
    heads, kv_heads = heads_of(seen, width, 16, "num_heads"), seen.size("num_key_value_heads", default=8)
    seen.divides(heads, kv_heads, ("num_heads", "num_key_value_heads"))
    rows = width + 2 * kv_heads * (width // heads)
    stored = tuple(
        replace(each, shape=(rows, *each.shape[1:])) if each.name.startswith("blocks.attn.qkv") else each
        for each in qwen2_5_tower(seen).stored
    )
    return completed(fields, model, (Tower("vision", stored),))


# ---------------------------------------------------------------------- DeepSeek-VL, LFM2-VL, LightOnOCR, PaddleOCR-VL


def deepseek_vl(fields: Fields, name: str | None) -> Model:
    """DeepSeek-VL in transformers' format: Llama and SigLIP; tied unless the whole says no."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config")
    aligner = (
        *matrix("aligner.linear1", model.hidden, seen.size("hidden_size", default=768)),
        *matrix("aligner.linear2", model.hidden, model.hidden),
    )
    return completed(fields, model, (tower_of(seen, "siglip_vision_model"), Tower("projector", aligner)))


def lfm2_vl(fields: Fields, name: str | None) -> Model:
    """LFM2-VL: LFM 2 and SigLIP 2, neighbouring patches joined."""
    kind, text = text_part(fields, "lfm2")
    tied = fields.flag("tie_embedding", "tie_word_embeddings", default=True)
    text = Fields({**text.values, "tie_embedding": tied}, text.path)
    model = read_text(kind, text, name, tied)
    seen = part(fields, "vision_config")
    joined = seen.size("hidden_size", default=768) * fields.size("downsample_factor", default=2) ** 2
    wide, bias = fields.size("projector_hidden_size", default=2560), fields.flag("projector_bias", default=True)
    normed = fields.flag("projector_use_layernorm", default=True)
    projector = (
        *(layer_norm("multi_modal_projector.layer_norm", joined) if normed else ()),
        *matrix("multi_modal_projector.linear_1", wide, joined, bias),
        *matrix("multi_modal_projector.linear_2", model.hidden, wide, bias),
    )
    return completed(fields, model, (tower_of(seen, "siglip2_vision_model"), Tower("projector", projector)))


def lighton_ocr(fields: Fields, name: str | None) -> Model:
    """LightOnOCR: Qwen 3 and Pixtral, Mistral 3's projector."""
    absent = {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 40960,
    }
    kind, text = text_part(fields, "qwen3", absent)
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config", {"patch_size": 14})
    width = seen.size("hidden_size", default=1024)
    joined = width * fields.size("spatial_merge_size", default=2) ** 2
    projector = (
        *layer_norm("vision_projection.norm", width, False),
        *matrix("vision_projection.patch_merger.merging_layer", width, joined, False),
        *matrix("vision_projection.linear_1", model.hidden, width, False),
        *matrix("vision_projection.linear_2", model.hidden, model.hidden, False),
    )
    return completed(fields, model, (pixtral_tower(seen), Tower("projector", projector)))


def paddleocr_vl(fields: Fields, name: str | None) -> Model:
    """PaddleOCR-VL: ERNIE 4.5 and SigLIP's blocks, neighbouring patches joined; positions in three parts."""
    kind, text = text_part(fields, "ernie4_5", fixed=True)
    tied = fields.flag("tie_word_embeddings", default=True) or tied_anywhere(fields, kind)
    model = seen_in_three(read_text(kind, text, name, tied))
    seen = part(fields, "vision_config")
    width = seen.size("hidden_size", default=1152)
    heads_of(seen, width, 16)
    patch = seen.size("patch_size", default=14)
    joined = width * seen.size("spatial_merge_size", default=2) ** 2
    tower = (
        table("patch_embedding.weight", width, seen.size("num_channels", default=3), patch, patch),
        table("patch_embedding.bias", width),
        table("position_embedding.weight", patches(seen, 384, 14), width),
        *times(
            encoder_block(width, seen.size("intermediate_size", default=4304)),
            seen.size("num_hidden_layers", default=27),
        ),
        *layer_norm("post_layernorm", width),
    )
    projector = (
        *layer_norm("projector.pre_norm", width),
        *matrix("projector.linear_1", joined, joined),
        *matrix("projector.linear_2", model.hidden, joined),
    )
    return completed(fields, model, (Tower("vision", tower), Tower("projector", projector)))


# ---------------------------------------------------------------------- GOT-OCR 2, Ovis 2


def segment_tower(fields: Fields) -> tuple[Tensor, ...]:
    """Segment Anything's encoder: windows in most blocks, tables of relative positions for rows and columns, a neck of
    two convolutions."""
    width, wide = fields.size("hidden_size", default=768), fields.size("mlp_dim", default=3072)
    head = width // heads_of(fields, width, 12)
    out, patch = fields.size("output_channels", default=256), fields.size("patch_size", default=16)
    grid = fields.size("image_size", default=1024, least=patch) // patch
    count = fields.size("num_hidden_layers", default=12)
    listed = fields.items("global_attn_indexes")
    whole = sum(1 for index in range(count) if index in ([2, 5, 8, 11] if listed is None else listed))
    block = (
        *layer_norm("layer_norm1", width),
        *layer_norm("layer_norm2", width),
        *matrix("attn.qkv", 3 * width, width, fields.flag("qkv_bias", default=True)),
        *matrix("attn.proj", width, width),
        *matrix("mlp.lin1", wide, width),
        *matrix("mlp.lin2", width, wide),
    )
    relative: list[Tensor] = []
    if fields.flag("use_rel_pos", default=True):
        window = fields.size("window_size", default=14, least=0) or grid
        for seen, layers in ((window, count - whole), (grid, whole)):
            relative += times((table("attn.rel_pos", 2 * seen - 1, head, count=2),), layers) if layers else ()
    return (
        *((table("pos_embed", 1, grid, grid, width),) if fields.flag("use_abs_pos", default=True) else ()),
        table("patch_embed.projection.weight", width, fields.size("num_channels", default=3), patch, patch),
        table("patch_embed.projection.bias", width),
        *times(block, count),
        *relative,
        table("neck.conv1.weight", out, width, 1, 1),
        *layer_norm("neck.layer_norm1", out),
        table("neck.conv2.weight", out, out, 3, 3),
        *layer_norm("neck.layer_norm2", out),
    )


def got_ocr2(fields: Fields, name: str | None) -> Model:
    """GOT-OCR 2: Qwen 2 and Segment Anything's encoder, two convolutions that halve the sides."""
    absent = {
        "model_type": "qwen2",
        "vocab_size": 151860,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 32768,
    }
    kind, text = text_part(fields, "qwen2", absent)
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config")
    out = seen.size("output_channels", default=256)
    projector = (
        table("multi_modal_projector.conv_upsampler1.weight", 2 * out, out, 3, 3),
        table("multi_modal_projector.conv_upsampler2.weight", model.hidden, 2 * out, 3, 3),
        *matrix("multi_modal_projector.multimodal_projector", model.hidden, model.hidden),
    )
    return completed(fields, model, (Tower("vision", segment_tower(seen)), Tower("projector", projector)))


def ovis2(fields: Fields, name: str | None) -> Model:
    """Ovis 2: a tower whose head chooses rows of a table of visual words. A head of its own is as wide and as tall as
    the whole says, not its text part."""
    kind, text = text_part(fields, "qwen2")
    model = read_text(kind, text, name, tied_outside(fields, True))
    if not model.head.tied:
        vocabulary = fields.size("vocab_size", default=151643)
        model = replace(model, head=replace(model.head, vocabulary=vocabulary))
    seen = part(fields, "vision_config")
    width, wide = seen.size("hidden_size", default=1024), seen.size("intermediate_size", default=2816)
    heads_of(seen, width, 8)
    patch, bias = seen.size("patch_size", default=14), seen.flag("qkv_bias")
    indicators = seen.size("num_visual_indicator_tokens", default=5, least=0)
    words = seen.size("vocab_size", default=16384, least=indicators + 1)
    block = (
        *(each for letter in "qkv" for each in matrix(f"attention.{letter}_proj", width, width, bias)),
        *matrix("attention.out_proj", width, width, bias),
        *gated("ffn", width, wide, width, seen.flag("mlp_bias")),
        *layer_norm("rms_norm1", width, False),
        *layer_norm("rms_norm2", width, False),
    )
    tower = (
        table("patch_embedding.weight", width, seen.size("num_channels", default=3), patch, patch),
        table("patch_embedding.bias", width),
        table("position_embedding.weight", patches(seen, 224, 14), width),
        *layer_norm("embeddings.rms_norm", width, False),
        *times(block, seen.size("num_hidden_layers", default=24)),
        *layer_norm("rms_norm", width, False),
        *matrix("head_linear", words - indicators, width * seen.size("hidden_stride", default=1) ** 2, False),
        *layer_norm("head_norm", words - indicators),
    )
    visual = table("visual_embeddings_table.weight", words, fields.size("hidden_size", default=1536))
    return completed(fields, model, (Tower("vision", tower), Tower("projector", (visual,))))


READERS: dict[str, Reader] = {
    "deepseek_vl": deepseek_vl,
    "exaone4_5": exaone4_5,
    "glm46v": glm46v,
    "glm4v": glm4v,
    "glm4v_moe": glm4v_moe,
    "glm_ocr": glm_ocr,
    "glmga": glm46v,
    "got_ocr2": got_ocr2,
    "lfm2_vl": lfm2_vl,
    "lighton_ocr": lighton_ocr,
    "ovis2": ovis2,
    "paddleocr_vl": paddleocr_vl,
    "pp_chart2table": got_ocr2,
}
