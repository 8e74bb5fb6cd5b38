"""Decoders with layers that one family alone has, as transformers 5.23.0 has them.

Linear attention and short convolutions are traced with their fused kernels, as in the families that share them. JetMoE
and LongCat run their experts one after the other in Python; what they keep together is what a grouped product keeps.
"""

from __future__ import annotations

from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, PostNormBlock, PreNormBlock, SandwichBlock
from ..layers.experts import Experts, MixtureOfExperts, SigmoidRouter
from ..layers.feed_forward import GatedFeedForward
from ..layers.later import ShortConvolution
from ..layers.norms import LateRMSNorm, LayerNorm, Norm, RMSNorm
from ..layers.singular import (
    AttentionOfExperts,
    BareBlock,
    BoundedDeltaAttention,
    ClassifierRouter,
    DifferentialAttention,
    FigureGatedAttention,
    GatedIndexedAttention,
    GatedRMSNorm,
    HeadGatedLatentAttention,
    HoldingEmbedding,
    InnerFeedForward,
    JetFeedForward,
    ParallelExperts,
    PassingExperts,
    ScaledLatentAttention,
    ShortcutBlock,
    SplitDeltaNet,
    TransformedHead,
    Twice,
    WidenedRotary,
)
from ..model import Model
from .experts import ends, expert_counts, prediction_layers, stack, two_norms
from .fields import Fields, with_defaults
from .latent import latent_sizes
from .llama import attention_sizes, finish
from .older import plain_sizes
from .sparse import FAR, NEAR, kinds, local_tables, reaches, routed, shared_expert
from .state_space import state_precision
from .table import Reader
from .words import aria_text

MIXED = ("full_attention", "linear_attention")


