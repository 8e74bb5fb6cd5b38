"""Further families that see: VideoLLaMA 3, DeepSeek-VL 7B, LFM3-VL, later MiniCPM-V, Granite Docling, HyperCLOVA X,
Cosmos 3."""

from __future__ import annotations

from dataclasses import replace

from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .bridges import minicpmv4_6
from .fields import Fields, with_defaults
from .linear_attention import completed
from .llama import qwen3
from .scenes import segment_tower
from .sight import encoder_block, heads_of, patches, sides, tower_of
from .speech import convolution
from .table import Reader
from .texts import part, plain_head, read_text, text_part, tied_anywhere, tied_outside
from .vision import qwen2_5_tower, qwen3_vl_tower, seen_in_three

# ---------------------------------------------------------------------- VideoLLaMA 3, DeepSeek-VL 7B, LFM3-VL


def video_llama_3(fields: Fields, name: str | None) -> Model:
    """VideoLLaMA 3: Qwen 2 and SigLIP's blocks with rotary positions, a projector of two matrices."""
    kind, text = text_part(fields, "qwen2")
    model = read_text(kind, text, name, tied_anywhere(fields, kind))
    seen = part(fields, "vision_config")
    width, wide = seen.size("hidden_size", default=768), seen.size("intermediate_size", default=3072)
    heads_of(seen, width, 12)
    high, across = sides(seen, "patch_size", 16)
    tower = (
        *convolution("patch_embedding", width, seen.size("num_channels", default=3), high, across),
        *times(encoder_block(width, wide), seen.size("num_hidden_layers", default=12)),
        *layer_norm("post_layernorm", width),
    )
    projector = (
        *matrix("projector.readout.0", model.hidden, width),
        *matrix("projector.readout.2", model.hidden, model.hidden),
    )
    return completed(fields, model, (Tower("vision", tower), Tower("projector", projector)))


def deepseek_vl_hybrid(fields: Fields, name: str | None) -> Model:
    """DeepSeek-VL 7B: Llama, SigLIP for the whole of a picture and Segment Anything's encoder for its details, whose
    global blocks pass a second neck."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen, close = part(fields, "vision_config"), part(fields, "high_res_vision_config")
    if close.text("model_type", default="sam_vision_model") != "sam_vision_model":
        close.refuse("model_type", "must be sam_vision_model")
    width, out = close.size("hidden_size", default=768), close.size("output_channels", default=256)
    ratio = close.number("mlp_ratio", default=4.0)
    if not 1 <= width * ratio <= 10**9:
        close.refuse("mlp_ratio", "makes no layer")
    close = Fields({**close.values, "mlp_dim": close.size("mlp_dim", default=int(width * ratio))}, close.path)
    half = model.hidden // 2
    if not half:
        text.refuse("hidden_size", "must be at least 2")
    aligner = (
        table("high_res_vision_alpha", 1),
        table("high_res_vision_neck.conv1.weight", out, width, 1, 1),
        *layer_norm("high_res_vision_neck.layer_norm1", out),
        table("high_res_vision_neck.conv2.weight", out, out, 3, 3),
        *layer_norm("high_res_vision_neck.layer_norm2", out),
        table("high_res_vision_proj.conv1.weight", 2 * out, out, 3, 3),
        table("high_res_vision_proj.conv2.weight", 4 * out, 2 * out, 3, 3),
        *matrix("aligner.vision_proj", half, seen.size("hidden_size", default=768)),
        *matrix("aligner.high_res_vision_proj", half, 4 * out),
        *matrix("aligner.proj", model.hidden, model.hidden),
    )
    towers = (
        tower_of(seen, "siglip_vision_model"),
        Tower("high_resolution", segment_tower(close)),
        Tower("projector", aligner),
    )
    return completed(fields, model, towers)


def lfm3_vision(fields: Fields) -> Tower:
    """LFM3-VL's: gated convolutions over the grid of patches in some layers, grouped heads with norms in the others."""
    width = fields.size("hidden_size", default=1024)
    head = width // heads_of(fields, width, 16)
    heads, kv_heads = width // head, fields.size("num_key_value_heads", default=8)
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    count, kernel = fields.size("num_hidden_layers", default=14), fields.size("conv_kernel_size", default=3)
    kinds = fields.items("layer_types", length=count) or [
        "conv" if index < 2 or index % 2 else "full_attention" for index in range(count)
    ]
    if not all(kind in ("conv", "full_attention") for kind in kinds):
        fields.refuse("layer_types", "must be conv or full_attention")
    mixing = (
        *matrix("conv.in_proj", 3 * width, width, False),
        table("conv.spatial_conv.weight", width, 1, kernel, kernel),
        *matrix("conv.out_proj", width, width, False),
    )
    attention = (
        *matrix("self_attn.q_proj", width, width, False),
        *matrix("self_attn.k_proj", kv_heads * head, width, False),
        *matrix("self_attn.v_proj", kv_heads * head, width, False),
        *matrix("self_attn.out_proj", width, width, False),
        *layer_norm("self_attn.q_norm", head, False),
        *layer_norm("self_attn.k_norm", head, False),
    )
    wide = fields.size("intermediate_size", default=2560)
    common = (
        *matrix("feed_forward.w1", wide, width, False),
        *matrix("feed_forward.w3", wide, width, False),
        *matrix("feed_forward.w2", width, wide, False),
        *layer_norm("operator_norm", width, False),
        *layer_norm("ffn_norm", width, False),
    )
    mixers = kinds.count("conv")
    pixels = fields.size("in_channels", default=3) * fields.size("temporal_patch_size", default=2)
    return Tower(
        "vision",
        (
            *matrix("patch_embed", width, pixels * fields.size("patch_size", default=16) ** 2, False),
            *layer_norm("embedding_norm", width, False),
            *(times(mixing, mixers) if mixers else ()),
            *(times(attention, count - mixers) if mixers < count else ()),
            *times(common, count),
        ),
    )


