"""Later families with mixtures of experts and ordinary attention, as transformers 5.23.0 has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import InvalidConfig
from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, ParallelBlock, PostNormBlock, PreNormBlock, SandwichBlock
from ..layers.experts import (
    QWEN_TARGETS,
    Experts,
    MixtureOfExperts,
    Router,
    SigmoidRouter,
    SoftmaxRouter,
)
from ..layers.feed_forward import GatedFeedForward
from ..layers.gated import OutputGatedAttention, SinkScaledAttention, SoftplusGatedAttention, WideSinkAttention
from ..layers.later import ShortConvolution
from ..layers.mixtures import FloatLateRouter
from ..layers.norms import LateRMSNorm, Norm, RMSNorm
from ..layers.partial import CenteredNorm, RotatedInFloat
from ..layers.routers import (
    AveragedMixture,
    ChosenSigmoidRouter,
    ChosenSoftmaxRouter,
    QuotientRouter,
    RoutedFirstMixture,
    WideSumMixture,
)
from ..layers.variants import ScaledBlock
from ..model import Model
from .experts import deepseek_mixture, ends, expert_counts, prediction_layers, sparse_layers, stack, two_norms
from .fields import Fields, with_defaults
from .llama import attention_sizes, finish
from .table import Reader

WINDOWED = ("full_attention", "sliding_attention")


def kinds(fields: Fields, key: str, count: int, allowed: Sequence[str], default: Callable[[int], str]) -> list[str]:
    """The kind of each layer: a list of allowed names, or what the configuration class fills in."""
    found = fields.items(key, length=count)
    if found is None:
        return [default(index) for index in range(count)]
    for each in found:
        if each not in allowed:
            where = f"{fields.path}.{key}"
            raise InvalidConfig(f"{where} has {each!r:.40}; known: {', '.join(allowed)}", where)
    return found


def reaches(fields: Fields, count: int, default: Callable[[int], bool]) -> list[bool]:
    """Which layers look back a window only: by `layer_types`, else by the family's pattern."""
    made = kinds(fields, "layer_types", count, WINDOWED, lambda index: WINDOWED[default(index)])
    return [kind == "sliding_attention" for kind in made]


def routed(fields: Fields, count: int, dense: int) -> list[bool]:
    """Which layers have experts: by `mlp_layer_types`, else all after so many dense ones."""
    made = kinds(
        fields, "mlp_layer_types", count, ("dense", "sparse"), lambda index: "sparse" if index >= dense else "dense"
    )
    return [kind == "sparse" for kind in made]


def deepseek_router(fields: Fields, hidden: int, *names: str, chosen: int, experts: int, normal: bool) -> SigmoidRouter:
    """DeepSeek-V3's router under a family's names."""
    count, used = expert_counts(fields, *names, chosen=chosen, experts=experts)
    groups = fields.size("n_group", default=1)
    fields.divides(count, groups, (names[0], "n_group"))
    best = fields.size("topk_group", default=1, most=groups)
    return SigmoidRouter(
        hidden, count, used, normal=fields.flag("norm_topk_prob", default=normal), groups=groups, best=best
    )