def olmo_hybrid(fields: Fields, name: str | None) -> Model:
    """OLMo Hybrid: three layers of the gated delta rule to one of OLMo 3's attention, with or without positions."""
    fields = with_defaults(
        fields,
        vocab_size=100352,
        hidden_size=3840,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=30,
        max_position_embeddings=65536,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    key_heads = fields.size("linear_num_key_heads", default=heads)
    value_heads = fields.size("linear_num_value_heads", default=heads)
    fields.divides(value_heads, key_heads, ("linear_num_value_heads", "linear_num_key_heads"))
    key_dim = fields.size("linear_key_head_dim", default=max(int(0.75 * hidden / key_heads), 1))
    delta = SplitDeltaNet(
        hidden,
        key_heads,
        value_heads,
        key_dim,
        fields.size("linear_value_head_dim", default=2 * key_dim),
        fields.size("linear_conv_kernel_dim", default=4),
        precision=state_precision(fields),
        doubled=fields.flag("linear_allow_neg_eigval", default=True),
    )
    rope = fields.values.get("rope_parameters")
    turned = not isinstance(rope, dict) or rope.get("rope_theta", 0) is not None
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
        rotary_dim=None if turned else 0,
        turned_type=True,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("intermediate_size")
    feed_forward = GatedFeedForward(hidden, wide, activation)
    before = (LateRMSNorm(hidden, "input_layernorm"), LateRMSNorm(hidden, "post_attention_layernorm"))
    after = (LateRMSNorm(hidden, "post_attention_layernorm"), LateRMSNorm(hidden, "post_feedforward_layernorm"))
    found = kinds(fields, "layer_types", count, MIXED, lambda index: MIXED[index % 4 != 3])
    if not fields.has("layer_types") and count < 4:
        found[-1] = "full_attention"
    layers = stack(
        found,
        lambda kind: (
            PreNormBlock(delta, feed_forward, before)
            if kind == "linear_attention"
            else PostNormBlock(attention, feed_forward, after)
        ),
    )
    embedding, head = ends(fields, hidden, norm=LateRMSNorm(hidden, "norm"))
    return finish(fields, name, embedding, layers, head, rotary=head_dim if turned else 0, float_tables=True)


def bailing_hybrid(fields: Fields, name: str | None) -> Model:
    """Ling 3 and Ring 3: Kimi's delta rule, gated latent attention in every sixth layer, DeepSeek-V3's experts."""
    fields = with_defaults(
        fields,
        vocab_size=157184,
        hidden_size=2560,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_hidden_layers=42,
        num_attention_heads=32,
    )
    count, activation = fields.size("num_hidden_layers"), fields.text("hidden_act", default="silu")
    given = Fields({**fields.values, "q_lora_rank": None}, fields.path)
    latent = HeadGatedLatentAttention(**latent_sizes(given, 0, 128, 128), pairs="interleaved")
    hidden = latent.hidden
    delta = BoundedDeltaAttention(
        hidden,
        latent.heads,
        fields.size("head_dim", default=128),
        fields.size("short_conv_kernel_size", default=4),
        bounded=fields.flag("kda_safe_gate", default=True),
    )
    experts, chosen = expert_counts(
        Fields({**{"num_experts_per_tok": fields.values.get("num_experts_per_token")}, **fields.values}, fields.path),
        "num_local_experts",
        "num_experts",
        chosen=8,
        experts=512,
    )
    groups = fields.size("n_group", "num_expert_group", default=8)
    fields.divides(experts, groups, ("num_experts", "n_group"))
    router = SigmoidRouter(
        hidden,
        experts,
        chosen,
        normal=fields.flag("norm_topk_prob", "moe_renormalize", default=True),
        groups=groups,
        best=fields.size("topk_group", default=4, most=groups),
    )
    wide = fields.size("moe_intermediate_size")
    shared = fields.size("n_shared_experts", "num_shared_experts", default=1)
    mixture = MixtureOfExperts(
        router,
        Experts(hidden, wide, experts, chosen, activation),
        shared_expert(hidden, shared * wide, activation),
    )
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    group = fields.size("layer_group_size", default=6)
    found = kinds(fields, "layer_types", count, MIXED, lambda index: MIXED[(index + 1) % group != 0])
    sparse = routed(fields, count, fields.size("first_k_dense_replace", default=2, least=0))

    def make(key: tuple[str, bool]) -> Block:
        mixer = latent if key[0] == "full_attention" else delta
        return PreNormBlock(mixer, mixture if key[1] else dense, two_norms(hidden))

    layers = stack(list(zip(found, sparse, strict=True)), make)
    embedding, head = ends(fields, hidden)
    last = make(("full_attention", True))
    return finish(
        fields,
        name,
        embedding,
        layers,
        head,
        rotary=latent.rotary,
        max_context=fields.size("max_position_embeddings", "model_max_length", default=262144),
        speculative=prediction_layers(fields, last, hidden, head.vocabulary, copies=False),
    )


def axk2(fields: Fields, name: str | None) -> Model:
    """A.X K2: latent attention with an indexer and an output gate, gated norms, DeepSeek-V3's experts."""
    fields = with_defaults(
        fields,
        vocab_size=163840,
        hidden_size=2048,
        intermediate_size=5120,
        moe_intermediate_size=512,
        num_hidden_layers=48,
        num_attention_heads=32,
        kv_lora_rank=128,
        qk_rope_head_dim=32,
        max_position_embeddings=131072,
    )
    sizes = latent_sizes(fields, 384, 64, 64)
    if not sizes["query_rank"]:
        fields.refuse("q_lora_rank", "must be a whole number")
    attention = GatedIndexedAttention(
        **sizes,
        index_heads=fields.size("index_n_heads", default=16),
        index_dim=fields.size("index_head_dim", default=128, least=sizes["rotary"]),
        most=fields.size("index_topk", default=2048),
    )
    hidden, activation = attention.hidden, fields.text("hidden_act", default="silu")
    count, rank = fields.size("num_hidden_layers"), fields.size("gated_norm_rank", default=16)
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_local_experts", chosen=8, experts=128)
    groups = fields.optional("n_group") or 0
    if groups:
        fields.divides(experts, groups, ("n_routed_experts", "n_group"))
    router = SigmoidRouter(
        hidden,
        experts,
        chosen,
        normal=fields.flag("norm_topk_prob", default=True),
        groups=groups,
        best=fields.size("topk_group", default=1, most=groups) if groups else 0,
    )
    wide, shared = fields.size("moe_intermediate_size"), fields.size("n_shared_experts", default=1)
    mixture = MixtureOfExperts(
        router, Experts(hidden, wide, experts, chosen, activation), shared_expert(hidden, shared * wide, activation)
    )
    dense = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    first = fields.size("first_k_dense_replace", default=1, least=0)
    step = fields.size("moe_layer_freq", default=1)
    found = fields.items("mlp_layer_types", length=count)
    sparse = routed(fields, count, 0) if found else [index >= first and index % step == 0 for index in range(count)]
    before, after = (GatedRMSNorm(hidden, each, rank=rank) for each in ("input_layernorm", "post_attention_layernorm"))
    layers = stack(
        sparse,
        lambda expert: (
            PreNormBlock(attention, mixture, (before, after))
            if expert
            else PreNormBlock(attention, dense, (before, RMSNorm(hidden, "post_attention_layernorm")))
        ),
    )
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, layers, head, rotary=attention.rotary, masked=True)


