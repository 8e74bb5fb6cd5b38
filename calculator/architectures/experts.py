"""Families with mixtures of experts and ordinary attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.experts import (
    MIXTRAL_TARGETS,
    QWEN_TARGETS,
    ClampedExperts,
    Experts,
    LateSoftmaxRouter,
    MixtureOfExperts,
    SoftmaxRouter,
)
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import LateRMSNorm, Norm, RMSNorm
from ..layers.sinks import SinkAttention
from ..model import Model
from .fields import Fields
from .llama import attention_sizes, finish
from .table import Reader

Key = TypeVar("Key")


def stack(keys: Sequence[Key], make: Callable[[Key], Block]) -> tuple[Block, ...]:
    """One layer a key; equal keys share one object."""
    made: dict[Key, Block] = {}
    for key in keys:
        if key not in made:
            made[key] = make(key)
    return tuple(made[key] for key in keys)


def two_norms(hidden: int) -> tuple[Norm, ...]:
    """The norms before attention and before the feed-forward layer."""
    return RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "post_attention_layernorm")


def ends(fields: Fields, hidden: int, tied_default: bool = False, norm: Norm | None = None) -> tuple[Embedding, Head]:
    """An embedding, and a norm (RMSNorm if none is named) with a head."""
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings", default=tied_default)
    return Embedding(vocabulary, hidden), Head(vocabulary, hidden, tied, norm or RMSNorm(hidden, "norm"))


def expert_counts(fields: Fields, *names: str, chosen: int, experts: int) -> tuple[int, int]:
    """Experts of a layer and how many of them a token uses; the defaults of the family's configuration class."""
    count = fields.size(*names, default=experts, most=100_000)
    used = fields.size("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", default=chosen, most=count)
    return count, used


def mixtral(fields: Fields, name: str | None) -> Model:
    """Mixtral: every layer has experts, the weights of the chosen stay in float32."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 8)
    window = fields.optional("sliding_window")
    wide = fields.size("intermediate_size", default=14336)
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_local_experts", "num_experts", chosen=2, experts=8)
    attention = Attention(hidden, heads, kv_heads, head_dim, window=window)
    router = SoftmaxRouter(hidden, experts, chosen, normal=True, keep_float=True)
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=MIXTRAL_TARGETS)
    block = PreNormBlock(attention, MixtureOfExperts(router, stacks), two_norms(hidden))
    embedding, head = ends(fields, hidden)
    layers = (block,) * fields.size("num_hidden_layers")
    return finish(fields, name, embedding, layers, head, rotary=head_dim)


def sparse_layers(fields: Fields, count: int) -> list[bool]:
    """Qwen's layers with experts: every `decoder_sparse_step`-th, but those of `mlp_only_layers`."""
    step = fields.size("decoder_sparse_step", default=1)
    dense = set(fields.items("mlp_only_layers") or [])
    return [index not in dense and (index + 1) % step == 0 for index in range(count)]


