"""Families that join a text model, a vision tower and a projector: a text-only step runs the text model alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .fields import Fields
from .linear_attention import completed
from .sight import feature_layers, idefics2, idefics3, internvl, tower_of
from .table import Reader
from .texts import part, read_text, text_part, tied_anywhere, tied_outside
from .vision import gemma3

# ---------------------------------------------------------------------- LLaVA and its kin

CLIP_LARGE: dict[str, Any] = {  # the tower where LLaVA's configuration describes none
    "model_type": "clip_vision_model",
    "intermediate_size": 4096,
    "hidden_size": 1024,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
SIGLIP_LARGE: dict[str, Any] = {  # where LLaVA-OneVision's describes none
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "vision_use_head": False,
}


def two_layers(fields: Fields, width: int, hidden: int, default: Any) -> tuple[Tensor, ...]:
    """LLaVA's projector: two matrices, the first over as many layers of the tower as are asked for."""
    bias = fields.flag("multimodal_projector_bias", default=True)
    return (
        *matrix("multi_modal_projector.linear_1", hidden, width * feature_layers(fields, default), bias),
        *matrix("multi_modal_projector.linear_2", hidden, hidden, bias),
    )


def llava(fields: Fields, name: str | None) -> Model:
    """LLaVA 1.5, Pixtral 12B in transformers' format: any text model and tower, a projector of two matrices."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_anywhere(fields, kind))
    seen = part(fields, "vision_config", CLIP_LARGE)
    projector = two_layers(fields, seen.size("hidden_size", default=768), model.hidden, -2)
    return completed(fields, model, (tower_of(seen, "clip_vision_model"), Tower("projector", projector)))


def llava_next(fields: Fields, name: str | None, tied: bool | None = None) -> Model:
    """LLaVA-NeXT (1.6): LLaVA with a learned end of a row of patches."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_outside(fields, False) if tied is None else tied)
    seen = part(fields, "vision_config", CLIP_LARGE)
    projector = two_layers(fields, seen.size("hidden_size", default=768), model.hidden, -2)
    newline = table("image_newline", model.hidden)
    return completed(fields, model, (tower_of(seen, "clip_vision_model"), Tower("projector", (*projector, newline))))


def llava_next_video(fields: Fields, name: str | None) -> Model:
    """LLaVA-NeXT-Video: the same; the text part's word about tying counts."""
    kind, _ = text_part(fields, "llama")
    return llava_next(fields, name, tied_anywhere(fields, kind))


def llava_onevision(fields: Fields, name: str | None) -> Model:
    """LLaVA-OneVision: Qwen 2 and SigLIP."""
    kind, text = text_part(fields, "qwen2")
    model = read_text(kind, text, name, tied_anywhere(fields, kind))
    seen = part(fields, "vision_config", SIGLIP_LARGE)
    projector = two_layers(fields, seen.size("hidden_size", default=768), model.hidden, -1)
    newline = table("image_newline", model.hidden)
    return completed(fields, model, (tower_of(seen, "siglip_vision_model"), Tower("projector", (*projector, newline))))


def video_llava(fields: Fields, name: str | None) -> Model:
    """Video-LLaVA: two towers alike, one for images and one for videos."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_outside(fields, False))
    seen = part(fields, "vision_config", {**CLIP_LARGE, "image_size": 224})
    tower = tower_of(seen, "clip_vision_model")
    projector = two_layers(fields, seen.size("hidden_size", default=768), model.hidden, -2)
    return completed(fields, model, (tower, Tower("video", tower.stored), Tower("projector", projector)))


def vipllava(fields: Fields, name: str | None) -> Model:
    """ViP-LLaVA: a norm over five layers of the tower before the projector."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_outside(fields, False))
    seen = part(fields, "vision_config", CLIP_LARGE)
    width = seen.size("hidden_size", default=768) * feature_layers(fields, [-2, -5, -8, -11, 6])
    projector = (
        *layer_norm("multi_modal_projector.projector_layernorm", width),
        *matrix("multi_modal_projector.linear_1", model.hidden, width),
        *matrix("multi_modal_projector.linear_2", model.hidden, model.hidden),
    )
    return completed(fields, model, (tower_of(seen, "clip_vision_model"), Tower("projector", projector)))


# ---------------------------------------------------------------------- PaliGemma


