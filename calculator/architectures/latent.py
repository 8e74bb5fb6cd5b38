"""Families with latent attention: DeepSeek and those built on it."""

from __future__ import annotations

from dataclasses import replace

from ..layers.blocks import Block, PreNormBlock
from ..layers.experts import (
    QWEN_TARGETS,
    Experts,
    GroupedSoftmaxRouter,
    MixtureOfExperts,
    Router,
    SigmoidRouter,
)
from ..layers.feed_forward import GatedFeedForward
from ..layers.latent import LatentAttention
from ..model import Model
from ..tensors import Tensor
from .experts import ends, expert_counts, stack, two_norms
from .fields import Fields
from .llama import finish
from .table import Reader


def latent_attention(fields: Fields, pairs: str, query_rank: int) -> LatentAttention:
    """The attention of a configuration with DeepSeek's names."""
    stated = "q_lora_rank" in fields.values  # null says that queries come from one matrix
    return LatentAttention(
        fields.size("hidden_size"),
        fields.size("num_attention_heads"),
        fields.optional("q_lora_rank") or 0 if stated else query_rank,
        fields.size("kv_lora_rank", default=512),
        fields.size("qk_nope_head_dim", default=128),
        fields.size("qk_rope_head_dim", default=64),
        fields.size("v_head_dim", default=128),
        bias=fields.flag("attention_bias"),
        pairs=pairs,
    )


def deepseek_mixture(fields: Fields, router: Router, shared: int, activation: str, wide: int) -> MixtureOfExperts:
    """A router, its experts, and `shared` of them that every token passes, as one feed-forward layer."""
    always = GatedFeedForward(
        router.hidden,
        shared * wide,
        activation,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
        adapted=False,
    )
    stacks = Experts(router.hidden, wide, router.experts, router.chosen, activation, targets=QWEN_TARGETS)
    return MixtureOfExperts(router, stacks, always if shared else None)


def deepseek(
    fields: Fields,
    name: str | None,
    attention: LatentAttention,
    router: Router,
    *,
    tables: tuple[tuple[str, int], ...],
    shared: int,
    wide: int,
    first: int,
    dense_wide: int,
    float_tables: bool = False,
) -> Model:
    """`first` layers with a dense feed-forward layer, then experts; prediction layers beside them."""
    count = fields.size("num_hidden_layers")
    activation = fields.text("hidden_act", default="silu")
    mixture = deepseek_mixture(
        fields, router, fields.size("n_shared_experts", default=shared, least=0), activation, wide
    )
    first = fields.size("first_k_dense_replace", default=first, least=0)
    dense_wide = fields.size("intermediate_size", default=dense_wide)
    dense = GatedFeedForward(attention.hidden, dense_wide, activation, fields.flag("mlp_bias"), adapted=False)
    layers = stack(
        [index >= first for index in range(count)],
        lambda sparse: PreNormBlock(attention, mixture if sparse else dense, two_norms(attention.hidden)),
    )
    embedding, head = ends(fields, attention.hidden)
    sparse = PreNormBlock(attention, mixture, two_norms(attention.hidden))
    return finish(
        fields,
        name,
        embedding,
        layers,
        head,
        tables=tables,
        float_tables=float_tables,
        speculative=prediction_layers(fields, sparse, attention.hidden, head.vocabulary, copies=True),
    )


def prediction_layers(fields: Fields, layer: Block, hidden: int, vocabulary: int, copies: bool) -> tuple[Tensor, ...]:
    """Layers of multi-token prediction as checkpoints have them: a decoder layer, a matrix that joins hidden states and
    embedding, three norms, and in some families copies of the embedding and of the head. [arXiv:2412.19437]"""
    count = fields.size("num_nextn_predict_layers", "num_mtp_layers", default=0, least=0, most=64)
    one = [
        *layer.tensors(),
        Tensor("eh_proj.weight", (hidden, 2 * hidden), "other", "other", True),
        *(Tensor(f"{name}.weight", (hidden,), "norm", "norm") for name in ("enorm", "hnorm", "shared_head.norm")),
    ]
    if copies:
        one.append(Tensor("embed_tokens.weight", (vocabulary, hidden), "embedding", "embedding"))
        one.append(Tensor("shared_head.head.weight", (vocabulary, hidden), "lm_head", "output", True))
    return tuple(replace(tensor, name=f"mtp.{index}.{tensor.name}") for index in range(count) for tensor in one)


def deepseek_v2(fields: Fields, name: str | None) -> Model:
    """DeepSeek-V2: complex rotary products, softmax routing limited to groups or not."""
    attention = latent_attention(fields, "complex", 1536)
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_experts", chosen=6, experts=64)
    limited = fields.text("topk_method", default="greedy") == "group_limited_greedy"
    groups = fields.size("n_group", default=1) if limited else 0
    best = fields.size("topk_group", default=1) if limited else 0
    router = GroupedSoftmaxRouter(attention.hidden, experts, chosen, groups=groups, best=best)
    return deepseek(
        fields,
        name,
        attention,
        router,
        tables=(("frequencies", attention.rotary),),
        shared=2,
        wide=fields.size("moe_intermediate_size", default=1407),
        first=0,
        dense_wide=11008,
        float_tables=True,
    )


def deepseek_v3(fields: Fields, name: str | None) -> Model:
    """DeepSeek-V3 and R1, Kimi K2, Moonlight: sigmoid routing with a correction, in groups."""
    pairs = "interleaved" if fields.flag("rope_interleave", default=True) else "halves"
    attention = latent_attention(fields, pairs, 1536)
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_local_experts", chosen=8, experts=256)
    router = SigmoidRouter(
        attention.hidden,
        experts,
        chosen,
        normal=fields.flag("norm_topk_prob", default=True),
        groups=fields.size("n_group", default=8),
        best=fields.size("topk_group", default=4),
    )
    return deepseek(
        fields,
        name,
        attention,
        router,
        tables=(("cos", attention.rotary), ("sin", attention.rotary)),
        shared=1,
        wide=fields.size("moe_intermediate_size", default=2048),
        first=3,
        dense_wide=18432,
    )


READERS: dict[str, Reader] = {
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "kimi_k2": deepseek_v3,
}