def aria_alone(fields: Fields, name: str | None) -> Model:
    """Aria's text model by itself."""
    return aria_text(fields, name, fields.flag("tie_word_embeddings"))


def diffllama(fields: Fields, name: str | None) -> Model:
    """DiffLlama: Llama with differential attention."""
    fields = with_defaults(
        fields,
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    if kv_heads % 2:
        fields.refuse("num_key_value_heads", "must be even")
    bias = fields.flag("attention_bias")
    attention = DifferentialAttention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("intermediate_size")
    block = PreNormBlock(attention, GatedFeedForward(hidden, wide, activation), two_norms(hidden))
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, (block,) * fields.size("num_hidden_layers"), head, rotary=head_dim)


def modernbert_decoder(fields: Fields, name: str | None) -> Model:
    """Ettin's decoders: ModernBERT's layers looking back only; the first has no norm before its attention."""
    fields = with_defaults(
        fields,
        vocab_size=50368,
        hidden_size=768,
        intermediate_size=1152,
        num_hidden_layers=22,
        num_attention_heads=12,
        max_position_embeddings=8192,
    )
    hidden, heads, head_dim = plain_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    beside, inner = fields.flag("norm_bias"), fields.flag("mlp_bias")
    window = fields.size("local_attention", default=128, least=0) // 2 or None
    every = fields.size("global_attn_every_n_layers", default=3)
    dropped = fields.number("attention_dropout", default=0.0)
    activation = fields.text("hidden_activation", default="gelu")
    feed_forward = InnerFeedForward(
        hidden,
        fields.size("intermediate_size"),
        activation,
        inner,
        fused="Wi",
        down="Wo",
        rate=fields.number("mlp_dropout", default=0.0),
    )

    def norm(called: str) -> LayerNorm:
        return LayerNorm(hidden, called, bias=beside)

    def make(key: tuple[bool, bool]) -> Block:
        attention = WidenedRotary(
            hidden,
            heads,
            heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            names=Projections(output="Wo"),
            prefix="attn",
            window=window if key[0] else None,
            tables=NEAR if key[0] else FAR,
            dropout=dropped,
            output_dropout=dropped,
        )
        if key[1]:
            return BareBlock(attention, feed_forward, (norm("mlp_norm"),))
        return PreNormBlock(attention, feed_forward, (norm("attn_norm"), norm("mlp_norm")))

    near = reaches(fields, count, lambda index: index % every != 0)
    layers = stack([(each, index == 0) for index, each in enumerate(near)], make)
    vocabulary = fields.size("vocab_size")
    return finish(
        fields,
        name,
        HoldingEmbedding(
            vocabulary,
            hidden,
            "embeddings.tok_embeddings",
            norm=norm("embeddings.norm"),
            dropout=fields.number("embedding_dropout", default=0.0),
        ),
        layers,
        TransformedHead(
            vocabulary,
            hidden,
            fields.flag("tie_word_embeddings", default=True),
            norm("final_norm"),
            name="decoder",
            bias=fields.flag("decoder_bias", default=True),
            activation=fields.text("classifier_activation", default="gelu"),
            inner_bias=fields.flag("classifier_bias"),
            norm_bias=beside,
        ),
        tables=local_tables(near, head_dim, head_dim),
        batched_tables=True,
    )


def jetmoe(fields: Fields, name: str | None) -> Model:
    """JetMoE: experts for queries and outputs of attention, and for the feed-forward layer."""
    fields = with_defaults(
        fields,
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=12,
        num_key_value_heads=16,
        max_position_embeddings=4096,
    )
    hidden, kv_heads = fields.size("hidden_size"), fields.size("num_key_value_heads", most=4096)
    head_dim = fields.size("kv_channels", "head_dim", default=128)
    experts, chosen = expert_counts(fields, "num_local_experts", chosen=2, experts=8)
    activation, wide = fields.text("activation_function", default="silu"), fields.size("intermediate_size")
    attention = AttentionOfExperts(
        hidden,
        kv_heads * chosen,
        kv_heads,
        head_dim,
        prefix="self_attention",
        dropout=fields.number("attention_dropout", default=0.0),
        experts=ParallelExperts("self_attention.experts", hidden, kv_heads * head_dim, experts, chosen, False),
    )
    feed_forward = JetFeedForward(ParallelExperts("mlp", hidden, wide, experts, chosen, True), activation)
    block = PreNormBlock(attention, feed_forward, two_norms(hidden))
    embedding, head = ends(fields, hidden, tied_default=True)
    return finish(fields, name, embedding, (block,) * fields.size("num_hidden_layers"), head, rotary=head_dim)