def lfm3_vl(fields: Fields, name: str | None) -> Model:
    """LFM3-VL: LFM 3 and a tower of convolutions and attention, a norm before neighbouring patches are joined."""
    kind, text = text_part(fields, "lfm3")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config")
    width = seen.size("hidden_size", default=1024)
    joined = width * seen.size("spatial_merge_size", default=2) ** 2
    wide, bias = fields.size("projector_hidden_size", default=4096), fields.flag("projector_bias", default=True)
    projector = (
        *layer_norm("multi_modal_projector.layer_norm", width),
        *matrix("multi_modal_projector.linear_1", wide, joined, bias),
        *matrix("multi_modal_projector.linear_2", model.hidden, wide, bias),
    )
    return completed(fields, model, (lfm3_vision(seen), Tower("projector", projector)))


# ---------------------------------------------------------------------- MiniCPM-V 4.7, MiniCPM-OCR


def minicpm_ocr(fields: Fields, name: str | None) -> Model:
    """MiniCPM-OCR: MiniCPM-V 4.6 with a tied head where nothing is said."""
    model = minicpmv4_6(with_defaults(fields, tie_word_embeddings=tied_outside(fields, True)), name)
    return replace(model, config=fields.values)


# ---------------------------------------------------------------------- Granite Docling


def docling_path(name: str, width: int, out: int, joined: int, mergers: int) -> tuple[Tensor, ...]:
    """One way through the connector: `joined` x `joined` patches become one, at the end and after chosen layers."""
    into = width * joined**2
    merger = (
        *layer_norm("layer_norm", into),
        *matrix("linear_1", out, into),
        *matrix("linear_2", out, out),
    )
    return (
        *matrix(f"connector.{name}.projection", out, into, False),
        *(times(merger, mergers) if mergers else ()),
    )


