"""Families whose layers are mostly linear attention: Qwen 3 Next and 3.5, MiniMax 01, Kimi Linear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InvalidConfig
from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.experts import (
    MIXTRAL_TARGETS,
    QWEN_TARGETS,
    Experts,
    MixtureOfExperts,
    SigmoidRouter,
    SoftmaxRouter,
    StackTargets,
)
from ..layers.feed_forward import GatedFeedForward
from ..layers.linear_attention import (
    GatedAttention,
    GatedDeltaNet,
    KimiDeltaAttention,
    LightningAttention,
    PlainLatentAttention,
    WeighedBlock,
)
from ..layers.norms import GemmaRMSNorm, RMSNorm
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .experts import sparse_layers
from .fields import Fields
from .llama import attention_sizes, finish
from .state_space import state_precision
from .table import Reader


def with_default(fields: Fields, **values: Any) -> Fields:
    """The same fields, some of them filled in where they are absent."""
    present = {name: value for name, value in fields.values.items() if value is not None}
    return Fields({**values, **present}, fields.path)


def alternating(fields: Fields, count: int) -> list[str]:
    """The kind of each layer: `layer_types`, or full attention every `full_attention_interval` layers."""
    kinds = fields.items("layer_types", length=count)
    if kinds is None:
        every = fields.size("full_attention_interval", default=4)
        return ["full_attention" if (index + 1) % every == 0 else "linear_attention" for index in range(count)]
    for kind in kinds:
        if kind not in ("full_attention", "linear_attention"):
            raise InvalidConfig(
                f"{fields.path}.layer_types has {kind!r:.40}; known: full_attention, linear_attention",
                f"{fields.path}.layer_types",
            )
    return kinds


def delta_net(fields: Fields, hidden: int, fused: bool) -> GatedDeltaNet:
    """The delta rule of Qwen 3 Next (two joint matrices) and 3.5 (four)."""
    keys, values = (
        fields.size("linear_num_key_heads", default=16),
        fields.size("linear_num_value_heads", default=32),
    )
    fields.divides(values, keys, ("linear_num_value_heads", "linear_num_key_heads"))
    return GatedDeltaNet(
        hidden,
        keys,
        values,
        fields.size("linear_key_head_dim", default=128),
        fields.size("linear_value_head_dim", default=128),
        fields.size("linear_conv_kernel_dim", default=4),
        fused=fused,
        precision=state_precision(fields),
    )


def gated_attention(fields: Fields) -> GatedAttention:
    """Grouped heads with norms over q and k, a quarter of each rotated, and an output gate."""
    hidden, heads, kv_heads, head_dim = attention_sizes(with_default(fields, head_dim=256), kv_default=2)
    bias = fields.flag("attention_bias")
    share = fields.inner("rope_parameters").number("partial_rotary_factor", default=0.0) or fields.number(
        "partial_rotary_factor", default=0.25
    )
    rotary = int(head_dim * share)
    if not 0 < rotary <= head_dim:
        raise InvalidConfig(
            f"{fields.path}.partial_rotary_factor must leave some of a head to rotate",
            f"{fields.path}.partial_rotary_factor",
        )
    return GatedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=GemmaRMSNorm(head_dim, "q_norm"),
        key_norm=GemmaRMSNorm(head_dim, "k_norm"),
        rotary_dim=rotary,
        gated=True,
    )


def speculative(fields: Fields, attending: Block, hidden: int) -> tuple[Tensor, ...]:
    """The layers that predict a token more: a full-attention layer, a matrix over two hidden states, three norms."""
    count = fields.optional("mtp_num_hidden_layers", "num_nextn_predict_layers") or 0
    made = [
        *attending.tensors(),
        Tensor("fc.weight", (hidden, 2 * hidden), "other", "other", True),
        *(
            Tensor(f"{name}.weight", (hidden,), "norm", "norm")
            for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
        ),
    ]
    return tuple(replace(tensor, name=f"mtp.{tensor.name}", count=tensor.count * count) for tensor in made if count)


def mixed(fields: Fields, name: str | None, feed_forwards: list[Any], fused: bool) -> Model:
    """A text model of delta-rule and full-attention layers, with the feed-forward layer that each of them has."""
    attention = gated_attention(fields)
    hidden, count = attention.hidden, len(feed_forwards)
    mixers = {"full_attention": attention, "linear_attention": delta_net(fields, hidden, fused)}
    norms = (GemmaRMSNorm(hidden, "input_layernorm"), GemmaRMSNorm(hidden, "post_attention_layernorm"))
    made: dict[tuple[str, int], Block] = {}
    layers: list[Block] = []
    for kind, feed_forward in zip(alternating(fields, count), feed_forwards, strict=True):
        key = (kind, id(feed_forward))
        if key not in made:
            made[key] = PreNormBlock(mixers[kind], feed_forward, norms)
        layers.append(made[key])
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    model = finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(layers),
        Head(vocabulary, hidden, tied, GemmaRMSNorm(hidden, "norm")),
        rotary=attention.rotary_dim or 0,
    )
    last = PreNormBlock(attention, feed_forwards[-1], norms)
    return replace(model, speculative=speculative(fields, last, hidden))


def text_of(fields: Fields) -> Fields:
    """The text part of a configuration with towers, completed by what stands beside it; else the whole."""
    if not fields.has("text_config"):
        return fields
    text = fields.inner("text_config")
    beside = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")
    return with_default(text, **{name: fields.values[name] for name in beside if name in fields.values})


def completed(fields: Fields, model: Model, towers: tuple[Tower, ...]) -> Model:
    """A text model as a part of the whole that its configuration describes."""
    quantization = fields.values.get("quantization_config")
    return replace(
        model,
        model_type=str(fields.values.get("model_type", "")),
        config=fields.values,
        towers=towers,
        quantization=quantization if isinstance(quantization, dict) else model.quantization,
    )


def qwen3_tower(fields: Fields) -> Tower:
    """The vision tower of Qwen 3.5: patches, learned positions, blocks with biases, and a merger of 2 × 2 patches."""
    width, wide = fields.size("hidden_size", default=1152), fields.size("intermediate_size", default=4304)
    patch, time = fields.size("patch_size", default=16), fields.size("temporal_patch_size", default=2)
    merged = width * fields.size("spatial_merge_size", default=2) ** 2
    out = fields.size("out_hidden_size", default=3584)
    block = (
        *layer_norm("blocks.norm1", width),
        *layer_norm("blocks.norm2", width),
        *matrix("blocks.attn.qkv", 3 * width, width),
        *matrix("blocks.attn.proj", width, width),
        *matrix("blocks.mlp.linear_fc1", wide, width),
        *matrix("blocks.mlp.linear_fc2", width, wide),
    )
    channels = fields.size("in_channels", default=3)
    return Tower(
        "vision",
        (
            table("patch_embed.proj.weight", width, channels, time, patch, patch),
            table("patch_embed.proj.bias", width),
            table("pos_embed.weight", fields.size("num_position_embeddings", default=2304), width),
            *times(block, fields.size("depth", default=27)),
            *layer_norm("merger.norm", width),
            *matrix("merger.linear_fc1", merged, merged),
            *matrix("merger.linear_fc2", out, merged),
        ),
    )


def qwen3_5(fields: Fields, name: str | None) -> Model:
    """Qwen 3.5, dense: three delta-rule layers to one full-attention layer, and a vision tower.

    Positions have three parts, so each sequence has rotary tables of its own.
    """
    text = text_of(fields)
    count = text.size("num_hidden_layers", default=32)
    feed_forward = GatedFeedForward(
        text.size("hidden_size", default=4096),
        text.size("intermediate_size", default=12288),
        text.text("hidden_act", default="silu"),
    )
    model = replace(mixed(text, name, [feed_forward] * count, fused=False), batched_tables=True)
    towers = (qwen3_tower(fields.inner("vision_config")),) if text is not fields else ()
    return completed(fields, model, towers)


def shared_mixture(
    fields: Fields, hidden: int, experts: int, chosen: int, targets: StackTargets | None = None
) -> MixtureOfExperts:
    """Routed experts beside a shared one behind a sigmoid gate. `targets`: how adapters name router and stacks."""
    count = fields.size("num_experts", default=experts, most=100_000)
    used = fields.size("num_experts_per_tok", default=chosen, most=count)
    activation = fields.text("hidden_act", default="silu")
    router = SoftmaxRouter(hidden, count, used, normal=fields.flag("norm_topk_prob", default=True))
    stacks = Experts(
        hidden, fields.size("moe_intermediate_size", default=512), count, used, activation, targets=targets
    )
    shared = GatedFeedForward(
        hidden,
        fields.size("shared_expert_intermediate_size", default=512),
        activation,
        prefix="mlp.shared_expert",
        component="shared_experts",
        suffix="_shexp",
        adapted=targets is None,
    )
    return MixtureOfExperts(router, stacks, shared, True, "mlp.shared_expert_gate")


def qwen3_next(fields: Fields, name: str | None) -> Model:
    """Qwen 3 Next: delta-rule layers with two joint matrices, experts in every layer."""
    count = fields.size("num_hidden_layers", default=48)
    hidden = fields.size("hidden_size", default=2048)
    mixture = shared_mixture(fields, hidden, experts=512, chosen=10, targets=QWEN_TARGETS)
    activation = fields.text("hidden_act", default="silu")
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=5632), activation, adapted=False)
    sparse = sparse_layers(fields, count)
    return mixed(fields, name, [mixture if each else dense for each in sparse], fused=True)


def qwen3_5_moe(fields: Fields, name: str | None) -> Model:
    """Qwen 3.5 with experts in every layer, and a vision tower."""
    text = text_of(fields)
    mixture = shared_mixture(text, text.size("hidden_size", default=2048), experts=256, chosen=8)
    count = text.size("num_hidden_layers", default=40)
    model = replace(mixed(text, name, [mixture] * count, fused=False), batched_tables=True)
    towers = (qwen3_tower(fields.inner("vision_config")),) if text is not fields else ()
    return completed(fields, model, towers)


def minimax(fields: Fields, name: str | None) -> Model:
    """MiniMax 01 and M1: lightning attention, softmax attention in every eighth layer, experts in all.

    The published configurations list the kind of each layer as 0 or 1 in `attn_type_list`.
    """
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, kv_default=8)
    count = fields.size("num_hidden_layers", default=32)
    kinds = _minimax_kinds(fields, count)
    activation = fields.text("hidden_act", default="silu")
    experts = fields.size("num_local_experts", default=8, most=100_000)
    chosen = fields.size("num_experts_per_tok", default=2, most=experts)
    router = SoftmaxRouter(hidden, experts, chosen, normal=True, keep_float=True)
    wide = fields.size("intermediate_size", default=14336)
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=MIXTRAL_TARGETS)
    mixture = MixtureOfExperts(router, stacks)
    lightning = LightningAttention(
        hidden, heads, head_dim, RMSNorm(heads * head_dim, "norm"), fields.size("block_size", default=256), activation
    )
    mixers = {
        "full_attention": Attention(hidden, heads, kv_heads, head_dim, window=fields.optional("sliding_window")),
        "linear_attention": lightning,
    }
    norms = (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "post_attention_layernorm"))
    made = {kind: WeighedBlock(mixers[kind], mixture, norms) for kind in set(kinds)}
    vocabulary = fields.size("vocab_size", default=32000)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(made[kind] for kind in kinds),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), RMSNorm(hidden, "norm")),
        rotary=head_dim,
    )


def _minimax_kinds(fields: Fields, count: int) -> list[str]:
    listed = fields.items("attn_type_list", length=count)
    if listed is not None:
        path = f"{fields.path}.attn_type_list"
        if not set(map(str, listed)) <= {"0", "1"}:
            raise InvalidConfig(f"{path} must hold 0 (linear) and 1 (softmax) alone", path)
        return ["full_attention" if each else "linear_attention" for each in listed]
    if fields.has("layer_types"):
        return alternating(fields, count)
    return ["full_attention" if (index + 1) % 2 else "linear_attention" for index in range(count)]


def kimi_linear(fields: Fields, name: str | None) -> Model:
    """Kimi Linear: delta attention, latent attention without positions in every fourth layer, experts in most."""
    hidden = fields.size("hidden_size", default=2304)
    count = fields.size("num_hidden_layers", default=27)
    linear = fields.inner("linear_attn_config")
    delta = KimiDeltaAttention(
        hidden,
        linear.size("num_heads", default=fields.size("linear_num_heads", default=32)),
        linear.size("head_dim", default=fields.size("linear_head_dim", default=128)),
        linear.size("short_conv_kernel_size", default=fields.size("linear_conv_kernel_dim", default=4)),
    )
    latent = PlainLatentAttention(
        hidden,
        fields.size("num_attention_heads", default=32),
        fields.optional("q_lora_rank") or 0,
        fields.size("kv_lora_rank", default=512),
        fields.size("qk_nope_head_dim", default=128),
        fields.size("qk_rope_head_dim", default=64),
        fields.size("v_head_dim", default=128),
        fields.flag("attention_bias"),
    )
    mixers = {"full_attention": latent, "linear_attention": delta}
    experts = fields.size("num_experts", "num_local_experts", default=256, most=100_000)
    chosen = fields.size("num_experts_per_token", "num_experts_per_tok", default=8, most=experts)
    activation = fields.text("hidden_act", default="silu")
    router = SigmoidRouter(
        hidden,
        experts,
        chosen,
        normal=fields.flag("moe_renormalize", "norm_topk_prob", default=True),
        groups=fields.size("num_expert_group", "n_group", default=1),
        best=fields.size("topk_group", default=1),
    )
    wide = fields.size("moe_intermediate_size", default=1024)
    shared = GatedFeedForward(
        hidden,
        wide * fields.size("num_shared_experts", "n_shared_experts", default=1),
        activation,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    feed_forwards = {
        "sparse": MixtureOfExperts(router, Experts(hidden, wide, experts, chosen, activation), shared),
        "dense": GatedFeedForward(hidden, fields.size("intermediate_size", default=9216), activation),
    }
    norms = (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "post_attention_layernorm"))
    keys = list(zip(_kimi_kinds(fields, linear, count), _kimi_feeds(fields, count), strict=True))
    made = {key: PreNormBlock(mixers[key[0]], feed_forwards[key[1]], norms) for key in set(keys)}
    vocabulary = fields.size("vocab_size", default=163_840)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(made[key] for key in keys),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), RMSNorm(hidden, "norm")),
        tables=(),
        max_context=fields.optional("model_max_length", "max_position_embeddings"),
    )


def _kimi_kinds(fields: Fields, linear: Fields, count: int) -> list[str]:
    """`layer_types`; or the published lists of layers, which begin with 1; or full attention every fourth."""
    if fields.has("layer_types"):
        return alternating(fields, count)
    full = linear.items("full_attn_layers")
    if full is not None:
        return ["full_attention" if index + 1 in full else "linear_attention" for index in range(count)]
    return ["full_attention" if index and index % 4 == 0 else "linear_attention" for index in range(count)]


def _kimi_feeds(fields: Fields, count: int) -> list[str]:
    kinds = fields.items("mlp_layer_types", length=count)
    if kinds is None:
        first = fields.size("first_k_dense_replace", default=1, least=0)
        return ["dense" if index < first else "sparse" for index in range(count)]
    for kind in kinds:
        if kind not in ("dense", "sparse"):
            path = f"{fields.path}.mlp_layer_types"
            raise InvalidConfig(f"{path} has {kind!r:.40}; known: dense, sparse", path)
    return kinds


READERS: dict[str, Reader] = {
    "qwen3_5": qwen3_5,
    "qwen3_5_text": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_5_moe_text": qwen3_5_moe,
    "qwen3_next": qwen3_next,
    "minimax": minimax,
    "minimax_m1": minimax,
    "minimax_text_01": minimax,
    "kimi_linear": kimi_linear,
}
