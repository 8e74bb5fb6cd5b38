"""Models that see: a text model as its family has it, and a vision tower that a text-only step does not run."""

from __future__ import annotations

from dataclasses import replace

from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import RMSNorm
from ..layers.towers import layer_norm, matrix, table, times
from ..layers.variants import IdleBlock
from ..model import Model, Tower
from ..tensors import Tensor
from .fields import Fields, with_defaults
from .gemma import gemma3_text
from .kin import ministral3, rms_pair, stack
from .linear_attention import completed, qwen3_tower, text_of
from .llama import attention_sizes, mistral, qwen2, qwen3
from .table import Reader

# ---------------------------------------------------------------------- towers


def square(fields: Fields, patch: int) -> int:
    """Patches of one image."""
    return (fields.size("image_size", default=224) // patch) ** 2


def qwen2_tower(fields: Fields) -> Tower:
    """Qwen2-VL's: patches over two frames, blocks with layer norms and biases, a merger of 2 × 2 patches."""
    width = fields.size("embed_dim", default=1280)
    wide = width * fields.size("mlp_ratio", default=4)
    block = (
        *layer_norm("blocks.norm1", width),
        *layer_norm("blocks.norm2", width),
        *matrix("blocks.attn.qkv", 3 * width, width),
        *matrix("blocks.attn.proj", width, width),
        *matrix("blocks.mlp.fc1", wide, width),
        *matrix("blocks.mlp.fc2", width, wide),
    )
    merged = width * fields.size("spatial_merge_size", default=2) ** 2
    return Tower(
        "vision",
        (
            frames(fields, width, 14, "in_channels"),
            *times(block, fields.size("depth", default=32)),
            *layer_norm("merger.ln_q", width),
            *matrix("merger.mlp.0", merged, merged),
            *matrix("merger.mlp.2", fields.size("hidden_size", default=3584), merged),
        ),
    )


def frames(fields: Fields, width: int, patch: int, channels: str) -> Tensor:
    """The matrix from patches over two frames to hidden states."""
    side, time = fields.size("patch_size", default=patch), fields.size("temporal_patch_size", default=2)
    return table("patch_embed.proj.weight", width, fields.size(channels, default=3), time, side, side)


def qwen2_5_tower(fields: Fields) -> Tower:
    """Qwen2.5-VL's: as Qwen2-VL's, with RMSNorm and a gated feed-forward layer that has biases."""
    width = fields.size("hidden_size", default=3584)
    wide = fields.size("intermediate_size", default=3420)
    block = (
        *layer_norm("blocks.norm1", width, bias=False),
        *layer_norm("blocks.norm2", width, bias=False),
        *matrix("blocks.attn.qkv", 3 * width, width),
        *matrix("blocks.attn.proj", width, width),
        *matrix("blocks.mlp.gate_proj", wide, width),
        *matrix("blocks.mlp.up_proj", wide, width),
        *matrix("blocks.mlp.down_proj", width, wide),
    )
    merged = width * fields.size("spatial_merge_size", default=2) ** 2
    return Tower(
        "vision",
        (
            frames(fields, width, 14, "in_channels"),
            *times(block, fields.size("depth", default=32)),
            *layer_norm("merger.ln_q", width, bias=False),
            *matrix("merger.mlp.0", merged, merged),
            *matrix("merger.mlp.2", fields.size("out_hidden_size", default=3584), merged),
        ),
    )


def qwen3_vl_tower(fields: Fields) -> Tower:
    """Qwen3-VL's: Qwen 3.5's tower, and a merger for each depth whose states are handed to the first text layers."""
    base = qwen3_tower(fields)
    width = fields.size("hidden_size", default=1152)
    merged = width * fields.size("spatial_merge_size", default=2) ** 2
    depths = fields.items("deepstack_visual_indexes")
    merger = (
        *layer_norm("deepstack_merger_list.norm", merged),
        *matrix("deepstack_merger_list.linear_fc1", merged, merged),
        *matrix("deepstack_merger_list.linear_fc2", fields.size("out_hidden_size", default=3584), merged),
    )
    return Tower(base.name, (*base.stored, *times(merger, 3 if depths is None else len(depths))))


def pixtral_tower(fields: Fields) -> Tower:
    """Pixtral's: square patches, blocks without biases and with a gated feed-forward layer."""
    width = fields.size("hidden_size", default=1024)
    fields.divides(width, fields.size("num_attention_heads", default=16), ("hidden_size", "num_attention_heads"))
    wide = fields.size("intermediate_size", default=4096)
    side = fields.size("patch_size", default=16)
    block = (
        *layer_norm("attention_norm", width, bias=False),
        *layer_norm("ffn_norm", width, bias=False),
        *(each for name in "qkvo" for each in matrix(f"attention.{name}_proj", width, width, bias=False)),
        *matrix("feed_forward.gate_proj", wide, width, bias=False),
        *matrix("feed_forward.up_proj", wide, width, bias=False),
        *matrix("feed_forward.down_proj", width, wide, bias=False),
    )
    return Tower(
        "vision",
        (
            table("patch_conv.weight", width, fields.size("num_channels", default=3), side, side),
            *layer_norm("ln_pre", width, bias=False),
            *times(block, fields.size("num_hidden_layers", default=24)),
        ),
    )


def siglip_tower(fields: Fields) -> Tower:
    """SigLIP's: square patches with learned positions, blocks with biases, pooling by attention on request."""
    width = fields.size("hidden_size", default=768)
    fields.divides(width, fields.size("num_attention_heads", default=12), ("hidden_size", "num_attention_heads"))
    wide = fields.size("intermediate_size", default=3072)
    side = fields.size("patch_size", default=16)
    feed_forward = (*matrix("mlp.fc1", wide, width), *matrix("mlp.fc2", width, wide))
    block = (
        *layer_norm("layer_norm1", width),
        *layer_norm("layer_norm2", width),
        *(each for name in ("q", "k", "v", "out") for each in matrix(f"self_attn.{name}_proj", width, width)),
        *feed_forward,
    )
    pooled = (
        table("head.probe", 1, 1, width),
        *matrix("head.attention.in_proj", 3 * width, width),
        *matrix("head.attention.out_proj", width, width),
        *layer_norm("head.layernorm", width),
        *feed_forward,
    )
    return Tower(
        "vision",
        (
            table("patch_embedding.weight", width, fields.size("num_channels", default=3), side, side),
            table("patch_embedding.bias", width),
            table("position_embedding.weight", square(fields, side), width),
            *times(block, fields.size("num_hidden_layers", default=12)),
            *layer_norm("post_layernorm", width),
            *(pooled if fields.flag("vision_use_head", default=True) else ()),
        ),
    )


def mllama_tower(fields: Fields) -> Tower:
    """Llama 3.2 Vision's: tiles with learned positions for each aspect ratio, local and gated global blocks."""
    width = fields.size("hidden_size", default=1280)
    wide = fields.size("intermediate_size", default=5120)
    side = fields.size("patch_size", default=14)
    patches = (fields.size("image_size", default=448) // side) ** 2 + 1
    tiles = fields.size("max_num_tiles", default=4)
    known = fields.items("supported_aspect_ratios")
    ratios = (8 if known is None else len(known)) + 1
    block = (
        *layer_norm("input_layernorm", width),
        *layer_norm("post_attention_layernorm", width),
        *(each for name in "qkvo" for each in matrix(f"self_attn.{name}_proj", width, width, bias=False)),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    gated = (*block, table("gate_attn", 1), table("gate_ffn", 1))
    return Tower(
        "vision",
        (
            table("patch_embedding.weight", width, fields.size("num_channels", default=3), side, side),
            table("class_embedding", width),
            table("gated_positional_embedding.embedding", patches, width),
            table("gated_positional_embedding.tile_embedding.weight", ratios, tiles * patches * width),
            table("gated_positional_embedding.gate", 1),
            table("tile_positional_embedding.embedding.weight", ratios, tiles * width, count=2),
            table("tile_positional_embedding.gate", 1, count=2),
            *layer_norm("layernorm_pre", width),
            *layer_norm("layernorm_post", width),
            *times(block, fields.size("num_hidden_layers", default=32)),
            *times(gated, fields.size("num_global_layers", default=8)),
        ),
    )


# ---------------------------------------------------------------------- models


QWEN2_VL_TEXT = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "max_window_layers": 80,
}


def seen_in_three(model: Model) -> Model:
    """Positions have three parts (time, row, column), so each sequence has rotary tables of its own."""
    return replace(model, batched_tables=True)


def qwen2_vl(fields: Fields, name: str | None) -> Model:
    """Qwen2-VL: Qwen 2 whose positions have three parts."""
    model = qwen2(with_defaults(text_of(fields), **QWEN2_VL_TEXT), name)
    return seen_in_three(completed(fields, model, (qwen2_tower(fields.inner("vision_config")),)))


def qwen2_5_vl(fields: Fields, name: str | None) -> Model:
    """Qwen2.5-VL: the same with another tower."""
    model = qwen2(with_defaults(text_of(fields), **QWEN2_VL_TEXT), name)
    return seen_in_three(completed(fields, model, (qwen2_5_tower(fields.inner("vision_config")),)))


def qwen3_vl(fields: Fields, name: str | None) -> Model:
    """Qwen3-VL, dense: Qwen 3 whose positions have three parts."""
    text = with_defaults(
        text_of(fields),
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=22016,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        max_position_embeddings=128000,
    )
    tower = qwen3_vl_tower(fields.inner("vision_config"))
    return seen_in_three(completed(fields, qwen3(text, name), (tower,)))


def mistral3(fields: Fields, name: str | None) -> Model:
    """Mistral Small 3.1 on, Ministral 3, Devstral Small 2: Mistral or Ministral 3 with Pixtral's tower; the whole says
    whether the head is tied, and it is unless it says no."""
    text = text_of(fields)
    tied = fields.flag("tie_word_embeddings", default=True)
    text = Fields({**text.values, "tie_word_embeddings": tied}, text.path)
    if text.text("model_type", default="mistral") == "ministral3":
        model = ministral3(text, name)
    else:
        model = mistral(with_defaults(text, **MISTRAL_TEXT), name)
    seen = fields.inner("vision_config")
    return completed(fields, model, (pixtral_tower(seen), pixtral_projector(fields, seen, model.hidden)))


def pixtral_projector(fields: Fields, seen: Fields, hidden: int) -> Tower:
    """A norm, a matrix that joins neighbouring patches, and two that bring them to the text's width."""
    width = seen.size("hidden_size", default=1024)
    depths = fields.values.get("vision_feature_layer")
    taken = len(depths) if isinstance(depths, list) else 1
    bias = fields.flag("multimodal_projector_bias")
    return Tower(
        "projector",
        (
            *layer_norm("norm", width, bias=False),
            *matrix(
                "patch_merger.merging_layer", width, width * fields.size("spatial_merge_size", default=2) ** 2, False
            ),
            *matrix("linear_1", hidden, width * taken, bias),
            *matrix("linear_2", hidden, hidden, bias),
        ),
    )


MISTRAL_TEXT = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}


def gemma3(fields: Fields, name: str | None) -> Model:
    """Gemma 3 with SigLIP's tower: a matrix and a norm bring its states to the text's width."""
    text = with_defaults(
        text_of(fields),
        vocab_size=262208,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=131072,
    )
    model = gemma3_text(text, name)
    seen = fields.inner("vision_config")
    width = seen.size("hidden_size", default=768)
    projector = (
        table("mm_input_projection_weight", width, model.hidden),
        *layer_norm("mm_soft_emb_norm", width, bias=False),
    )
    return completed(fields, model, (siglip_tower(seen), Tower("projector", projector)))


def mllama(fields: Fields, name: str | None) -> Model:
    """Llama 3.2 Vision: some layers attend to images alone; a text-only step skips them and keeps nothing of them."""
    text = with_defaults(
        text_of(fields),
        vocab_size=128256,
        hidden_size=4096,
        num_hidden_layers=40,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(text)
    dropout = text.number("dropout", default=0.0)
    feed_forward = GatedFeedForward(hidden, text.size("intermediate_size"), text.text("hidden_act", default="silu"))
    block = PreNormBlock(Attention(hidden, heads, kv_heads, head_dim, dropout=dropout), feed_forward, rms_pair(hidden))
    across = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        prefix="cross_attn",
        query_norm=RMSNorm(head_dim, "q_norm"),
        key_norm=RMSNorm(head_dim, "k_norm"),
        rotary_dim=0,
    )
    parts = (
        *across.tensors(),
        *feed_forward.tensors(),
        *(tensor for norm in rms_pair(hidden) for tensor in norm.tensors()),
        Tensor("cross_attn_attn_gate", (1,), "other", "other"),
        Tensor("cross_attn_mlp_gate", (1,), "mlp_dense", "other"),
    )
    idle = IdleBlock(None, None, stored=parts)
    listed = text.items("cross_attention_layers")
    seeing = set(listed if listed is not None else [3, 8, 13, 18, 23, 28, 33, 38])
    vocabulary = text.size("vocab_size")
    layers: list[Block] = [idle if index in seeing else block for index in range(text.size("num_hidden_layers"))]
    model = stack(
        Fields({**text.values, "tie_word_embeddings": False}, text.path),
        name,
        lambda _: block,
        RMSNorm(hidden, "norm"),
        rotary=head_dim,
    )
    embedding = replace(model.embedding, vocabulary=vocabulary + 8)  # eight rows for images that the head lacks
    model = replace(model, layers=tuple(layers), embedding=embedding)
    seen = fields.inner("vision_config")
    projector = matrix("multi_modal_projector", hidden, seen.size("vision_output_dim", default=7680))
    return completed(fields, model, (mllama_tower(seen), Tower("projector", projector)))


READERS: dict[str, Reader] = {
    "gemma3": gemma3,
    "mistral3": mistral3,
    "mllama": mllama,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
}