def qwen2_moe(fields: Fields, name: str | None) -> Model:
    """Qwen 1.5 and 2 with experts: biases on q, k and v, a shared expert behind a sigmoid gate."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 16)
    count = fields.size("num_hidden_layers")
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_experts", chosen=4, experts=60)
    bias = fields.flag("qkv_bias", default=True)
    router = SoftmaxRouter(hidden, experts, chosen, normal=fields.flag("norm_topk_prob"))
    stacks = Experts(hidden, fields.size("moe_intermediate_size", default=1408), experts, chosen, activation)
    shared_wide = fields.size("shared_expert_intermediate_size", default=5632)
    shared = GatedFeedForward(
        hidden, shared_wide, activation, prefix="mlp.shared_expert", component="shared_experts", suffix="_shexp"
    )
    mixture = MixtureOfExperts(router, stacks, shared, True, "mlp.shared_expert_gate")
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=5632), activation)
    window = fields.optional("sliding_window") if fields.flag("use_sliding_window") else None
    kinds = fields.items("layer_types", length=count)
    if kinds is None:
        most = fields.size("max_window_layers", default=28, least=0)
        kinds = ["sliding_attention" if (i + 1) % 2 and i < most else "full_attention" for i in range(count)]
    reach = [window if kind == "sliding_attention" else None for kind in kinds]

    def make(key: tuple[bool, int | None]) -> Block:
        attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, window=key[1])
        return PreNormBlock(attention, mixture if key[0] else dense, two_norms(hidden))

    layers = stack(list(zip(sparse_layers(fields, count), reach, strict=True)), make)
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, rotary=head_dim, idle_mask=not any(reach))


def qwen3_moe(fields: Fields, name: str | None) -> Model:
    """Qwen 3 with experts: norms over each head of q and k, no shared expert."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 4)
    count = fields.size("num_hidden_layers")
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_experts", "num_local_experts", chosen=8, experts=128)
    bias = fields.flag("attention_bias")
    window = fields.optional("sliding_window") if fields.flag("use_sliding_window") else None
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=RMSNorm(head_dim, "q_norm"),
        key_norm=RMSNorm(head_dim, "k_norm"),
        window=window,
    )
    router = SoftmaxRouter(hidden, experts, chosen, normal=fields.flag("norm_topk_prob"))
    wide = fields.size("moe_intermediate_size", default=768)
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS)
    mixture = MixtureOfExperts(router, stacks)
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=6144), activation, adapted=False)
    layers = stack(
        sparse_layers(fields, count),
        lambda sparse: PreNormBlock(attention, mixture if sparse else dense, two_norms(hidden)),
    )
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, rotary=head_dim)


def olmoe(fields: Fields, name: str | None) -> Model:
    """OLMoE: norms over the full width of q and k."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_experts", "num_local_experts", chosen=8, experts=64)
    bias = fields.flag("attention_bias")
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=RMSNorm(heads * head_dim, "q_norm"),
        key_norm=RMSNorm(kv_heads * head_dim, "k_norm"),
        norm_full=True,
    )
    router = SoftmaxRouter(hidden, experts, chosen, normal=fields.flag("norm_topk_prob"))
    wide = fields.size("intermediate_size", default=2048)
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS)
    block = PreNormBlock(attention, MixtureOfExperts(router, stacks), two_norms(hidden))
    embedding, head = ends(fields, hidden)
    layers = (block,) * fields.size("num_hidden_layers")
    return finish(fields, name, embedding, layers, head, rotary=head_dim)


def gpt_oss(fields: Fields, name: str | None) -> Model:
    """GPT-OSS: sinks, windows in every second layer, biases everywhere, clamped experts."""
    count = fields.size("num_hidden_layers")
    if not fields.has("head_dim"):
        fields = Fields({**fields.values, "head_dim": 64}, fields.path)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 8)
    experts, chosen = expert_counts(fields, "num_local_experts", "num_experts", chosen=4, experts=128)
    bias = fields.flag("attention_bias", default=True)
    router = LateSoftmaxRouter(hidden, experts, chosen, "mlp.router", bias=True)
    wide = fields.size("intermediate_size", default=2880)
    stacks = ClampedExperts(hidden, wide, experts, chosen, bias=True, transposed=True)
    mixture = MixtureOfExperts(router, stacks)
    norms = (LateRMSNorm(hidden, "input_layernorm"), LateRMSNorm(hidden, "post_attention_layernorm"))
    window = fields.optional("sliding_window")
    kinds = fields.items("layer_types", length=count)
    if kinds is None:
        kinds = ["full_attention" if index % 2 else "sliding_attention" for index in range(count)]

    def make(reach: int | None) -> Block:
        attention = SinkAttention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias, window=reach)
        return PreNormBlock(attention, mixture, norms)

    layers = stack([window if kind == "sliding_attention" else None for kind in kinds], make)
    embedding, head = ends(fields, hidden, norm=LateRMSNorm(hidden, "norm"))
    return finish(
        fields, name, embedding, layers, head, tables=(("cos", head_dim // 2), ("sin", head_dim // 2)), sdpa=False
    )


READERS: dict[str, Reader] = {
    "mixtral": mixtral,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "olmoe": olmoe,
    "gpt_oss": gpt_oss,
}
