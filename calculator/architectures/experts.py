"""Families with mixtures of experts and ordinary attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ..errors import InvalidConfig
from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.experts import (
    MIXTRAL_TARGETS,
    QWEN_TARGETS,
    ClampedExperts,
    CorrectedSoftmaxRouter,
    Experts,
    LateSoftmaxRouter,
    MixerRouter,
    MixtureOfExperts,
    NarrowSoftmaxRouter,
    Router,
    SigmoidRouter,
    SoftmaxRouter,
    WideSoftmaxRouter,
)
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import LateRMSNorm, LayerNorm, Norm, RMSNorm
from ..layers.sinks import ClampedAttention, SinkAttention
from ..layers.variants import RotatedThenNormed, ScaledBlock, WideRotary
from ..model import Model
from ..tensors import Tensor
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


def deepseek_mixture(
    router: Router, shared: int, activation: str, wide: int, adapted_stacks: bool = True
) -> MixtureOfExperts:
    """A router, its experts, and `shared` of them that every token passes, as one feed-forward layer."""
    always = GatedFeedForward(
        router.hidden,
        shared * wide,
        activation,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
        adapted=not adapted_stacks,
    )
    stacks = Experts(
        router.hidden, wide, router.experts, router.chosen, activation, targets=QWEN_TARGETS if adapted_stacks else None
    )
    return MixtureOfExperts(router, stacks, always if shared else None)


PREDICTION_NORMS = ("enorm", "hnorm", "shared_head.norm")


def prediction_layers(
    fields: Fields,
    layer: Block,
    hidden: int,
    vocabulary: int,
    copies: bool,
    norms: tuple[str, ...] = PREDICTION_NORMS,
    extra: tuple[Tensor, ...] = (),
) -> tuple[Tensor, ...]:
    """Layers of multi-token prediction as checkpoints have them: a decoder layer, a matrix that joins hidden states and
    embedding, norms (three in most families), in some families copies of the embedding and of the head, and what else
    a family has. [arXiv:2412.19437]"""
    count = fields.size("num_nextn_predict_layers", "num_mtp_layers", default=0, least=0, most=64)
    one = [
        *layer.tensors(),
        Tensor("eh_proj.weight", (hidden, 2 * hidden), "other", "other", True),
        *(Tensor(f"{name}.weight", (hidden,), "norm", "norm") for name in norms),
        *extra,
    ]
    if copies:
        one.append(Tensor("embed_tokens.weight", (vocabulary, hidden), "embedding", "embedding"))
        one.append(Tensor("shared_head.head.weight", (vocabulary, hidden), "lm_head", "output", True))
    return tuple(replace(tensor, name=f"mtp.{index}.{tensor.name}") for index in range(count) for tensor in one)


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
    dense = fields.items("mlp_only_layers") or []
    if not all(isinstance(each, int) for each in dense):
        fields.refuse("mlp_only_layers", "must hold whole numbers")
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


def qwen3_moe(fields: Fields, name: str | None, adapted_stacks: bool = True) -> Model:
    """Qwen 3 with experts: norms over each head of q and k, no shared expert.

    adapted_stacks: whether peft maps its old names to the stacks."""
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
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS if adapted_stacks else None)
    mixture = MixtureOfExperts(router, stacks)
    dense = GatedFeedForward(
        hidden, fields.size("intermediate_size", default=6144), activation, adapted=not adapted_stacks
    )
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


def phimoe(fields: Fields, name: str | None) -> Model:
    """Phi-3.5-MoE: layer norms, biases in attention and on the head, SparseMixer routing."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 8)
    bias = fields.flag("attention_bias")
    experts, chosen = expert_counts(fields, "num_local_experts", "num_experts", chosen=2, experts=16)
    wide = fields.size("intermediate_size", default=6400)
    window = fields.optional("sliding_window")
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias, window=window)
    stacks = Experts(hidden, wide, experts, chosen, fields.text("hidden_act", default="silu"))
    mixture = MixtureOfExperts(MixerRouter(hidden, experts, chosen, "mlp.router"), stacks)
    norms = (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))
    block = PreNormBlock(attention, mixture, norms)
    embedding, head = ends(fields, hidden, norm=LayerNorm(hidden, "norm"))
    head = replace(head, bias=fields.flag("lm_head_bias"))
    return finish(fields, name, embedding, (block,) * fields.size("num_hidden_layers"), head, rotary=head_dim)