def dots1(fields: Fields, name: str | None) -> Model:
    """dots.llm1: Qwen 3's attention, DeepSeek-V3's experts in all layers but the first."""
    fields = with_defaults(
        fields,
        vocab_size=152064,
        hidden_size=4608,
        intermediate_size=10944,
        moe_intermediate_size=1408,
        num_hidden_layers=62,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=2048,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    activation = fields.text("hidden_act", default="silu")
    for needed in ("n_routed_experts", "num_experts_per_tok"):
        fields.size(needed, *(("num_local_experts",) if needed == "n_routed_experts" else ()))
    router = deepseek_router(fields, hidden, "n_routed_experts", "num_local_experts", chosen=1, experts=1, normal=False)
    shared = fields.size("n_shared_experts")
    mixture = deepseek_mixture(router, shared, activation, fields.size("moe_intermediate_size"))
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, adapted=False)
    window = fields.optional("sliding_window")
    begin = fields.size("max_window_layers", default=62, least=0)
    first = fields.size("first_k_dense_replace", default=0, least=0)

    def make(key: tuple[bool, bool]) -> Block:
        attention = Attention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=RMSNorm(head_dim, "q_norm"),
            key_norm=RMSNorm(head_dim, "k_norm"),
            window=window if key[0] else None,
            dropout=fields.number("attention_dropout", default=0.0),
        )
        return PreNormBlock(attention, mixture if key[1] else dense, two_norms(hidden))

    windows = reaches(fields, count, lambda index: window is not None and index >= begin)
    layers = stack([(near, index >= first) for index, near in enumerate(windows)], make)
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, rotary=head_dim)


def reaching_attention(fields: Fields, window: int | None, near: bool) -> Attention:
    """Attention with norms over each head. A `near` layer sees a window; where there are such layers, the others see
    everything and are not rotated."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    return Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        query_norm=RMSNorm(head_dim, "q_norm"),
        key_norm=RMSNorm(head_dim, "k_norm"),
        turned_norms=True,
        rotary_dim=None if window is None or near else 0,
        window=window if near else None,
        dropout=fields.number("attention_dropout", default=0.0),
    )


def exaone_moe(fields: Fields, name: str | None) -> Model:
    """K-EXAONE: EXAONE 4's attention before norms, DeepSeek-V3's experts."""
    fields = with_defaults(
        fields,
        vocab_size=102400,
        hidden_size=4096,
        intermediate_size=16384,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=2048,
        moe_intermediate_size=1024,
    )
    hidden, _, _, head_dim = attention_sizes(fields)
    count, activation = fields.size("num_hidden_layers"), fields.text("hidden_act", default="silu")
    router = deepseek_router(fields, hidden, "num_experts", "num_local_experts", chosen=8, experts=64, normal=True)
    shared = fields.size("num_shared_experts", default=1)
    mixture = deepseek_mixture(router, shared, activation, fields.size("moe_intermediate_size"))
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, adapted=False)
    window = fields.optional("sliding_window")
    period = 0 if window is None else fields.size("sliding_window_pattern", default=4)
    sparse = routed(fields, count, fields.size("first_k_dense_replace", default=1, least=0))

    def make(key: tuple[bool, bool]) -> Block:
        near, expert = key
        attention = reaching_attention(fields, window, near)
        return PreNormBlock(attention, mixture if expert else dense, two_norms(hidden))

    windows = reaches(fields, count, lambda index: bool(period) and (index + 1) % period != 0)
    layers = stack(list(zip(windows, sparse, strict=True)), make)
    embedding, head = ends(fields, hidden)
    return finish(
        fields,
        name,
        embedding,
        layers,
        head,
        rotary=head_dim,
        speculative=prediction_layers(fields, make((False, False)), hidden, head.vocabulary, copies=False),
    )


def flex_olmo(fields: Fields, name: str | None) -> Model:
    """FlexOlmo: OLMo 2 with a mixture of experts in each layer."""
    fields = with_defaults(
        fields,
        vocab_size=100352,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=LateRMSNorm(heads * head_dim, "q_norm"),
        key_norm=LateRMSNorm(kv_heads * head_dim, "k_norm"),
        norm_full=True,
        turned_type=True,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    experts, chosen = expert_counts(fields, "num_experts", "num_local_experts", chosen=5, experts=7)
    router = SoftmaxRouter(hidden, experts, chosen, normal=fields.flag("norm_topk_prob"))
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("intermediate_size")
    mixture = MixtureOfExperts(router, Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS))
    norms = (LateRMSNorm(hidden, "post_attention_layernorm"), LateRMSNorm(hidden, "post_feedforward_layernorm"))
    block = PostNormBlock(attention, mixture, norms)
    embedding, head = ends(fields, hidden, norm=LateRMSNorm(hidden, "norm"))
    layers = (block,) * fields.size("num_hidden_layers")
    return finish(fields, name, embedding, layers, head, rotary=head_dim, float_tables=True)


# ---------------------------------------------------------------------- Granite

GRANITE_MOE = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def granite_mixture(fields: Fields, hidden: int) -> MixtureOfExperts:
    """Granite's experts, and a shared one where `shared_intermediate_size` says how wide."""
    experts, chosen = expert_counts(fields, "num_local_experts", chosen=2, experts=8)
    activation = fields.text("hidden_act", default="silu")
    router = FloatLateRouter(hidden, experts, chosen, "block_sparse_moe.router")
    wide = fields.size("intermediate_size")
    stacks = Experts(hidden, wide, experts, chosen, activation, "block_sparse_moe.experts")
    shared = fields.size("shared_intermediate_size", default=0, least=0)
    always = GatedFeedForward(
        hidden,
        shared,
        activation,
        fused="input_linear",
        down="output_linear",
        prefix="shared_mlp",
        component="shared_experts",
        suffix="_shexp",
    )
    return MixtureOfExperts(router, stacks, always if shared else None)


