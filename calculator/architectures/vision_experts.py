"""Families with experts that see, and their text parts: a text-only step holds the tower and does not run it."""

from __future__ import annotations

from ..errors import InvalidConfig
from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock
from ..layers.clamped import (
    EarlyClampedExperts,
    EarlyClampedFeedForward,
    LateClampedExperts,
    LateClampedFeedForward,
)
from ..layers.ends import Embedding, Head
from ..layers.experts import Experts, MixtureOfExperts, SigmoidRouter
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import GemmaRMSNorm, Norm
from ..layers.picked import BlockPickingAttention, HeadGatedAttention, UnevenAttention
from ..layers.repeated import ComplexAttention, HoldingBlock, RepeatedMixture
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .experts import ends, expert_counts, partial_rotary, qwen3_moe, stack, two_norms
from .fields import Fields, with_defaults
from .latent import deepseek_v3, sigmoid_router
from .linear_attention import completed, text_of
from .llama import attention_sizes, finish
from .table import Reader
from .vision import qwen3_vl_tower, seen_in_three

# ---------------------------------------------------------------------- Qwen3-VL, Kimi K2.5


def qwen3_vl_moe(fields: Fields, name: str | None) -> Model:
    """Qwen3-VL with experts: Qwen 3's plan, whose positions have three parts; the weights of the chosen add up to 1."""
    text = with_defaults(
        text_of(fields),
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        moe_intermediate_size=1408,
        num_experts_per_tok=4,
        num_experts=60,
        max_position_embeddings=128000,
    )
    text = Fields({**text.values, "norm_topk_prob": True}, text.path)
    model = seen_in_three(qwen3_moe(text, name, adapted_stacks=False))
    return completed(fields, model, (qwen3_vl_tower(fields.inner("vision_config")),))