def dbrx(fields: Fields, name: str | None) -> Model:
    """DBRX: fused and clamped q, k and v, layer norms without bias, stacks of gate, up and down apart.

    transformers runs its experts one after the other in Python; what they keep together is what a grouped product
    keeps."""
    inner, feed = fields.inner("attn_config"), fields.inner("ffn_config")
    hidden = fields.size("d_model", "hidden_size", default=2048)
    heads = fields.size("n_heads", "num_attention_heads", default=16)
    head_dim = fields.divides(hidden, heads, ("d_model", "n_heads"))
    kv_heads = inner.size("kv_n_heads", default=1)
    fields.divides(heads, kv_heads, ("n_heads", "attn_config.kv_n_heads"))
    experts = feed.size("moe_num_experts", default=4, most=100_000)
    chosen = feed.size("moe_top_k", default=1, most=experts)
    wide = feed.size("ffn_hidden_size", default=3584)
    activation = feed.inner("ffn_act_fn").text("name", default="silu")
    attention = ClampedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        names=Projections(fused="Wqkv", output="out_proj"),
        prefix="norm_attn_norm.attn",
    )
    router = NarrowSoftmaxRouter(hidden, experts, chosen, "ffn.router", normal=True)
    stacks = Experts(hidden, wide, experts, chosen, activation, "ffn.experts.mlp", names=("w1", "v1", "w2"))
    norms = (
        LayerNorm(hidden, "norm_attn_norm.norm_1", bias=False),
        LayerNorm(hidden, "norm_attn_norm.norm_2", bias=False),
    )
    block = PreNormBlock(attention, MixtureOfExperts(router, stacks), norms)
    vocabulary = fields.size("vocab_size")
    head = Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), LayerNorm(hidden, "norm_f", bias=False))
    layers = (block,) * fields.size("n_layers", "num_hidden_layers", default=24, most=10_000)
    context = fields.size("max_seq_len", "max_position_embeddings", default=2048)
    return finish(
        fields, name, Embedding(vocabulary, hidden, "wte"), layers, head, rotary=head_dim, max_context=context
    )


def granitemoe(fields: Fields, name: str | None) -> Model:
    """Granite 3 with experts: scaled embeddings, residuals and logits."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    experts, chosen = expert_counts(fields, "num_local_experts", chosen=2, experts=8)
    wide = fields.size("intermediate_size", default=11008)
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    router = LateSoftmaxRouter(hidden, experts, chosen, "block_sparse_moe.router", wide=True)
    activation = fields.text("hidden_act", default="silu")
    stacks = Experts(hidden, wide, experts, chosen, activation, "block_sparse_moe.experts")
    block = ScaledBlock(attention, MixtureOfExperts(router, stacks), two_norms(hidden))
    embedding, head = ends(fields, hidden)
    return finish(
        fields,
        name,
        replace(embedding, scaled=True, scaled_after=True),
        (block,) * fields.size("num_hidden_layers"),
        replace(head, scaled=True),
        rotary=head_dim,
    )


def ernie4_5_moe(fields: Fields, name: str | None) -> Model:
    """ERNIE 4.5 with experts: rotated in float32, first layers dense, shared experts beside the routed."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 4)
    count = fields.size("num_hidden_layers")
    bias = fields.flag("use_bias")
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "moe_num_experts", "num_experts", chosen=6, experts=64)
    wide = fields.size("moe_intermediate_size", default=1536)
    attention = WideRotary(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    shared = fields.size("moe_num_shared_experts", default=2, least=0)
    always = GatedFeedForward(
        hidden,
        max(shared, 1) * wide,
        activation,
        bias,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
        adapted=False,
    )
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS)
    router = CorrectedSoftmaxRouter(hidden, experts, chosen)
    mixture = MixtureOfExperts(router, stacks, always if shared else None, True)
    dense_wide = fields.size("intermediate_size", default=12288)
    dense = GatedFeedForward(hidden, dense_wide, activation, bias, adapted=False)
    first = fields.size("moe_layer_start_index", default=1, least=0)
    last = fields.size("moe_layer_end_index", default=-1, least=-1)
    last = count - 1 if last == -1 else last
    step = fields.size("moe_layer_interval", default=1)
    layers = stack(
        [(index + 1) % step == 0 and first <= index <= last for index in range(count)],
        lambda sparse: PreNormBlock(attention, mixture if sparse else dense, two_norms(hidden)),
    )
    embedding, head = ends(fields, hidden, tied_default=True)
    last_layer = PreNormBlock(attention, dense, two_norms(hidden))
    joined = ("mtp_emb_norm", "mtp_hidden_norm")
    return finish(
        fields,
        name,
        embedding,
        layers,
        head,
        tables=(("cos_once", head_dim), ("sin_once", head_dim)),
        float_tables=True,
        speculative=prediction_layers(fields, last_layer, hidden, head.vocabulary, False, joined),
    )


