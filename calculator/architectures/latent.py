"""Families with latent attention: DeepSeek and those built on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InvalidConfig
from ..layers.blocks import Block, PreNormBlock
from ..layers.experts import GroupedSoftmaxRouter, MixtureOfExperts, Router, SigmoidRouter
from ..layers.feed_forward import GatedFeedForward
from ..layers.latent import IndexedLatentAttention, LatentAttention
from ..layers.norms import LateRMSNorm
from ..layers.routers import NormedMixture
from ..layers.streams import (
    CompressedAttention,
    FirstClampedExperts,
    FirstClampedFeedForward,
    RootRouter,
    StreamBlock,
    StreamEmbedding,
    StreamHead,
    Streams,
)
from ..layers.variants import ScaledBlock
from ..model import Model
from .experts import deepseek_mixture, ends, expert_counts, partial_rotary, prediction_layers, stack, two_norms
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader


def latent_sizes(fields: Fields, query_rank: int, plain: int, value: int) -> dict[str, Any]:
    """The sizes of a configuration with DeepSeek's names, with its family's defaults."""
    stated = "q_lora_rank" in fields.values  # null says that queries come from one matrix
    return {
        "hidden": fields.size("hidden_size"),
        "heads": fields.size("num_attention_heads"),
        "query_rank": fields.optional("q_lora_rank") or 0 if stated else query_rank,
        "latent": fields.size("kv_lora_rank", default=512),
        "plain": fields.size("qk_nope_head_dim", default=plain),
        "rotary": fields.size("qk_rope_head_dim", default=64),
        "value": fields.size("v_head_dim", default=value),
        "bias": fields.flag("attention_bias"),
    }


def pairing(fields: Fields) -> str:
    """How rotary dimensions are paired."""
    return "interleaved" if fields.flag("rope_interleave", default=True) else "halves"


def sparse_layers(fields: Fields, count: int, first: int) -> list[bool]:
    """Layers with experts: by `mlp_layer_types`, or all from `first_k_dense_replace` on."""
    kinds = fields.items("mlp_layer_types", length=count)
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    first = fields.size("first_k_dense_replace", default=first, least=0)
    return [index >= first for index in range(count)]


def deepseek(
    fields: Fields,
    name: str | None,
    attentions: Sequence[LatentAttention],
    router: Router,
    *,
    wide: int,
    dense_wide: int,
    first: int,
    shared: int = 1,
    tables: tuple[tuple[str, int], ...] | None = None,
    copies: bool = True,
    adapted_stacks: bool = True,
    normed: bool = False,
    **more: Any,
) -> Model:
    """Dense layers, then layers with experts; prediction layers beside them.

    attentions   of each layer, equal ones one object
    adapted_stacks   whether peft maps its old names to the stacks
    copies       whether prediction layers come with copies of the embedding and of the head
    normed       whether a norm runs over what routed and shared experts give together (A.X K1)
    """
    hidden, rotary = attentions[0].hidden, attentions[0].rotary
    activation = fields.text("hidden_act", default="silu")
    shared = fields.size("n_shared_experts", default=shared, least=0)
    mixture = deepseek_mixture(
        router, shared, activation, fields.size("moe_intermediate_size", default=wide), adapted_stacks
    )
    if normed:
        mixture = NormedMixture(mixture.router, mixture.experts, mixture.shared)
    dense_wide = fields.size("intermediate_size", default=dense_wide)
    dense = GatedFeedForward(hidden, dense_wide, activation, fields.flag("mlp_bias"), adapted=not adapted_stacks)

    def make(key: tuple[LatentAttention, bool]) -> Block:
        return PreNormBlock(key[0], mixture if key[1] else dense, two_norms(hidden))

    layers = stack(list(zip(attentions, sparse_layers(fields, len(attentions), first), strict=True)), make)
    embedding, head = ends(fields, hidden)
    last = make((next((each for each in attentions if getattr(each, "indexer", True)), attentions[-1]), True))
    return finish(
        fields,
        name,
        embedding,
        layers,
        head,
        tables=tables or (("cos", rotary), ("sin", rotary)),
        speculative=prediction_layers(fields, last, hidden, head.vocabulary, copies),
        **more,
    )


def sigmoid_router(fields: Fields, hidden: int, chosen: int, experts: int, groups: int, best: int) -> SigmoidRouter:
    """The router of a configuration with DeepSeek-V3's names."""
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_local_experts", chosen=chosen, experts=experts)
    groups = fields.size("n_group", default=groups)
    fields.divides(experts, groups, ("n_routed_experts", "n_group"))
    return SigmoidRouter(
        hidden,
        experts,
        chosen,
        normal=fields.flag("norm_topk_prob", default=True),
        groups=groups,
        best=fields.size("topk_group", default=best, most=groups),
    )