def granitemoeshared(fields: Fields, name: str | None) -> Model:
    """Granite 3 with experts and a shared one beside them."""
    fields = with_defaults(fields, **GRANITE_MOE)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    block = ScaledBlock(attention, granite_mixture(fields, hidden), two_norms(hidden))
    embedding, head = ends(fields, hidden)
    return finish(
        fields,
        name,
        replace(embedding, scaled=True, scaled_after=True),
        (block,) * fields.size("num_hidden_layers"),
        replace(head, scaled=True),
        rotary=head_dim,
    )


def swash(fields: Fields, name: str | None, feed_forward: GatedFeedForward | MixtureOfExperts, tied: bool) -> Model:
    """Granite Swash: a learned sink for each head, windows in three layers of four, rotary tables by `layer_rope_theta`
    (0: none)."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    window = fields.optional("sliding_window")
    near = reaches(fields, count, lambda index: index % 4 != 0)
    bases = fields.items("layer_rope_theta", length=count) or [1.0] * count
    for each in bases:
        if isinstance(each, bool) or not isinstance(each, (int, float)):
            raise InvalidConfig(f"{fields.path}.layer_rope_theta must hold numbers", f"{fields.path}.layer_rope_theta")
    order = sorted({base for base in bases if base})
    tables = {base: (f"cos_{index}", f"sin_{index}") for index, base in enumerate(order)}

    def make(key: tuple[bool, float]) -> Block:
        attention = SinkScaledAttention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            rotary_dim=None if key[1] else 0,
            window=window if key[0] else None,
            dropout=fields.number("attention_dropout", default=0.0),
            tables=tables.get(key[1], ("cos", "sin")),
        )
        return ScaledBlock(attention, feed_forward, two_norms(hidden))

    layers = stack(list(zip(near, bases, strict=True)), make)
    embedding, head = ends(fields, hidden, tied_default=tied)
    return finish(
        fields,
        name,
        replace(embedding, scaled=True, scaled_after=True),
        layers,
        replace(head, scaled=True),
        tables=tuple((each, head_dim) for pair in tables.values() for each in pair),
        sdpa=False,
    )


def granite_swa(fields: Fields, name: str | None) -> Model:
    """Granite Swash without experts."""
    fields = with_defaults(
        fields,
        vocab_size=100352,
        hidden_size=2560,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=20,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    hidden, activation = fields.size("hidden_size"), fields.text("hidden_act", default="silu")
    wide = fields.size("intermediate_size")
    return swash(fields, name, GatedFeedForward(hidden, wide, activation, fields.flag("mlp_bias")), tied=True)


def granitemoe_swa(fields: Fields, name: str | None) -> Model:
    """Granite Swash with experts."""
    fields = with_defaults(fields, **GRANITE_MOE)
    return swash(fields, name, granite_mixture(fields, fields.size("hidden_size")), tied=False)


# ---------------------------------------------------------------------- sigmoid routing


def shared_expert(
    hidden: int, wide: int, activation: str, bias: bool = False, adapted: bool = True
) -> GatedFeedForward:
    """Experts that every token passes, as one layer."""
    return GatedFeedForward(
        hidden,
        wide,
        activation,
        bias,
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
        adapted=adapted,
    )


def hy_v3(fields: Fields, name: str | None) -> Model:
    """Hy3: norms over each head of q and k, sigmoid routing, routed and shared experts added in float32."""
    fields = with_defaults(
        fields,
        vocab_size=120832,
        hidden_size=4096,
        intermediate_size=13312,
        moe_intermediate_size=1536,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    activation, inner = fields.text("hidden_act", default="silu"), fields.flag("mlp_bias")
    experts, chosen = expert_counts(fields, "num_experts", "num_local_experts", chosen=8, experts=192)
    wide = fields.size("moe_intermediate_size")
    shared = fields.size("num_shared_experts", default=1)
    kind = WideSumMixture if fields.flag("enable_moe_fp32_combine", default=True) else MixtureOfExperts
    mixture = kind(
        QuotientRouter(hidden, experts, chosen, wide=True, raised=False),
        Experts(hidden, wide, experts, chosen, activation),
        shared_expert(hidden, shared * wide, activation, inner),
    )
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, inner)
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=RMSNorm(head_dim, "q_norm"),
        key_norm=RMSNorm(head_dim, "k_norm"),
        turned_norms=True,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    layers = stack(
        routed(fields, count, fields.size("first_k_dense_replace", default=1, least=0)),
        lambda sparse: PreNormBlock(attention, mixture if sparse else dense, two_norms(hidden)),
    )
    embedding, head = ends(fields, hidden)
    return finish(
        fields,
        name,
        embedding,
        layers,
        head,
        rotary=head_dim,
        speculative=prediction_layers(
            fields, PreNormBlock(attention, mixture, two_norms(hidden)), hidden, head.vocabulary, copies=False
        ),
    )


def lfm2_moe(fields: Fields, name: str | None) -> Model:
    """LFM 2 with experts: short convolutions, attention in some layers, sigmoid routing."""
    fields = with_defaults(
        fields,
        vocab_size=65536,
        hidden_size=2048,
        intermediate_size=7168,
        moe_intermediate_size=1792,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=128000,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    experts, chosen = expert_counts(fields, "num_experts", chosen=4, experts=32)
    router = QuotientRouter(
        hidden,
        experts,
        chosen,
        "feed_forward.gate",
        raised=False,
        corrected=fields.flag("use_expert_bias", default=True),
        normal=fields.flag("norm_topk_prob", default=True),
    )
    wide = fields.size("moe_intermediate_size")
    mixture = MixtureOfExperts(router, Experts(hidden, wide, experts, chosen, name="feed_forward.experts"))
    dense = GatedFeedForward(
        hidden, fields.size("intermediate_size"), gate="w1", up="w3", down="w2", prefix="feed_forward"
    )
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        names=Projections(output="out_proj"),
        query_norm=RMSNorm(head_dim, "q_layernorm"),
        key_norm=RMSNorm(head_dim, "k_layernorm"),
    )
    convolution = ShortConvolution(hidden, fields.size("conv_L_cache", default=3), fields.flag("conv_bias"))
    norms: tuple[Norm, ...] = (RMSNorm(hidden, "operator_norm"), RMSNorm(hidden, "ffn_norm"))
    if not fields.has("layer_types"):
        raise InvalidConfig(f"{fields.path} lacks layer_types", f"{fields.path}.layer_types")
    mixers = kinds(fields, "layer_types", count, ("conv", "full_attention"), lambda index: "conv")
    first = fields.size("num_dense_layers", default=2, least=0)

    def make(key: tuple[str, bool]) -> Block:
        return PreNormBlock(convolution if key[0] == "conv" else attention, mixture if key[1] else dense, norms)

    layers = stack([(kind, index >= first) for index, kind in enumerate(mixers)], make)
    tied = fields.flag("tie_embedding", "tie_word_embeddings", default=True)
    embedding, head = ends(fields, hidden, norm=RMSNorm(hidden, "embedding_norm"))
    return finish(fields, name, embedding, layers, replace(head, tied=tied), rotary=head_dim)


def afmoe(fields: Fields, name: str | None) -> Model:
    """AFM with experts (Trinity): a gated output, positions where there is a window alone, four norms."""
    fields = with_defaults(
        fields,
        vocab_size=200192,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=1408,
        num_hidden_layers=32,
        num_attention_heads=16,
        head_dim=128,
        max_position_embeddings=16384,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_experts", chosen=6, experts=64)
    wide, shared = fields.size("moe_intermediate_size"), fields.size("num_shared_experts", default=2, least=0)
    mixture = (RoutedFirstMixture if shared else MixtureOfExperts)(
        QuotientRouter(hidden, experts, chosen, "mlp.router", linear="gate", counted="mlp.expert_bias"),
        Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS),
        shared_expert(hidden, shared * wide, activation, adapted=False) if shared else None,
    )
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, adapted=False)
    window = fields.optional("sliding_window")
    period = fields.size("global_attn_every_n_layers", default=4)
    first = fields.size("num_dense_layers", default=1, least=0)
    names = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")
    norms = tuple(LateRMSNorm(hidden, each) for each in names)

    def make(key: tuple[bool, bool]) -> Block:
        attention = OutputGatedAttention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=LateRMSNorm(head_dim, "q_norm"),
            key_norm=LateRMSNorm(head_dim, "k_norm"),
            adapted=False,
            rotary_dim=None if key[0] else 0,
            window=window if key[0] else None,
            dropout=fields.number("attention_dropout", default=0.0),
        )
        return SandwichBlock(attention, mixture if key[1] else dense, norms)

    near = reaches(fields, count, lambda index: (index + 1) % period != 0)
    layers = stack([(each, index >= first) for index, each in enumerate(near)], make)
    embedding, head = ends(fields, hidden, norm=LateRMSNorm(hidden, "norm"))
    if fields.flag("mup_enabled"):
        embedding = replace(embedding, scaled=True, scaled_after=True, both_held=True)
    return finish(fields, name, embedding, layers, head, rotary=head_dim)


def solar_open(fields: Fields, name: str | None) -> Model:
    """Solar Open: Llama's attention, DeepSeek-V3's experts in every layer."""
    fields = with_defaults(
        fields,
        vocab_size=196608,
        hidden_size=4096,
        moe_intermediate_size=1280,
        num_hidden_layers=48,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    router = deepseek_router(
        fields, hidden, "n_routed_experts", "num_local_experts", chosen=8, experts=128, normal=True
    )
    activation, shared = fields.text("hidden_act", default="silu"), fields.size("n_shared_experts", default=1)
    mixture = deepseek_mixture(router, shared, activation, fields.size("moe_intermediate_size"))
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=fields.flag("attention_bias"),
        dropout=fields.number("attention_dropout", default=0.0),
    )
    block = PreNormBlock(attention, mixture, two_norms(hidden))
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, (block,) * fields.size("num_hidden_layers"), head, rotary=head_dim)


# ---------------------------------------------------------------------- tables by kind of layer


def rotated_share(fields: Fields, kind: str, head_dim: int, default: float) -> int:
    """Dimensions that a kind of layer rotates, by `partial_rotary_factor` inside its `rope_parameters`."""
    inner = fields.inner("rope_parameters")
    factor = inner.inner(kind).number("partial_rotary_factor", default=1.0 if inner.has(kind) else default)
    if not 0 < factor <= 1:
        where = f"{fields.path}.rope_parameters.{kind}.partial_rotary_factor"
        raise InvalidConfig(f"{where} must be above 0 and at most 1", where)
    return int(head_dim * factor)


def local_tables(near: Sequence[bool], far_width: int, near_width: int) -> tuple[tuple[str, int], ...]:
    """Rotary tables of the kinds of layers that there are."""
    made: tuple[tuple[str, int], ...] = ()
    if not all(near):
        made += (("cos", far_width), ("sin", far_width))
    if any(near):
        made += (("cos_local", near_width), ("sin_local", near_width))
    return made


NEAR, FAR = ("cos_local", "sin_local"), ("cos", "sin")


def mellum(fields: Fields, name: str | None) -> Model:
    """Mellum 2: Qwen 3 with experts, windows in some layers, rotary tables of their own for these."""
    fields = with_defaults(
        fields,
        vocab_size=98304,
        hidden_size=2304,
        intermediate_size=7168,
        moe_intermediate_size=896,
        num_hidden_layers=28,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    activation = fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_experts", "num_local_experts", chosen=8, experts=64)
    router = SoftmaxRouter(hidden, experts, chosen, normal=fields.flag("norm_topk_prob", default=True))
    wide, window = fields.size("moe_intermediate_size"), fields.optional("sliding_window")
    mixture = MixtureOfExperts(router, Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS))
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, adapted=False)

    def make(key: tuple[bool, bool]) -> Block:
        attention = Attention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=RMSNorm(head_dim, "q_norm"),
            key_norm=RMSNorm(head_dim, "k_norm"),
            window=window if key[0] else None,
            tables=NEAR if key[0] else FAR,
            dropout=fields.number("attention_dropout", default=0.0),
        )
        return PreNormBlock(attention, mixture if key[1] else dense, two_norms(hidden))

    near = reaches(fields, count, lambda index: False)
    layers = stack(list(zip(near, routed(fields, count, 0), strict=True)), make)
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, tables=local_tables(near, head_dim, head_dim))


def laguna(fields: Fields, name: str | None) -> Model:
    """Laguna: heads by layer, a softplus gate on what they give, sigmoid routing with a shared expert."""
    fields = with_defaults(
        fields,
        vocab_size=100352,
        hidden_size=2048,
        intermediate_size=8192,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
        num_hidden_layers=40,
        num_attention_heads=48,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("moe_intermediate_size")
    experts, chosen = expert_counts(fields, "num_experts", chosen=8, experts=256)
    capped = fields.number("moe_router_logit_softcapping", default=0.0) > 0
    router = QuotientRouter(
        hidden,
        experts,
        chosen,
        counted="mlp.gate.e_score_correction_bias",
        capped=capped,
        shifted=False,
        scaled=False,
        returned=True,
    )
    mixture = MixtureOfExperts(
        router,
        Experts(hidden, wide, experts, chosen, activation),
        shared_expert(hidden, fields.size("shared_expert_intermediate_size"), activation),
        True,
        scaled=True,
    )
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    window, gating = fields.optional("sliding_window"), fields.values.get("gating", True)
    if gating is not None and not isinstance(gating, (bool, str)):
        fields.refuse("gating", "must be true, false or a string")
    per_layer = fields.items("num_attention_heads_per_layer", length=count) or [heads] * count
    near = reaches(fields, count, lambda index: False)
    shares = {
        True: rotated_share(fields, "sliding_attention", head_dim, 1.0) if any(near) else head_dim,
        False: rotated_share(fields, "full_attention", head_dim, 0.5) if not all(near) else head_dim,
    }

    def make(key: tuple[int, bool, bool]) -> Block:
        inner = Fields({"num_attention_heads": key[0]}, f"{fields.path}.num_attention_heads_per_layer")
        each = inner.size("num_attention_heads")
        inner.divides(each, kv_heads, ("num_attention_heads", "num_key_value_heads"))
        attention = SoftplusGatedAttention(
            hidden,
            each,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=RMSNorm(head_dim, "q_norm"),
            key_norm=RMSNorm(head_dim, "k_norm"),
            rotary_dim=shares[key[1]],
            window=window if key[1] else None,
            tables=NEAR if key[1] else FAR,
            dropout=fields.number("attention_dropout", default=0.0),
            per_head=gating is True or gating == "per-head",
        )
        return PreNormBlock(attention, mixture if key[2] else dense, two_norms(hidden))

    layers = stack(list(zip(per_layer, near, routed(fields, count, 1), strict=True)), make)
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, tables=local_tables(near, shares[False], shares[True]))


def kolibri1(fields: Fields, name: str | None) -> Model:
    """Kolibri: EXAONE's attention between norms, many small experts chosen before their sigmoid."""
    fields = with_defaults(
        fields,
        vocab_size=128000,
        hidden_size=2560,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
        num_hidden_layers=50,
        num_attention_heads=48,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=262144,
    )
    hidden, _, _, head_dim = attention_sizes(fields)
    count, activation = fields.size("num_hidden_layers"), fields.text("hidden_act", default="silu")
    experts, chosen = expert_counts(fields, "num_experts", "num_local_experts", chosen=6, experts=384)
    normal = fields.flag("norm_topk_prob")
    router = QuotientRouter(
        hidden, experts, chosen, wide=True, raised=False, late=True, shifted=False, scaled=False, normal=normal
    )
    mixture = MixtureOfExperts(
        router,
        Experts(hidden, fields.size("moe_intermediate_size"), experts, chosen, activation),
        shared_expert(hidden, fields.size("shared_expert_intermediate_size"), activation),
    )
    window = fields.optional("sliding_window")
    names = ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")

    def make(near: bool) -> Block:
        attention = reaching_attention(fields, window, near)
        return SandwichBlock(attention, mixture, tuple(RMSNorm(hidden, each) for each in names))

    layers = stack(reaches(fields, count, lambda index: (index + 1) % 5 != 0), make)
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, rotary=head_dim)