def first_of(fields: Fields, *names: str, default: int) -> int:
    """A size that may be given once or as a list with one entry a layer, all equal."""
    found = next((fields.values[name] for name in names if fields.values.get(name) is not None), None)
    if isinstance(found, list):
        if not found or any(each != found[0] for each in found):
            raise InvalidConfig(f"{fields.path}.{names[0]} must be the same in all layers", f"{fields.path}.{names[0]}")
        fields = Fields({**fields.values, names[0]: found[0]}, fields.path)
    return fields.size(*names, default=default, most=100_000)


def hunyuan_v1_moe(fields: Fields, name: str | None) -> Model:
    """Hunyuan with experts: norms over each head after rotation, a shared expert in every layer, a float32 router."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    experts = first_of(fields, "num_experts", default=1)
    chosen = first_of(fields, "moe_topk", "num_experts_per_tok", default=1)
    if chosen > experts:
        raise InvalidConfig(f"{fields.path}.moe_topk must be from 1 to {experts}", f"{fields.path}.moe_topk")
    wide = fields.size("intermediate_size", default=11008)
    activation = fields.text("hidden_act", default="silu")
    attention = RotatedThenNormed(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=RMSNorm(head_dim, "query_layernorm"),
        key_norm=RMSNorm(head_dim, "key_layernorm"),
    )
    shared = GatedFeedForward(
        hidden,
        wide,
        activation,
        prefix="mlp.shared_mlp",
        component="shared_experts",
        suffix="_shexp",
        adapted=False,
    )
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS)
    mixture = MixtureOfExperts(WideSoftmaxRouter(hidden, experts, chosen), stacks, shared, True)
    block = PreNormBlock(attention, mixture, two_norms(hidden))
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, (block,) * fields.size("num_hidden_layers"), head, rotary=head_dim)


def partial_rotary(fields: Fields, head_dim: int, default: float) -> int:
    """Rotated dimensions of a head, by `rotary_dim` or by a factor."""
    if fields.has("rotary_dim"):
        return fields.size("rotary_dim", most=head_dim)
    inner = fields.inner("rope_parameters")
    factor = fields.number("partial_rotary_factor", default=inner.number("partial_rotary_factor", default=default))
    if not 0 < factor <= 1:
        raise InvalidConfig(
            f"{fields.path}.partial_rotary_factor must be above 0 and at most 1", f"{fields.path}.partial_rotary_factor"
        )
    return int(head_dim * factor)


def glm4_moe(fields: Fields, name: str | None) -> Model:
    """GLM 4.5 to 4.7: half of each head rotated, first layers dense, sigmoid routing, a shared expert."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 8)
    count = fields.size("num_hidden_layers")
    bias = fields.flag("attention_bias")
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_local_experts", chosen=8, experts=128)
    wide = fields.size("moe_intermediate_size", default=1408)
    normed = fields.flag("use_qk_norm")
    rotary = partial_rotary(fields, head_dim, 0.5)
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        query_norm=RMSNorm(head_dim, "q_norm") if normed else None,
        key_norm=RMSNorm(head_dim, "k_norm") if normed else None,
        rotary_dim=rotary,
    )
    router = SigmoidRouter(
        hidden,
        experts,
        chosen,
        normal=fields.flag("norm_topk_prob", default=True),
        groups=fields.size("n_group", default=1),
        best=fields.size("topk_group", default=1),
    )
    shared = fields.size("n_shared_experts", default=1, least=0)
    mixture = deepseek_mixture(router, shared, activation, wide)
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=10944), activation, adapted=False)
    first = fields.size("first_k_dense_replace", default=1, least=0)
    sparse = PreNormBlock(attention, mixture, two_norms(hidden))
    layers = stack(
        [index >= first for index in range(count)],
        lambda routed: sparse if routed else PreNormBlock(attention, dense, two_norms(hidden)),
    )
    embedding, head = ends(fields, hidden)
    return finish(
        fields,
        name,
        embedding,
        layers,
        head,
        rotary=rotary,
        speculative=prediction_layers(fields, sparse, hidden, head.vocabulary, copies=True),
    )