def deepseek_v2(fields: Fields, name: str | None) -> Model:
    """DeepSeek-V2: complex rotary products, softmax routing limited to groups or not."""
    attention = LatentAttention(**latent_sizes(fields, 1536, 128, 128), pairs="complex")
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_experts", chosen=6, experts=64)
    limited = fields.text("topk_method", default="greedy") == "group_limited_greedy"
    groups = fields.size("n_group", default=1) if limited else 0
    best = fields.size("topk_group", default=1, most=groups) if limited else 0
    return deepseek(
        fields,
        name,
        [attention] * fields.size("num_hidden_layers"),
        GroupedSoftmaxRouter(attention.hidden, experts, chosen, groups=groups, best=best),
        tables=(("frequencies", attention.rotary),),
        shared=2,
        wide=1407,
        first=0,
        dense_wide=11008,
        float_tables=True,
    )


def deepseek_v3(fields: Fields, name: str | None, adapted_stacks: bool = True) -> Model:
    """DeepSeek-V3 and R1, Kimi K2, Moonlight: sigmoid routing with a correction, in groups.

    adapted_stacks: whether peft maps its old names to the stacks."""
    attention = LatentAttention(**latent_sizes(fields, 1536, 128, 128), pairs=pairing(fields))
    router = sigmoid_router(fields, attention.hidden, 8, 256, 8, 4)
    layers = [attention] * fields.size("num_hidden_layers")
    return deepseek(fields, name, layers, router, wide=2048, first=3, dense_wide=18432, adapted_stacks=adapted_stacks)


def axk1(fields: Fields, name: str | None) -> Model:
    """A.X K1: DeepSeek-V3 with a norm after each mixture."""
    fields = with_defaults(
        fields,
        vocab_size=163840,
        hidden_size=7168,
        num_hidden_layers=61,
        num_attention_heads=64,
        max_position_embeddings=32768,
    )
    attention = LatentAttention(**latent_sizes(fields, 1536, 128, 128), pairs=pairing(fields))
    if not attention.query_rank:
        fields.refuse("q_lora_rank", "must be a whole number")
    router = sigmoid_router(fields, attention.hidden, 8, 192, 8, 4)
    layers = [attention] * fields.size("num_hidden_layers")
    return deepseek(
        fields, name, layers, router, wide=2048, first=1, dense_wide=18432, adapted_stacks=False, normed=True
    )


def youtu(fields: Fields, name: str | None) -> Model:
    """Youtu-LLM: latent attention without experts, tied."""
    fields = with_defaults(
        fields,
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=32,
        num_attention_heads=16,
        max_position_embeddings=131072,
    )
    attention = LatentAttention(**latent_sizes(fields, 1536, 128, 128), pairs=pairing(fields))
    hidden, activation = attention.hidden, fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    block = PreNormBlock(attention, feed_forward, two_norms(hidden))
    embedding, head = ends(fields, hidden, tied_default=True)
    layers = (block,) * fields.size("num_hidden_layers")
    return finish(fields, name, embedding, layers, head, rotary=attention.rotary)


def glm4_moe_lite(fields: Fields, name: str | None) -> Model:
    """GLM 4.7 Flash: DeepSeek-V3's plan with values as wide as keys."""
    attention = LatentAttention(**latent_sizes(fields, 768, 192, 256), pairs=pairing(fields))
    router = sigmoid_router(fields, attention.hidden, 4, 64, 1, 1)
    layers = [attention] * fields.size("num_hidden_layers")
    return deepseek(fields, name, layers, router, wide=1536, first=1, dense_wide=10240)


def indexed(fields: Fields, sizes: dict[str, Any], heads: int, pairs: str) -> IndexedLatentAttention:
    """Latent attention with an indexer."""
    if not sizes["query_rank"]:
        raise InvalidConfig(f"{fields.path}.q_lora_rank must be a whole number", f"{fields.path}.q_lora_rank")
    return IndexedLatentAttention(
        **sizes,
        index_heads=fields.size("index_n_heads", default=heads),
        index_dim=fields.size("index_head_dim", default=128, least=sizes["rotary"]),
        most=fields.size("index_topk", default=2048),
        index_pairs=pairs,
    )