def flint(fields: Fields, name: str | None) -> Model:
    """Flint: sinks and scores in float32, positions where there is a window alone, sigmoid routing in float32."""
    fields = with_defaults(
        fields,
        vocab_size=150144,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=1024,
        num_hidden_layers=49,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=262144,
        mlp_only_layers=[0, 1],
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("moe_intermediate_size")
    experts, chosen = expert_counts(fields, "num_experts", "num_local_experts", chosen=6, experts=256)
    router = QuotientRouter(
        hidden,
        experts,
        chosen,
        untouched=True,
        corrected=False,
        shifted=False,
        scaled=False,
        normal=fields.flag("norm_topk_prob", default=True),
    )
    shared = fields.size("shared_expert_intermediate_size")
    always = replace(shared_expert(hidden, shared, activation), prefix="mlp.shared_expert")
    mixture = MixtureOfExperts(router, Experts(hidden, wide, experts, chosen, activation), always)
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    norms = (LateRMSNorm(hidden, "input_layernorm"), LateRMSNorm(hidden, "post_attention_layernorm"))
    window = fields.optional("sliding_window")

    def make(key: tuple[bool, bool]) -> Block:
        reach = window if key[0] else None
        attention = WideSinkAttention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=LateRMSNorm(head_dim, "q_norm"),
            key_norm=LateRMSNorm(head_dim, "k_norm"),
            rotary_dim=0 if reach is None else None,
            window=reach,
            dropout=fields.number("attention_dropout", default=0.0),
        )
        return PreNormBlock(attention, mixture if key[1] else dense, norms)

    near = reaches(fields, count, lambda index: not (index < 2 or index % 4 == 1 or index == count - 1))
    layers = stack(list(zip(near, sparse_layers(fields, count), strict=True)), make)
    embedding, head = ends(fields, hidden, norm=LateRMSNorm(hidden, "norm"))
    return finish(fields, name, embedding, layers, head, rotary=head_dim, sdpa=False)