def minimax_m2(fields: Fields, name: str | None) -> Model:
    """MiniMax M2: norms over the full width of q and k, part of each head rotated, sigmoid routing."""
    if not fields.has("head_dim"):
        fields = Fields({**fields.values, "head_dim": 128}, fields.path)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, 8)
    experts, chosen = expert_counts(fields, "num_local_experts", "num_experts", chosen=8, experts=256)
    wide = fields.size("intermediate_size", default=1536)
    rotary = partial_rotary(fields, head_dim, 1.0)
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        query_norm=RMSNorm(heads * head_dim, "q_norm"),
        key_norm=RMSNorm(kv_heads * head_dim, "k_norm"),
        norm_full=True,
        rotary_dim=rotary,
    )
    router = SigmoidRouter(hidden, experts, chosen, normal=True, wide=False, scaled=False)
    activation = fields.text("hidden_act", default="silu")
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=MIXTRAL_TARGETS)
    block = PreNormBlock(attention, MixtureOfExperts(router, stacks), two_norms(hidden))
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, (block,) * fields.size("num_hidden_layers"), head, rotary=rotary)


def deepseek(fields: Fields, name: str | None) -> Model:
    """DeepSeek-MoE 16B, whose modeling file stands beside its checkpoint: experts that are modules of their own."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    bias = fields.flag("attention_bias")
    activation = fields.text("hidden_act", default="silu")
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=11008), activation)
    wide = fields.size("moe_intermediate_size", default=1407)
    shared = fields.size("n_shared_experts", default=0, least=0)
    always = GatedFeedForward(
        hidden,
        max(shared, 1) * wide,
        activation,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    experts, chosen = expert_counts(fields, "n_routed_experts", chosen=1, experts=1)
    router = SoftmaxRouter(hidden, experts, chosen, normal=fields.flag("norm_topk_prob"))
    names = ("gate_proj", "up_proj", "down_proj")
    stacks = Experts(hidden, wide, experts, chosen, activation, names=names, modules=True)
    mixture = MixtureOfExperts(router, stacks, always if shared else None)
    first = fields.size("first_k_dense_replace", default=0, least=0)
    step = fields.size("moe_layer_freq", default=1)
    routed = fields.has("n_routed_experts")
    layers = stack(
        [routed and index >= first and index % step == 0 for index in range(count)],
        lambda sparse: PreNormBlock(attention, mixture if sparse else dense, two_norms(hidden)),
    )
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, rotary=head_dim)


READERS: dict[str, Reader] = {
    "mixtral": mixtral,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "olmoe": olmoe,
    "gpt_oss": gpt_oss,
    "phimoe": phimoe,
    "dbrx": dbrx,
    "granitemoe": granitemoe,
    "ernie4_5_moe": ernie4_5_moe,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "glm4_moe": glm4_moe,
    "minimax_m2": minimax_m2,
    "deepseek": deepseek,
}