def deepseek_v32(fields: Fields, name: str | None) -> Model:
    """DeepSeek-V3.2: DeepSeek-V3 with an indexer in every layer."""
    attention = indexed(fields, latent_sizes(fields, 1536, 128, 128), 64, "halves")
    router = sigmoid_router(fields, attention.hidden, 8, 256, 8, 4)
    layers = [attention] * fields.size("num_hidden_layers")
    return deepseek(fields, name, layers, router, wide=2048, first=3, dense_wide=18432, masked=True)


def indexer_kinds(fields: Fields, count: int) -> list[bool]:
    """Layers with an indexer of their own: by `indexer_types`, a pattern of F and S, or every n-th from an offset."""
    kinds = fields.items("indexer_types", length=count)
    if kinds is not None:
        return [kind == "full" for kind in kinds]
    pattern = fields.values.get("index_topk_pattern")
    if isinstance(pattern, str):
        if len(pattern) != count or set(pattern) - {"F", "S"}:
            where = f"{fields.path}.index_topk_pattern"
            raise InvalidConfig(f"{where} must be {count} letters F or S", where)
        return [letter == "F" for letter in pattern]
    every = fields.size("index_topk_freq", default=1, least=0) or 1
    offset = fields.size("index_skip_topk_offset", default=2, least=0)
    return [max(index - offset + 1, 0) % every == 0 for index in range(count)]


def glm_moe_dsa(fields: Fields, name: str | None) -> Model:
    """GLM 5: an indexer in some layers, whose choice those after it share."""
    count = fields.size("num_hidden_layers")
    own = indexed(fields, latent_sizes(fields, 2048, 192, 256), 32, "interleaved")
    own = replace(own, hands_on=True)
    kinds = indexer_kinds(fields, count)
    if not kinds[0]:
        where = f"{fields.path}.indexer_types"
        raise InvalidConfig(f"{where}: the first layer must have an indexer of its own", where)
    borrowed = replace(own, indexer=False)
    router = sigmoid_router(fields, own.hidden, 8, 256, 1, 1)
    layers = [own if full else borrowed for full in kinds]
    return deepseek(fields, name, layers, router, wide=2048, first=3, dense_wide=12288, copies=False, masked=True)


def minicpm3(fields: Fields, name: str | None) -> Model:
    """MiniCPM 3: latent attention with halves turned, scaled embeddings, residuals and last hidden states; tied."""
    sizes = latent_sizes(fields, 768, 64, 0)
    hidden, heads = sizes["hidden"], sizes["heads"]
    sizes["latent"] = fields.size("kv_lora_rank", default=256)
    sizes["rotary"] = fields.size("qk_rope_head_dim", default=32)
    sizes["value"] = sizes["value"] or fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    attention = LatentAttention(**sizes, pairs="halves")
    activation = fields.text("hidden_act", default="silu")
    wide = fields.size("intermediate_size", default=6400)
    dense = GatedFeedForward(hidden, wide, activation, fields.flag("mlp_bias"))
    block = ScaledBlock(attention, dense, two_norms(hidden))
    embedding, head = ends(fields, hidden, tied_default=True)
    return finish(
        fields,
        name,
        replace(embedding, scaled=True),
        (block,) * fields.size("num_hidden_layers"),
        replace(head, shrunk=True),
        rotary=attention.rotary,
    )


# ---------------------------------------------------------------------- DeepSeek-V4


def kinds_of_attention(fields: Fields, count: int) -> list[tuple[int, bool]]:
    """Of each layer, the tokens of a compressed entry (0: a window alone) and whether an indexer picks entries."""
    rates = fields.inner("compress_rates")
    picked = rates.size("compressed_sparse_attention", default=fields.size("compress_rate_csa", default=4))
    all_of = rates.size("heavily_compressed_attention", default=fields.size("compress_rate_hca", default=128))
    made = {
        "sliding_attention": (0, False),
        "compressed_sparse_attention": (picked, True),
        "heavily_compressed_attention": (all_of, False),
    }
    by_ratio = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    where = "layer_types"
    listed = fields.items(where)
    if listed is None and fields.has("compress_ratios"):
        where = "compress_ratios"
        listed = [by_ratio.get(each, each) if isinstance(each, int) else each for each in fields.items(where) or []]
    if listed is None:
        odd = ["heavily_compressed_attention", "compressed_sparse_attention"]
        listed = [odd[0]] * min(count, 2) + [odd[index % 2] for index in range(max(count - 2, 0))]
    if len(listed) < count or any(each not in made for each in listed[:count]):
        path = f"{fields.path}.{where}"
        raise InvalidConfig(f"{path} must name the attention of each of {count} layers", path)
    return [made[each] for each in listed[:count]]