def paligemma(fields: Fields, name: str | None) -> Model:
    """PaliGemma 1 and 2: Gemma 1 or 2 and SigLIP, with one matrix between."""
    absent = {
        "model_type": "gemma",
        "hidden_size": 2048,
        "num_hidden_layers": 18,
        "intermediate_size": 16384,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "vocab_size": 257152,
    }
    kind, text = text_part(fields, "gemma", absent)
    model = read_text(kind, text, name, tied_outside(fields, True), keeps_cap=True)
    seen = part(
        fields,
        "vision_config",
        {**SIGLIP_LARGE, "intermediate_size": 4096, "image_size": 224, "num_hidden_layers": 27},
    )
    out = fields.size("projection_dim", default=2048)
    projector = matrix("multi_modal_projector.linear", out, seen.size("hidden_size", default=768))
    return completed(fields, model, (tower_of(seen, "siglip_vision_model"), Tower("projector", projector)))


# ---------------------------------------------------------------------- Idefics 2 and 3, SmolVLM


def perceiver(fields: Fields, hidden: int) -> tuple[Tensor, ...]:
    """Idefics 2's resampler: learned latents that attend to the patches."""
    heads = fields.size("resampler_n_heads", default=16)
    kv_heads = fields.size("num_key_value_heads", default=4)
    head_dim = fields.size("resampler_head_dim", default=96)
    fields.divides(heads, kv_heads, ("resampler_n_heads", "num_key_value_heads"))
    norms = ("input_latents_norm", "input_context_norm", "post_attention_layernorm")
    layer = (
        *(each for norm in norms for each in layer_norm(norm, hidden, False)),
        *matrix("self_attn.q_proj", heads * head_dim, hidden, False),
        *matrix("self_attn.k_proj", kv_heads * head_dim, hidden, False),
        *matrix("self_attn.v_proj", kv_heads * head_dim, hidden, False),
        *matrix("self_attn.o_proj", hidden, heads * head_dim, False),
        *gated("mlp", hidden, 4 * hidden, hidden),
    )
    return (
        table("perceiver_resampler.latents", fields.size("resampler_n_latents", default=64), hidden),
        *times(layer, fields.size("resampler_depth", default=3)),
        *layer_norm("perceiver_resampler.norm", hidden, False),
    )


def gated(name: str, into: int, wide: int, out: int, bias: bool = False) -> tuple[Tensor, ...]:
    """A gated feed-forward layer of an encoder."""
    return (
        *matrix(f"{name}.gate_proj", wide, into, bias),
        *matrix(f"{name}.up_proj", wide, into, bias),
        *matrix(f"{name}.down_proj", out, wide, bias),
    )


def idefics2_model(fields: Fields, name: str | None) -> Model:
    """Idefics 2: Mistral, a tower, and a resampler to few latents."""
    kind, text = text_part(fields, "mistral")
    model = read_text(kind, text, name, tied_outside(fields, False))
    seen = part(fields, "vision_config")
    wide = text.size("intermediate_size", default=14336)
    connector = (
        *gated("connector.modality_projection", seen.size("hidden_size", default=768), wide, model.hidden),
        *perceiver(fields.inner("perceiver_config"), model.hidden),
    )
    return completed(fields, model, (idefics2(seen), Tower("projector", connector)))


def idefics3_model(fields: Fields, name: str | None) -> Model:
    """Idefics 3 and SmolVLM: a matrix over neighbouring patches joined into one."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_outside(fields, False))
    seen = part(fields, "vision_config")
    joined = seen.size("hidden_size", default=1152) * fields.size("scale_factor", default=2) ** 2
    projector = matrix("connector.modality_projection.proj", model.hidden, joined, False)
    return completed(fields, model, (idefics3(seen), Tower("projector", projector)))


# ---------------------------------------------------------------------- InternVL


def internvl_model(fields: Fields, name: str | None) -> Model:
    """InternVL 2.5 to 3.5 in transformers' format: a norm and two matrices over joined neighbouring patches."""
    kind, text = text_part(fields, "qwen2")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config")
    ratio = fields.number("downsample_ratio", default=0.5)
    if not 0 < ratio <= 1 or int(1 / ratio) > 64:
        fields.refuse("downsample_ratio", "must be from 1/64 to 1")
    joined = seen.size("hidden_size", default=1024) * int(1 / ratio) ** 2
    projector = (
        *layer_norm("multi_modal_projector.layer_norm", joined),
        *matrix("multi_modal_projector.linear_1", model.hidden, joined),
        *matrix("multi_modal_projector.linear_2", model.hidden, model.hidden),
    )
    return completed(fields, model, (internvl(seen), Tower("projector", projector)))