# ---------------------------------------------------------------------- Cohere


def cohere2_moe(fields: Fields, name: str | None) -> Model:
    """Command A with experts: attention and mixture side by side, positions where there is a window or in dense
    layers."""
    fields = with_defaults(
        fields,
        vocab_size=256000,
        hidden_size=8192,
        intermediate_size=22528,
        num_hidden_layers=40,
        num_attention_heads=64,
        head_dim=128,
        max_position_embeddings=8192,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("intermediate_size")
    experts, chosen = expert_counts(fields, "num_experts", chosen=2, experts=8)
    normal = fields.flag("norm_topk_prob", default=True)
    selection = fields.text("expert_selection_fn", default="softmax")
    if selection not in ("softmax", "sigmoid"):
        fields.refuse("expert_selection_fn", "must be softmax or sigmoid")
    router: Router = (
        ChosenSoftmaxRouter(hidden, experts, chosen)
        if selection == "softmax"
        else ChosenSigmoidRouter(hidden, experts, chosen, normal=normal)
    )
    stacks = Experts(hidden, wide, experts, chosen, activation, targets=QWEN_TARGETS)
    shared = fields.size("num_shared_experts", default=0, least=0)
    summed = fields.text("shared_expert_combination_strategy", default="average")
    if summed not in ("average", "sum"):
        fields.refuse("shared_expert_combination_strategy", "must be average or sum")
    always = shared_expert(hidden, shared * wide, activation, adapted=False) if shared else None
    mixture = (AveragedMixture if shared and summed == "average" else MixtureOfExperts)(router, stacks, always)
    first = fields.size("first_k_dense_replace", default=0, least=0)
    sparse = routed(fields, count, first)
    dense = None
    if not all(sparse):
        dense = GatedFeedForward(hidden, fields.size("prefix_dense_intermediate_size"), activation, adapted=False)
    early = fields.size("prefix_dense_sliding_window_pattern", default=1)
    period = fields.size("sliding_window_pattern", default=4)
    window = fields.optional("sliding_window")
    plain = fields.has("rms_norm_eps")

    def norm(named: str) -> Norm:
        return RMSNorm(hidden, named) if plain else CenteredNorm(hidden, named)

    def make(key: tuple[bool, bool]) -> Block:
        near, expert = key
        reach = window if near else None
        turned = reach is not None or (not expert and early == 1)
        kind = RotatedInFloat if turned else Attention
        attention = kind(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            rotary_dim=None if turned else 0,
            window=reach,
            dropout=fields.number("attention_dropout", default=0.0),
        )
        return ParallelBlock(attention, mixture if expert else dense, (norm("input_layernorm"),), residual_first=True)

    near = reaches(
        fields, count, lambda index: (index + 1) % early != 0 if index < first else (index - first + 1) % period != 0
    )
    layers = stack(list(zip(near, sparse, strict=True)), make)
    embedding, head = ends(fields, hidden, tied_default=True, norm=norm("norm"))
    return finish(fields, name, embedding, layers, replace(head, scaled=True), rotary=head_dim)


READERS: dict[str, Reader] = {
    "afmoe": afmoe,
    "cohere2_moe": cohere2_moe,
    "dots1": dots1,
    "exaone_moe": exaone_moe,
    "flex_olmo": flex_olmo,
    "flint": flint,
    "granite_swa": granite_swa,
    "granitemoe_swa": granitemoe_swa,
    "granitemoeshared": granitemoeshared,
    "hy_v3": hy_v3,
    "kolibri1": kolibri1,
    "laguna": laguna,
    "lfm2_moe": lfm2_moe,
    "mellum": mellum,
    "solar_open": solar_open,
}