def deepseek_v4(fields: Fields, name: str | None) -> Model:
    """DeepSeek-V4: streams, one key for all heads, compressed entries behind a window, experts read from a table
    first."""
    hidden = fields.size("hidden_size", default=4096)
    count = fields.size("num_hidden_layers", default=43)
    heads = fields.size("num_attention_heads", default=64)
    head_dim = fields.size("head_dim", default=512)
    rotary = fields.size("qk_rope_head_dim", default=0, least=0, most=head_dim) or partial_rotary(
        fields, head_dim, 0.125
    )
    groups = fields.size("o_groups", default=8)
    fields.divides(heads, groups, ("num_attention_heads", "o_groups"))
    streams, steps = (
        fields.size("hc_mult", default=4, most=64),
        fields.size("hc_sinkhorn_iters", default=20, most=1_000),
    )
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_local_experts", chosen=6, experts=256)
    wide = fields.size("moe_intermediate_size", default=2048)
    activation = fields.text("hidden_act", default="silu")
    shared = fields.size("n_shared_experts", default=1, least=0)
    always = FirstClampedFeedForward(
        hidden,
        max(shared, 1) * wide,
        activation,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    stacks = FirstClampedExperts(hidden, wide, experts, chosen, activation)
    kinds = fields.items("mlp_layer_types", length=count)
    hashed = fields.size("num_hash_layers", default=3, least=0)
    looked_up = [index < hashed for index in range(count)] if kinds is None else [kind == "hash_moe" for kind in kinds]
    norms = (LateRMSNorm(hidden, "input_layernorm"), LateRMSNorm(hidden, "post_attention_layernorm"))
    around = (
        Streams(hidden, streams, steps, "attn_hc", "other"),
        Streams(hidden, streams, steps, "ffn_hc", "mlp_dense"),
    )

    def make(key: tuple[tuple[int, bool], bool]) -> Block:
        (ratio, indexed), table = key
        attention = CompressedAttention(
            hidden,
            heads,
            head_dim,
            rotary,
            fields.size("q_lora_rank", default=1024),
            fields.size("sliding_window", default=128),
            ratio,
            indexed,
            fields.size("index_n_heads", default=64),
            fields.size("index_head_dim", default=128, least=rotary),
            fields.size("index_topk", default=512),
            groups,
            fields.size("o_lora_rank", default=1024),
        )
        mixture = MixtureOfExperts(
            RootRouter(hidden, experts, chosen, looked_up=table), stacks, always if shared else None
        )
        return StreamBlock(attention, mixture, norms, around)

    keys = list(zip(kinds_of_attention(fields, count), looked_up, strict=True))
    vocabulary = fields.size("vocab_size", default=129280)
    tied = fields.flag("tie_word_embeddings")
    head = StreamHead(vocabulary, hidden, tied, LateRMSNorm(hidden, "norm"), streams=streams)
    last = make(((0, False), False))
    return finish(
        fields,
        name,
        StreamEmbedding(vocabulary, hidden, projected=streams * hidden),
        stack(keys, make),
        head,
        speculative=prediction_layers(fields, last, hidden, vocabulary, False, extra=head.streams_tensors()),
        tables=tuple((f"{part}_{kind}", rotary // 2) for kind in ("main", "compress") for part in ("cos", "sin")),
        sdpa=False,
    )


READERS: dict[str, Reader] = {
    "axk1": axk1,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "deepseek_v32": deepseek_v32,
    "deepseek_v4": deepseek_v4,
    "deepseek_ref": deepseek_v4,
    "kimi_k2": deepseek_v3,
    "glm4_moe_lite": glm4_moe_lite,
    "glm_moe_dsa": glm_moe_dsa,
    "minicpm3": minicpm3,
    "youtu": youtu,
}