def qianfan_ocr(fields: Fields, name: str | None) -> Model:
    """Qianfan-OCR: InternVL on Qwen 3, with biases on q, k and v of the tower."""
    given = {"text_config": {"model_type": "qwen3"}, "tie_word_embeddings": False, **fields.values}
    if isinstance(given["text_config"], dict):
        given["text_config"] = {"model_type": "qwen3", **given["text_config"]}
    seen = fields.inner("vision_config").values
    return internvl_model(Fields({**given, "vision_config": {"attention_bias": True, **seen}}, fields.path), name)


INTERN_VIT: dict[str, Any] = {  # InternVisionConfig beside the checkpoints
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "image_size": 224,
    "norm_type": "rms_norm",
}


def internvl_chat(fields: Fields, name: str | None) -> Model:
    """InternVL as its authors publish it: the same under other names, with the text model's own head."""
    text = fields.inner("llm_config")
    kind = text.text("model_type", default="llama")
    seen = fields.inner("vision_config")
    plan = {
        **INTERN_VIT,
        **seen.values,
        "attention_bias": seen.flag("qkv_bias"),
        "use_qk_norm": seen.flag("qk_normalization", default=True),
        "use_mean_pooling": True,
    }
    tied = text.flag("tie_word_embeddings", default=fields.flag("tie_word_embeddings"))
    text_config = {**text.values, "model_type": kind}
    given = {**fields.values, "text_config": text_config, "vision_config": plan, "tie_word_embeddings": tied}
    return replace(internvl_model(Fields(given, fields.path), name), config=fields.values)


# ---------------------------------------------------------------------- Fuyu


def fuyu(fields: Fields, name: str | None) -> Model:
    """Fuyu: Persimmon that is given patches through one matrix, without a tower."""
    kind, text = text_part(fields, "persimmon")
    model = read_text(kind, text, name, tied_outside(fields, False))
    pixels = fields.size("num_channels", default=3) * fields.size("patch_size", default=30) ** 2
    return completed(fields, model, (Tower("projector", matrix("vision_embed_tokens", model.hidden, pixels)),))


# ---------------------------------------------------------------------- Aya Vision, Command A Vision


def halved(into: int, wide: int, hidden: int) -> tuple[Tensor, ...]:
    """Cohere's projector: half of the first matrix's output gates the other half."""
    return (
        *matrix("multi_modal_projector.linear_1", wide, into),
        *matrix("multi_modal_projector.linear_2", hidden, wide // 2),
    )


def aya_vision(fields: Fields, name: str | None) -> Model:
    """Aya Vision: Command R7B's plan and SigLIP, a norm before the projector."""
    kind, text = text_part(fields, "cohere2")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config", {**SIGLIP_LARGE, "num_attention_heads": 14})
    joined = seen.size("hidden_size", default=768) * fields.size("downsample_factor", default=2) ** 2
    wide = fields.size("alignment_intermediate_size", default=model.hidden, least=2)
    projector = (*layer_norm("multi_modal_projector.layernorm", joined), *halved(joined, wide, model.hidden))
    return completed(fields, model, (tower_of(seen, "siglip_vision_model"), Tower("projector", projector)))


def cohere2_vision(fields: Fields, name: str | None) -> Model:
    """Command A Vision: the same without a norm."""
    kind, text = text_part(fields, "cohere2")
    model = read_text(kind, text, name, tied_outside(fields, True))
    absent = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 3072,
        "image_size": 512,
        "num_hidden_layers": 27,
        "num_attention_heads": 12,
    }
    seen = part(fields, "vision_config", absent)
    joined = seen.size("hidden_size", default=768) * fields.size("downsample_factor", default=2) ** 2
    wide = fields.size("alignment_intermediate_size", default=36864, least=2)
    projector = halved(joined, wide, model.hidden)
    return completed(fields, model, (tower_of(seen, "siglip_vision_model"), Tower("projector", projector)))


READERS: dict[str, Reader] = {
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "fuyu": fuyu,
    "idefics2": idefics2_model,
    "idefics3": idefics3_model,
    "internvl": internvl_model,
    "internvl_chat": internvl_chat,
    "llava": llava,
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
    "paligemma": paligemma,
    "qianfan_ocr": qianfan_ocr,
    "shieldgemma2": gemma3,
    "smolvlm": idefics3_model,
    "video_llava": video_llava,
    "vipllava": vipllava,
}