def longcat_flash(fields: Fields, name: str | None) -> Model:
    """LongCat Flash: two latent attentions and two dense layers a layer, a mixture beside them; some experts pass
    tokens on."""
    fields = with_defaults(
        fields, vocab_size=131072, hidden_size=6144, num_attention_heads=64, max_position_embeddings=131072
    )
    attention = ScaledLatentAttention(**latent_sizes(fields, 1536, 128, 128), pairs="interleaved")
    if not attention.query_rank:
        fields.refuse("q_lora_rank", "must be a whole number")
    hidden, activation = attention.hidden, fields.text("hidden_act", default="silu")
    real = fields.size("n_routed_experts", "num_local_experts", default=512, most=100_000)
    passing = fields.size("zero_expert_num", default=256, least=0, most=100_000)
    chosen = fields.size("moe_topk", "num_experts_per_tok", default=12, most=real + passing)
    router = ClassifierRouter(hidden, real + passing, chosen, "mlp.router", fields.flag("router_bias"))
    wide = fields.size("expert_ffn_hidden_size", "moe_intermediate_size", default=2048)
    stacks = PassingExperts(hidden, wide, real, min(chosen, real), activation, passing=passing)
    dense = GatedFeedForward(
        hidden, fields.size("ffn_hidden_size", "intermediate_size", default=12288), activation, prefix="mlps"
    )
    names = ("input_layernorm.0", "post_attention_layernorm.0", "input_layernorm.1", "post_attention_layernorm.1")
    norms: tuple[Norm, ...] = tuple(RMSNorm(hidden, each) for each in names)
    block = ShortcutBlock(Twice(attention), MixtureOfExperts(router, stacks), norms, dense)
    if fields.has("num_layers") or not fields.has("num_hidden_layers"):
        count = fields.size("num_layers", default=28, most=10_000)
    else:
        count = fields.divides(fields.size("num_hidden_layers", least=2), 2, ("num_hidden_layers", "2"))
    embedding, head = ends(fields, hidden)
    return finish(fields, name, embedding, (block,) * count, head, rotary=attention.rotary)


def lfm3(fields: Fields, name: str | None) -> Model:
    """LFM 3: short convolutions, attention with a window or without, gates on its heads, norms on both sides."""
    fields = with_defaults(
        fields,
        vocab_size=128000,
        hidden_size=2048,
        intermediate_size=7680,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=128000,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count, bias = fields.size("num_hidden_layers"), fields.flag("attention_bias")
    window = fields.optional("sliding_window")
    both = fields.flag("use_sandwich_norm", default=True)
    kind = FigureGatedAttention if fields.flag("use_attention_gate", default=True) else Attention
    feed_forward = GatedFeedForward(
        hidden, fields.size("intermediate_size"), gate="w1", up="w3", down="w2", prefix="feed_forward"
    )
    names = (
        ("operator_norm", "post_operator_norm", "ffn_norm", "post_ffn_norm") if both else ("operator_norm", "ffn_norm")
    )
    norms: tuple[Norm, ...] = tuple(RMSNorm(hidden, each) for each in names)
    convolution = ShortConvolution(hidden, fields.size("conv_L_cache", default=7), fields.flag("conv_bias"))

    def default(index: int) -> str:
        if index % 4 == 2:
            return "full_attention"
        return "sliding_attention" if index % 4 == 0 and index else "conv"

    def make(each: str) -> Block:
        near = each == "sliding_attention"
        attention = kind(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=RMSNorm(head_dim, "q_norm"),
            key_norm=RMSNorm(head_dim, "k_norm"),
            window=window if near else None,
            tables=NEAR if near else FAR,
            turned_type=True,
            dropout=fields.number("attention_dropout", default=0.0),
        )
        mixer = convolution if each == "conv" else attention
        return (SandwichBlock if both else PreNormBlock)(mixer, feed_forward, norms)

    found = kinds(fields, "layer_types", count, ("conv", "full_attention", "sliding_attention"), default)
    embedding, head = ends(fields, hidden, tied_default=True, norm=RMSNorm(hidden, "embedding_norm"))
    near = [each == "sliding_attention" for each in found if each != "conv"]
    tables = local_tables(near, head_dim, head_dim) if near else ()
    return finish(fields, name, embedding, stack(found, make), head, tables=tables, float_tables=True)


READERS: dict[str, Reader] = {
    "aria_text": aria_alone,
    "axk2": axk2,
    "bailing_hybrid": bailing_hybrid,
    "diffllama": diffllama,
    "jetmoe": jetmoe,
    "lfm3": lfm3,
    "longcat_flash": longcat_flash,
    "modernbert-decoder": modernbert_decoder,
    "olmo_hybrid": olmo_hybrid,
}