def granite_docling(fields: Fields, name: str | None) -> Model:
    """Granite Docling: Granite and SigLIP's blocks, a connector with a coarse and perhaps a fine way, and perhaps a
    router between the two."""
    text = with_defaults(
        text_part(fields, "granite_docling_text", fixed=True)[1],
        vocab_size=133800,
        hidden_size=1024,
        intermediate_size=2048,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        embedding_multiplier=12.0,
        residual_multiplier=0.263,
        logits_scaling=4.0,
        attention_multiplier=0.015625,
    )
    model = read_text("granite", text, name, tied_outside(fields, True))
    model = replace(model, head=replace(model.head, scaled=True))  # it divides its logits as Granite does
    seen = part(fields, "vision_config")
    width, wide = seen.size("hidden_size", default=768), seen.size("intermediate_size", default=3072)
    heads_of(seen, width, 12)
    high, across = sides(seen, "patch_size", 16)
    out = seen.size("out_hidden_size", default=1024)
    if out != model.hidden:
        seen.refuse("out_hidden_size", f"must be the hidden_size of text_config ({model.hidden})")
    factor, fine = seen.size("scale_factor", default=4, most=1024), seen.flag("use_fine_route", default=True)
    if fine and factor < 2:
        seen.refuse("scale_factor", "must be at least 2 where use_fine_route is on")
    depths = seen.items("deepstack_visual_indexes")
    mergers = 3 if depths is None else len(depths)
    tower = (
        *convolution("patch_embedding", width, seen.size("num_channels", default=3), high, across),
        table("position_embedding.weight", patches(seen, 512, 16), width),
        *times(encoder_block(width, wide), seen.size("num_hidden_layers", default=12)),
        *layer_norm("post_layernorm", width),
    )
    connector = [
        *layer_norm("connector.ln_in", width),
        *docling_path("coarse", width, out, factor, mergers),
        *(docling_path("fine", width, out, factor // 2, mergers) if fine else ()),
        *layer_norm("connector.ln_mid", out),
        *matrix("connector.mlp_fc2", out, out, False),
        *layer_norm("connector.ln_out", out),
    ]
    if fields.has("density_router_hidden_size"):
        narrow = fields.size("density_router_hidden_size")
        connector += matrix("density_router.att", 1, width)
        connector += layer_norm("density_router.norm", width)
        connector += matrix("density_router.fc1", narrow, width)
        connector += matrix("density_router.fc2", 1, narrow)
        if not fine:
            fields.refuse("density_router_hidden_size", "needs vision_config.use_fine_route")
    return completed(fields, model, (Tower("vision", tower), Tower("projector", tuple(connector))))


# ---------------------------------------------------------------------- HyperCLOVA X, Cosmos 3


def hyperclovax_vision_v2(fields: Fields, name: str | None) -> Model:
    """HyperCLOVA X SEED Think: its text model and Qwen2.5-VL's tower, one matrix between."""
    kind, text = text_part(fields, "hyperclovax")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen = part(fields, "vision_config")
    if seen.text("model_type", default="qwen2_5_vl") not in ("qwen2_5_vl", "qwen2_5_vl_vision"):
        seen.refuse("model_type", "must be qwen2_5_vl_vision")
    projector = matrix("projector", model.hidden, seen.size("out_hidden_size", default=3584))
    return completed(fields, model, (qwen2_5_tower(seen), Tower("projector", projector)))


def cosmos3_omni(fields: Fields, name: str | None) -> Model:
    """Cosmos 3, the part that reasons: Qwen3-VL, dense; the whole says whether the head is tied."""
    text = with_defaults(
        text_part(fields, "qwen3_vl_text", fixed=True)[1],
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=22016,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        max_position_embeddings=128000,
    )
    model = qwen3(text, name)
    model = seen_in_three(replace(model, head=plain_head(model.head, tied_outside(fields, False))))
    return completed(fields, model, (qwen3_vl_tower(part(fields, "vision_config")),))


READERS: dict[str, Reader] = {
    "cosmos3_omni": cosmos3_omni,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "granite_docling": granite_docling,
    "hyperclovax_vision_v2": hyperclovax_vision_v2,
    "lfm3_vl": lfm3_vl,
    "minicpm_ocr": minicpm_ocr,
    "minicpmv4_7": minicpmv4_6,
    "video_llama_3": video_llama_3,
}