def kimi_k25_tower(fields: Fields, vision: Fields, hidden: int) -> Tower:
    """MoonViT's blocks with layer norms and biases, learned positions on a grid, a projector of 2 × 2 patches."""
    width = vision.size("hidden_size", "vt_hidden_size", default=1152)
    wide = vision.size("intermediate_size", "vt_intermediate_size", default=4304)
    patch = vision.size("patch_size", default=14)
    height = vision.size("pos_emb_height", "init_pos_emb_height", default=64)
    across = vision.size("pos_emb_width", "init_pos_emb_width", default=64)
    block = (
        *layer_norm("norm1", width),
        *layer_norm("norm2", width),
        *(each for name in ("q_proj", "k_proj", "v_proj", "proj") for each in matrix(f"attn.{name}", width, width)),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    kernel = vision.items("merge_kernel_size") or [2, 2]
    merge = Fields(dict(zip("hw", kernel, strict=False)), f"{vision.path}.merge_kernel_size")
    projected = fields.size("projection_hidden_size", default=vision.size("mm_hidden_size", default=1152))
    merged = projected * merge.size("h") * merge.size("w")
    return Tower(
        "vision",
        (
            *matrix_of_patches(width, 3, patch, True),
            table("position_embeddings", height, across, width),
            *times(block, vision.size("num_hidden_layers", "vt_num_hidden_layers", default=27)),
            *layer_norm("final_layernorm", width),
            *layer_norm("projector.pre_norm", projected),
            *matrix("projector.linear_1", merged, merged),
            *matrix("projector.linear_2", hidden, merged),
        ),
    )


def matrix_of_patches(width: int, channels: int, side: int, bias: bool, frames: int = 1) -> tuple[Tensor, ...]:
    """What turns patches into hidden states."""
    made = table("patch_embed.proj.weight", width, channels, frames, side, side)
    return (made, table("patch_embed.proj.bias", width)) if bias else (made,)


def kimi_k25(fields: Fields, name: str | None) -> Model:
    """Kimi K2.5: DeepSeek-V3's text model with a vision tower."""
    model = deepseek_v3(text_of(fields), name, adapted_stacks=False)
    tower = kimi_k25_tower(fields, fields.inner("vision_config"), model.hidden)
    return completed(fields, model, (tower,))


# ---------------------------------------------------------------------- Llama 4


def llama4_text(fields: Fields, name: str | None) -> Model:
    """Llama 4's text model: experts that all see all tokens, three of four layers in chunks, the fourth without
    positions."""
    fields = with_defaults(
        fields,
        vocab_size=202048,
        hidden_size=5120,
        num_hidden_layers=48,
        num_attention_heads=40,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    bias = fields.flag("attention_bias")
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_local_experts", chosen=1, experts=16)
    wide = fields.size("intermediate_size", default=8192)
    stacks = Experts(hidden, wide, experts, chosen, activation, "feed_forward.experts", transposed=True)
    shared = GatedFeedForward(
        hidden, wide, activation, prefix="feed_forward.shared_expert", component="shared_experts", suffix="_shexp"
    )
    mixture = RepeatedMixture(stacks, shared)
    dense_wide = fields.size("intermediate_size_mlp", default=16384)
    dense = GatedFeedForward(hidden, dense_wide, activation, prefix="feed_forward")
    chunk = fields.optional("attention_chunk_size") if fields.has("attention_chunk_size") else 8192
    normed = fields.flag("use_qk_norm", default=True)
    stretched = fields.flag("attn_temperature_tuning", default=True)
    norms = two_norms(hidden)

    def make(key: tuple[bool, bool, bool]) -> Block:
        turned, chunked, sparse = key
        attention = ComplexAttention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            rotary_dim=None if turned else 0,
            window=chunk if chunked else None,
            low_softmax=True,
            unit_norm=normed and turned,
            stretched=stretched and not turned,
        )
        return HoldingBlock(attention, mixture if sparse else dense, norms)

    turned = turned_layers(fields, count)
    kinds = fields.items("layer_types", length=count)
    chunked = turned if kinds is None else [kind == "chunked_attention" for kind in kinds]
    keys = list(zip(turned, chunked, sparse_of(fields, count), strict=True))
    embedding, head = ends(fields, hidden)
    return finish(
        fields,
        name,
        embedding,
        stack(keys, make),
        head,
        tables=(("frequencies", head_dim),),
        float_tables=True,
    )


def turned_layers(fields: Fields, count: int) -> list[bool]:
    """Layers with rotary positions: by `no_rope_layers` (1 says it has them), else all but every fourth."""
    if fields.values.get("no_rope_layers"):
        return [bool(each) for each in fields.items("no_rope_layers", length=count) or []]
    every = fields.size("no_rope_layer_interval", default=4)
    return [(index + 1) % every != 0 for index in range(count)]


def sparse_of(fields: Fields, count: int) -> list[bool]:
    """Layers with experts: by `moe_layers`, else every n-th."""
    listed = fields.items("moe_layers")
    if listed is not None:
        chosen = {each for each in listed if isinstance(each, int)}
        return [index in chosen for index in range(count)]
    step = fields.size("interleave_moe_layer_step", default=1)
    return [(index + 1) % step == 0 for index in range(count)]


def llama4_tower(fields: Fields, hidden: int) -> Tower:
    """Blocks with layer norms and biases, learned positions, a pixel-shuffling feed-forward layer, a projector."""
    width, wide = fields.size("hidden_size", default=768), fields.size("intermediate_size", default=5632)
    patch, channels = fields.size("patch_size", default=14), fields.size("num_channels", default=3)
    block = (
        *layer_norm("input_layernorm", width),
        *layer_norm("post_attention_layernorm", width),
        *(each for name in "qkvo" for each in matrix(f"self_attn.{name}_proj", width, width)),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    into, out = fields.size("projector_input_dim", default=4096), fields.size("projector_output_dim", default=4096)
    patches = (fields.size("image_size", default=448) // patch) ** 2 + 1
    return Tower(
        "vision",
        (
            *matrix("patch_embedding.linear", width, channels * patch * patch, False),
            table("class_embedding", width),
            table("positional_embedding_vlm", patches, width),
            *layer_norm("layernorm_pre", width),
            *times(block, fields.size("num_hidden_layers", default=34)),
            *layer_norm("layernorm_post", width),
            *matrix("vision_adapter.mlp.fc1", into, wide, False),
            *matrix("vision_adapter.mlp.fc2", out, out, False),
            *matrix("multi_modal_projector.linear_1", hidden, fields.size("vision_output_dim", default=7680), False),
        ),
    )


def llama4(fields: Fields, name: str | None) -> Model:
    """Llama 4: the text model and a vision tower."""
    model = llama4_text(text_of(fields), name)
    return completed(fields, model, (llama4_tower(fields.inner("vision_config"), model.hidden),))


# ---------------------------------------------------------------------- MiMo-V2-Flash


def by_pattern(fields: Fields, count: int, name: str) -> list[bool] | None:
    """A flag a layer from a list of 0 and 1."""
    listed = fields.items(name, length=count)
    return None if listed is None else [bool(each) for each in listed]


def mimo_v2_flash(fields: Fields, name: str | None) -> Model:
    """MiMo-V2-Flash: narrower values, windows with sinks and twice the key-value heads in most layers, sigmoid
    routing."""
    fields = with_defaults(
        fields, hidden_size=4096, num_hidden_layers=48, num_attention_heads=64, num_key_value_heads=4, head_dim=192
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    fields.divides(heads, 2 * kv_heads, ("num_attention_heads", "2 · num_key_value_heads"))
    count = fields.size("num_hidden_layers")
    bias = fields.flag("attention_bias")
    activation = fields.text("hidden_act", default="silu")
    window = fields.size("sliding_window_size", default=0, least=0)
    window = window + 1 if window else fields.size("sliding_window", default=129)
    kinds = fields.items("layer_types", length=count)
    if kinds is not None:
        local = [kind == "sliding_attention" for kind in kinds]
    else:
        local = by_pattern(fields, count, "hybrid_layer_pattern") or [
            index != 0 and (index + 1) % 6 != 0 for index in range(count)
        ]
    kinds = fields.items("mlp_layer_types", length=count)
    if kinds is not None:
        sparse = [kind == "sparse" for kind in kinds]
    else:
        sparse = by_pattern(fields, count, "moe_layer_freq") or [index > 0 for index in range(count)]
    router = sigmoid_router(fields, hidden, 8, 256, 1, 1)
    wide = fields.size("moe_intermediate_size", default=2048)
    stacks = Experts(hidden, wide, router.experts, router.chosen, activation)
    mixture = MixtureOfExperts(router, stacks)
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=16384), activation)
    rotary = partial_rotary(fields, head_dim, 0.334)
    rotary -= rotary % 2

    def make(key: tuple[bool, bool]) -> Block:
        attention = UnevenAttention(
            hidden,
            heads,
            kv_heads * (2 if key[0] else 1),
            head_dim,
            bias=bias,
            rotary_dim=rotary,
            window=window if key[0] else None,
            sinks=key[0],
            tables=("cos_local", "sin_local") if key[0] else ("cos", "sin"),
            value_dim=fields.size("v_head_dim", default=128),
        )
        return PreNormBlock(attention, mixture if key[1] else dense, two_norms(hidden))

    embedding, head = ends(with_defaults(fields, vocab_size=152576), hidden)
    tables = [("cos", rotary), ("sin", rotary)] if not all(local) else []
    if any(local):
        tables += [("cos_local", rotary), ("sin_local", rotary)]
    layers = stack(list(zip(local, sparse, strict=True)), make)
    return finish(fields, name, embedding, layers, head, tables=tuple(tables), sdpa=False)


# ---------------------------------------------------------------------- Step 3.5 and 3.7


def step_text(fields: Fields, name: str | None) -> Model:
    """Step 3.5 and 3.7's text model: gated heads, norms around 1, windows in most layers, clamped experts."""
    fields = with_defaults(
        fields,
        vocab_size=128815,
        hidden_size=4096,
        num_hidden_layers=45,
        num_attention_heads=64,
        head_dim=128,
        max_position_embeddings=128000,
    )
    if fields.has("num_attention_groups"):
        fields = Fields({**fields.values, "num_key_value_heads": fields.values["num_attention_groups"]}, fields.path)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 8)
    other = fields.inner("attention_other_setting")
    local_heads = fields.size("num_sliding_attention_heads", default=other.size("num_attention_heads", default=heads))
    fields.divides(local_heads, kv_heads, ("num_sliding_attention_heads", "num_key_value_heads"))
    count = fields.size("num_hidden_layers")
    activation = fields.text("hidden_act", default="silu")
    bias = fields.flag("attention_bias")
    window = fields.optional("sliding_window")
    local = [
        kind == "sliding_attention" for kind in trimmed(fields, "layer_types", count) or ["full_attention"] * count
    ]
    sparse = step_sparse(fields, count)
    far = step_rotary(fields, head_dim, local, False)
    near = step_rotary(fields, head_dim, local, True)
    experts, chosen = expert_counts(
        fields, "n_routed_experts", "moe_num_experts", "num_experts", "num_local_experts", chosen=8, experts=288
    )
    wide = fields.size("moe_intermediate_size", default=1280)
    stacks = LateClampedExperts(hidden, wide, experts, chosen, activation)
    shared = LateClampedFeedForward(
        hidden,
        fields.size("share_expert_dim", "share_expert_dims", default=1280),
        activation,
        fields.flag("mlp_bias"),
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    router = SigmoidRouter(hidden, experts, chosen, normal=True, wide=False, scaled=False)
    mixture = MixtureOfExperts(router, stacks, shared, True, scaled=True)
    dense_wide = fields.size("intermediate_size", default=11264)
    dense = LateClampedFeedForward(hidden, dense_wide, activation, fields.flag("mlp_bias"))

    def make(key: tuple[bool, bool]) -> Block:
        attention = HeadGatedAttention(
            hidden,
            local_heads if key[0] else heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=GemmaRMSNorm(head_dim, "q_norm"),
            key_norm=GemmaRMSNorm(head_dim, "k_norm"),
            rotary_dim=near if key[0] else far,
            window=window if key[0] else None,
            tables=("cos_local", "sin_local") if key[0] else ("cos", "sin"),
        )
        return PreNormBlock(attention, mixture if key[1] else dense, gemma_norms(hidden))

    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    tables = [("cos", far), ("sin", far)] if not all(local) else []
    if any(local):
        tables += [("cos_local", near), ("sin_local", near)]
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        stack(list(zip(local, sparse, strict=True)), make),
        Head(vocabulary, hidden, tied, GemmaRMSNorm(hidden, "norm")),
        tables=tuple(tables),
    )


def step_rotary(fields: Fields, head_dim: int, local: list[bool], near: bool) -> int:
    """Rotated dimensions in layers with a window or without: from `rope_parameters`, or a list with one factor a
    layer."""
    kind = fields.inner("rope_parameters").inner("sliding_attention" if near else "full_attention")
    listed = fields.values.get("partial_rotary_factors")
    if isinstance(listed, list) and near in local and len(listed) >= len(local):
        kind = Fields({"partial_rotary_factor": listed[local.index(near)]}, fields.path)
    return partial_rotary(kind, head_dim, 1.0)


def gemma_norms(hidden: int) -> tuple[Norm, ...]:
    """Norms of 1 + weight before attention and feed-forward layer."""
    return GemmaRMSNorm(hidden, "input_layernorm"), GemmaRMSNorm(hidden, "post_attention_layernorm")


def trimmed(fields: Fields, name: str, count: int) -> list[object] | None:
    """A list with one entry a layer; entries of prediction layers at its end are dropped."""
    listed = fields.items(name)
    if listed is None:
        return None
    extra = fields.size("num_nextn_predict_layers", default=0, least=0)
    if len(listed) == count + extra:
        return listed[:count]
    return fields.items(name, length=count)


def step_sparse(fields: Fields, count: int) -> list[bool]:
    """Layers with experts: by `mlp_layer_types`, by the numbers in `moe_layers_enum`, else all from the fourth on."""
    kinds = trimmed(fields, "mlp_layer_types", count)
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    listed = fields.values.get("moe_layers_enum")
    if listed is None:
        return [index >= 3 for index in range(count)]
    items = listed.split(",") if isinstance(listed, str) else listed
    try:
        chosen = {int(each) for each in items if str(each).strip()}
    except (TypeError, ValueError) as error:
        where = f"{fields.path}.moe_layers_enum"
        raise InvalidConfig(f"{where} must be numbers of layers with commas between them", where) from error
    return [index in chosen for index in range(count)]


def step_tower(fields: Fields, hidden: int, bias: bool) -> Tower:
    """Blocks with layer norms, biases and layer scales, learned positions, two convolutions that halve the sides, a
    projector."""
    width = fields.size("width", "hidden_size", default=1536)
    ratio = fields.number("mlp_ratio", default=8960 / 1536)
    wide = int(width * ratio)
    if not 0 < wide <= 10**9:
        raise InvalidConfig(f"{fields.path}.mlp_ratio makes no layer", f"{fields.path}.mlp_ratio")
    patch = fields.size("patch_size", default=14)
    block = (
        *layer_norm("layernorm_before", width),
        *layer_norm("layernorm_after", width),
        table("lambda_1", width),
        table("lambda_2", width),
        *(each for name in "qkv" for each in matrix(f"attention.{name}_proj", width, width)),
        *matrix("attention.out_proj", width, width),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    return Tower(
        "vision",
        (
            *matrix_of_patches(width, fields.size("num_channels", default=3), patch, False),
            table("position_embedding.weight", (fields.size("image_size", default=728) // patch) ** 2, width),
            *layer_norm("pre_layernorm", width),
            *times(block, fields.size("layers", "num_hidden_layers", default=47)),
            table("downsampler1.weight", 2 * width, width, 3, 3),
            table("downsampler1.bias", 2 * width),
            table("downsampler2.weight", 4 * width, 2 * width, 3, 3),
            table("downsampler2.bias", 4 * width),
            *matrix("projector", hidden, 4 * width, bias),
        ),
    )


def step3p7(fields: Fields, name: str | None) -> Model:
    """Step 3.7: Step 3.5's text model and a vision tower.

    Where a configuration has no text part of its own, the vocabulary is that of transformers' configuration class: the
    class takes no other, and the figures that stand at the top are otherwise the same as its own."""
    text = text_of(fields)
    if text is fields:
        text = Fields({key: value for key, value in fields.values.items() if key != "vocab_size"}, fields.path)
    model = step_text(text, name)
    tower = step_tower(fields.inner("vision_config"), model.hidden, fields.flag("projector_bias"))
    return completed(fields, model, (tower,))


# ---------------------------------------------------------------------- MiniMax M3


def minimax_m3_text(fields: Fields, name: str | None) -> Model:
    """MiniMax M3's text model: norms around 1, blocks of keys picked by an indexer in most layers, clamped experts."""
    fields = with_defaults(
        fields,
        vocab_size=200064,
        hidden_size=6144,
        num_hidden_layers=60,
        num_attention_heads=64,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=524288,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    experts, chosen = expert_counts(fields, "num_local_experts", "num_experts", chosen=4, experts=128)
    wide = fields.size("intermediate_size", default=3072)
    dense = EarlyClampedFeedForward(hidden, fields.size("dense_intermediate_size", default=12288))
    shared = EarlyClampedFeedForward(
        hidden,
        fields.size("shared_intermediate_size", default=3072),
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    router = SigmoidRouter(hidden, experts, chosen, normal=True, wide=False, scaled=False)
    mixture = MixtureOfExperts(router, EarlyClampedExperts(hidden, wide, experts, chosen), shared, True, scaled=True)
    rotary = partial_rotary(with_defaults(fields, rotary_dim=64), head_dim, 0.5)
    picking = fields.inner("sparse_attention_config")
    index_heads = picking.size("sparse_num_index_heads", default=fields.size("index_n_heads", default=4), most=heads)
    fields.divides(heads, index_heads, ("num_attention_heads", "index_n_heads"))
    index_dim = picking.size("sparse_index_dim", default=fields.size("index_head_dim", default=128), least=rotary)
    block = picking.size("sparse_block_size", default=fields.size("index_block_size", default=128))
    most = picking.size("sparse_topk_blocks", default=fields.size("index_topk_blocks", default=16))
    kinds = fields.items("layer_types", length=count)
    if kinds is not None:
        picks = [kind == "minimax_m3_sparse" for kind in kinds]
    else:
        picks = by_pattern(picking, count, "sparse_attention_freq") or [False] * count
    kinds = fields.items("mlp_layer_types", length=count)
    if kinds is not None:
        sparse = [kind == "sparse" for kind in kinds]
    else:
        sparse = by_pattern(fields, count, "moe_layer_freq") or [True] * count

    def make(key: tuple[bool, bool]) -> Block:
        plain = Attention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            query_norm=GemmaRMSNorm(head_dim, "q_norm"),
            key_norm=GemmaRMSNorm(head_dim, "k_norm"),
            rotary_dim=rotary,
        )
        attention = plain
        if key[0]:
            attention = BlockPickingAttention(
                hidden,
                heads,
                kv_heads,
                head_dim,
                query_norm=plain.query_norm,
                key_norm=plain.key_norm,
                rotary_dim=rotary,
                index_heads=index_heads,
                index_dim=index_dim,
                block=block,
                most=most,
            )
        return PreNormBlock(attention, mixture if key[1] else dense, gemma_norms(hidden))

    vocabulary = fields.size("vocab_size")
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        stack(list(zip(picks, sparse, strict=True)), make),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), GemmaRMSNorm(hidden, "norm")),
        rotary=rotary,
    )


def minimax_m3_tower(fields: Fields, vision: Fields, hidden: int) -> Tower:
    """CLIP's blocks, patches over two frames, a projector that merges 2 × 2 patches."""
    width, wide = vision.size("hidden_size", default=1280), vision.size("intermediate_size", default=5120)
    block = (
        *layer_norm("layer_norm1", width),
        *layer_norm("layer_norm2", width),
        *(each for name in "qkv" for each in matrix(f"self_attn.{name}_proj", width, width)),
        *matrix("self_attn.out_proj", width, width),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    merge = vision.size("spatial_merge_size", default=2) ** 2
    between = fields.size("projector_hidden_size", default=6144)
    frames = vision.size("temporal_patch_size", default=2)
    channels, patch = vision.size("num_channels", default=3), vision.size("patch_size", default=14)
    return Tower(
        "vision",
        (
            *matrix_of_patches(width, channels, patch, False, frames),
            *layer_norm("pre_layrnorm", width),
            *times(block, vision.size("num_hidden_layers", default=32)),
            *matrix("projector.linear_1", between, width),
            *matrix("projector.linear_2", hidden, between),
            *matrix("projector.merge_linear_1", between, hidden * merge),
            *matrix("projector.merge_linear_2", hidden, between),
        ),
    )


def minimax_m3_vl(fields: Fields, name: str | None) -> Model:
    """MiniMax M3 with its vision tower."""
    model = minimax_m3_text(text_of(fields), name)
    tower = minimax_m3_tower(fields, fields.inner("vision_config"), model.hidden)
    return seen_in_three(completed(fields, model, (tower,)))


READERS: dict[str, Reader] = {
    "qwen3_vl_moe": qwen3_vl_moe,
    "kimi_k25": kimi_k25,
    "llama4": llama4,
    "llama4_text": llama4_text,
    "mimo_v2_flash": mimo_v2_flash,
    "step3p7": step3p7,
    "step3p5": step_text,
    "minimax_m3": minimax_m3_text,
    "minimax_m3_vl": minimax_m3_vl,
    "minimax_m3_vl_text": minimax_m3_text,
}
