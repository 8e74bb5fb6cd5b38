"""Mamba and the families that mix state-space layers with attention."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InvalidConfig
from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.experts import Experts, MixtureOfExperts, SigmoidRouter, SoftmaxRouter
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.hybrid import (
    ResidualBlock,
    ScaledFeedForward,
    ScaledKeyAttention,
    ScaledResidualBlock,
    SharedAttentionBlock,
    SharedAttentionMixer,
    SharedTransformer,
    SideBySide,
    WideAttention,
)
from ..layers.mixtures import FloatLateRouter, LatentMixture, PlainExperts
from ..layers.norms import FloatRMSNorm, RMSNorm
from ..layers.state_space import Mamba, Mamba2
from ..model import Model
from ..tensors import Tensor
from .fields import LIMITS, Fields
from .llama import attention_sizes, finish
from .table import Reader

LEGACY_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}  # older names of layer types


def width_or_auto(fields: Fields, name: str, default: int) -> int:
    """A size that a configuration may leave to the class by the word auto."""
    return default if fields.values.get(name) == "auto" else fields.size(name, default=default)


def state_precision(fields: Fields, default: str = "float32") -> str:
    """The precision of recurrent states: as the configuration says, else float32, in which scans return the last."""
    named = fields.text("mamba_ssm_cache_dtype", "mamba_ssm_dtype", default=default)
    return named if named in ("float32", "bfloat16", "float16") else "activations"


def layer_kinds(fields: Fields, count: int, *names: str) -> list[str] | None:
    """The kind of each layer, older names replaced by those of today."""
    kinds = fields.items(*names, length=count)
    return None if kinds is None else [LEGACY_KINDS.get(kind, kind) if isinstance(kind, str) else "" for kind in kinds]


def _only(fields: Fields, name: str, kinds: list[str], known: set[str]) -> None:
    unknown = sorted(set(kinds) - known)
    if unknown:
        raise InvalidConfig(
            f"{fields.path}.{name} has {unknown[0]!r:.40}; known: {', '.join(sorted(known))}", f"{fields.path}.{name}"
        )


# ---------------------------------------------------------------------- pure state-space models


def mamba(fields: Fields, name: str | None) -> Model:
    """Mamba: one norm and one scan a layer, sums in float32."""
    return _mamba(fields, name, plain_norms=False)


def falcon_mamba(fields: Fields, name: str | None) -> Model:
    """Falcon Mamba: Mamba with norms without weights on the time step, B and C."""
    return _mamba(fields, name, plain_norms=True)


def _mamba(fields: Fields, name: str | None, plain_norms: bool) -> Model:
    hidden = fields.size("hidden_size", default=768)
    inner = fields.size("intermediate_size", default=fields.size("expand", default=2) * hidden)
    mixer = Mamba(
        hidden,
        inner,
        fields.size("state_size", default=16),
        fields.size("conv_kernel", default=4),
        width_or_auto(fields, "time_step_rank", -(-hidden // 16)),
        projection_bias=fields.flag("use_bias"),
        convolution_bias=fields.flag("use_conv_bias", default=True),
        plain_norms=plain_norms,
    )
    return _residual_model(fields, name, mixer, fields.size("vocab_size", default=50280), tied=True)


def mamba2(fields: Fields, name: str | None) -> Model:
    """Mamba-2."""
    hidden, heads, head_dim = (
        fields.size("hidden_size", default=4096),
        fields.size("num_heads", default=128),
        fields.size("head_dim", default=64),
    )
    _fills(fields, hidden * fields.size("expand", default=2), heads, head_dim, ("num_heads", "head_dim"))
    mixer = Mamba2(
        hidden,
        heads,
        head_dim,
        fields.size("state_size", default=128),
        fields.size("n_groups", default=8),
        fields.size("conv_kernel", default=4),
        fields.size("chunk_size", default=256),
        projection_bias=fields.flag("use_bias"),
        output_bias=fields.flag("use_bias"),
        convolution_bias=fields.flag("use_conv_bias", default=True),
    )
    return _residual_model(fields, name, mixer, fields.size("vocab_size", default=32768), tied=False)


def _fills(fields: Fields, inner: int, heads: int, head_dim: int, names: tuple[str, str]) -> None:
    if heads * head_dim != inner:
        raise InvalidConfig(
            f"{fields.path}.{names[0]} ({heads}) × {names[1]} ({head_dim}) must be the width of the scan ({inner})",
            f"{fields.path}.{names[0]}",
        )


def _residual_model(fields: Fields, name: str | None, mixer: Mamba | Mamba2, vocabulary: int, tied: bool) -> Model:
    hidden = mixer.hidden
    wide = fields.flag("residual_in_fp32", default=True)
    layer = ResidualBlock(mixer, None, (RMSNorm(hidden, "norm"),), wide=wide)
    model = finish(
        fields,
        name,
        Embedding(vocabulary, hidden, "embeddings"),
        (layer,) * fields.size("num_hidden_layers", default=32),
        Head(
            vocabulary,
            hidden,
            fields.flag("tie_word_embeddings", default=tied),
            RMSNorm(hidden, "norm_f"),
            widened=True,
        ),
    )
    return replace(model, wide_residual=wide)


# ---------------------------------------------------------------------- attention beside or between


def mamba2_of(fields: Fields, hidden: int, inner: int, *, state_size: int = 256, prefix: str = "mamba") -> Mamba2:
    """Mamba-2 under the names of Bamba, Falcon H1 and Granite 4, whose configurations begin the fields with mamba_."""
    heads = fields.size("mamba_n_heads", default=128)
    head_dim = width_or_auto(fields, "mamba_d_head", inner // heads)
    _fills(fields, inner, heads, head_dim, ("mamba_n_heads", "mamba_d_head"))
    return Mamba2(
        hidden,
        heads,
        head_dim,
        fields.size("mamba_d_state", default=state_size),
        fields.size("mamba_n_groups", default=1),
        fields.size("mamba_d_conv", default=4),
        fields.size("mamba_chunk_size", default=256),
        projection_bias=fields.flag("mamba_proj_bias"),
        output_bias=fields.flag("mamba_proj_bias"),
        convolution_bias=fields.flag("mamba_conv_bias", default=True),
        prefix=prefix,
        precision=state_precision(fields),
    )


def bamba(fields: Fields, name: str | None) -> Model:
    """Bamba: Mamba-2 layers with a few attention layers between, a gated feed-forward layer in each."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, kv_default=8)
    count = fields.size("num_hidden_layers")
    at = fields.items("attn_layer_indices") or []
    bias = fields.flag("attention_bias")
    feed_forward = GatedFeedForward(
        hidden,
        fields.size("intermediate_size"),
        fields.text("hidden_act", default="silu"),
        fields.flag("mlp_bias"),
        prefix="feed_forward",
    )
    rotary = 2 * (head_dim // 4)  # half of a head, whatever the configuration says
    norms = (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "pre_ff_layernorm"))
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias, rotary_dim=rotary)
    state_space = mamba2_of(fields, hidden, fields.size("mamba_expand", default=2) * hidden)
    mixed, attending = (PreNormBlock(mixer, feed_forward, norms) for mixer in (state_space, attention))
    vocabulary = fields.size("vocab_size")
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(attending if index in at else mixed for index in range(count)),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), RMSNorm(hidden, "final_layernorm")),
        rotary=rotary,
    )


def falcon_h1(fields: Fields, name: str | None) -> Model:
    """Falcon H1: attention and Mamba-2 side by side in every layer, with constant multipliers between all parts."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, kv_default=8)
    bias = fields.flag("attention_bias")
    given = "mamba_d_ssm" in fields.values and fields.values["mamba_d_ssm"] is None
    inner = fields.size("mamba_expand", default=2) * hidden if given else fields.size("mamba_d_ssm", default=1024)
    state_space = replace(
        mamba2_of(fields, hidden, inner),
        output_bias=fields.flag("projectors_bias"),
        gated_norm=fields.flag("mamba_rms_norm"),
        input_scaled=True,
    )
    attention = ScaledKeyAttention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    feed_forward = ScaledFeedForward(
        hidden,
        fields.size("intermediate_size"),
        fields.text("hidden_act", default="silu"),
        fields.flag("mlp_bias"),
        prefix="feed_forward",
    )
    layer = PreNormBlock(
        SideBySide(attention, state_space),
        feed_forward,
        (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "pre_ff_layernorm")),
    )
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, scaled=True),
        (layer,) * fields.size("num_hidden_layers"),
        Head(vocabulary, hidden, tied, RMSNorm(hidden, "final_layernorm"), scaled=True),
        rotary=head_dim,
    )


# ---------------------------------------------------------------------- one transformer for several depths


def zamba(fields: Fields, name: str | None) -> Model:
    """Zamba: Mamba layers of several scans each, and one transformer that is used before some of them."""
    hidden, count = fields.size("hidden_size"), fields.size("num_hidden_layers")
    heads = fields.size("num_attention_heads", default=16)
    wide = fields.size("attention_hidden_size", default=2 * hidden)
    head_dim = fields.size("attention_head_dim", default=0) or fields.divides(
        wide, heads, ("hidden_size", "num_attention_heads")
    )
    inner = fields.size("mamba_expand", default=2) * hidden
    scans = fields.size("n_mamba_heads", default=2)
    fields.divides(inner, scans, ("hidden_size", "n_mamba_heads"))
    mixer = Mamba(
        hidden,
        inner,
        fields.size("mamba_d_state", default=16),
        fields.size("mamba_d_conv", default=4),
        width_or_auto(fields, "mamba_dt_rank", -(-hidden // 16)),
        scans,
        projection_bias=fields.flag("mamba_proj_bias"),
        convolution_bias=fields.flag("mamba_conv_bias", default=True),
        prefix="mamba",
    )
    kinds = layer_kinds(fields, count, "layers_block_type", "layer_types")
    if kinds is None:
        period, offset = (
            fields.size("attn_layer_period", default=6),
            fields.size("attn_layer_offset", default=4, least=0),
        )
        kinds = ["linear_attention", "linear_attention", "hybrid"] + [
            "hybrid" if index % period == offset else "linear_attention" for index in range(count - 3)
        ]
    transformer = SharedTransformer(
        WideAttention(
            wide,
            heads,
            fields.size("num_key_value_heads", default=heads),
            head_dim,
            rotary_dim=0,
            width=hidden,
        ),
        GatedFeedForward(
            hidden,
            fields.size("intermediate_size"),
            fields.text("hidden_act", default="gelu"),
            prefix="feed_forward",
        ),
        (RMSNorm(wide, "input_layernorm"), RMSNorm(hidden, "pre_ff_layernorm")),
    )
    return _shared(fields, name, mixer, kinds[:count], (transformer,), rotary=0)


def zamba2(fields: Fields, name: str | None) -> Model:
    """Zamba 2: Mamba-2 layers, and transformers used in turn, each use with a low-rank update of its own."""
    hidden, count = fields.size("hidden_size", default=2560), fields.size("num_hidden_layers", default=54)
    heads = fields.size("num_attention_heads", default=32)
    wide = 2 * hidden
    head_dim = fields.divides(wide, heads, ("hidden_size", "num_attention_heads"))
    inner = fields.size("mamba_expand", default=2) * hidden
    scans = fields.size("n_mamba_heads", default=8)
    mixer = Mamba2(
        hidden,
        scans,
        fields.divides(inner, scans, ("hidden_size", "n_mamba_heads")),
        fields.size("mamba_d_state", default=64),
        fields.size("mamba_ngroups", default=1),
        fields.size("mamba_d_conv", default=4),
        fields.size("chunk_size", default=256),
        projection_bias=fields.flag("add_bias_linear"),
        output_bias=fields.flag("add_bias_linear"),
        prefix="mamba",
    )
    kinds = layer_kinds(fields, count, "layers_block_type", "layer_types")
    if kinds is None:
        plain = "linear_attention"
        kinds = [plain, *([plain] * 5 + ["hybrid"]) * 7, *[plain] * 4, "hybrid", *[plain] * 3, "hybrid", plain, plain]
        if len(kinds) != count:
            raise InvalidConfig(f"{fields.path} lacks layers_block_type", f"{fields.path}.layers_block_type")
    rotary = head_dim if fields.flag("use_mem_rope") else 0
    transformer = SharedTransformer(
        WideAttention(
            wide,
            heads,
            fields.size("num_key_value_heads", default=heads),
            head_dim,
            rotary_dim=rotary,
            width=hidden,
        ),
        GatedFeedForward(
            hidden,
            fields.size("intermediate_size", default=4 * hidden),
            fields.text("hidden_act", default="gelu"),
            fields.flag("add_bias_linear"),
            fused="gate_up_proj",
            prefix="feed_forward",
        ),
        (RMSNorm(wide, "input_layernorm"), RMSNorm(hidden, "pre_ff_layernorm")),
        fields.size("adapter_rank", default=128),
        fields.flag("use_shared_attention_adapter"),
    )
    turns = (transformer,) * fields.size("num_mem_blocks", default=1)
    return _shared(fields, name, mixer, kinds, turns, rotary, parts=("shared_transformer", "mamba_decoder"))


def _shared(
    fields: Fields,
    name: str | None,
    mixer: Mamba | Mamba2,
    kinds: list[str],
    turns: tuple[SharedTransformer, ...],
    rotary: int,
    parts: tuple[str, str] = ("shared_transf", "mamba_decoder"),
) -> Model:
    _only(fields, "layers_block_type", kinds, {"linear_attention", "hybrid"})
    hidden = mixer.hidden
    norm = RMSNorm(hidden, "input_layernorm")
    plain = ResidualBlock(mixer, None, (norm,), wide=False)
    shared = {
        first: SharedAttentionBlock(SharedAttentionMixer(turns[0], mixer, norm, first, parts), None)
        for first in (True, False)
    }
    layers: list[Block] = []
    uses = 0
    for kind in kinds:
        if kind == "hybrid":
            layers.append(shared[uses < len(turns)])
            uses += 1
        else:
            layers.append(plain)
    vocabulary = fields.size("vocab_size", default=32000)
    tied = fields.flag("tie_word_embeddings", default=True)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(layers),
        Head(vocabulary, hidden, tied, RMSNorm(hidden, "final_layernorm")),
        rotary=rotary,
        max_context=fields.size("max_position_embeddings", default=4096),
    )


# ---------------------------------------------------------------------- with experts


def jamba(fields: Fields, name: str | None) -> Model:
    """Jamba: Mamba layers with an attention layer in every eighth, experts in every second."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, kv_default=8)
    count = fields.size("num_hidden_layers", default=32)
    activation = fields.text("hidden_act", default="silu")
    wide = fields.size("intermediate_size", default=14336)
    experts = fields.size("num_experts", default=16, most=100_000)
    chosen = fields.size("num_experts_per_tok", default=2, most=experts)
    mixer = Mamba(
        hidden,
        fields.size("mamba_expand", default=2) * hidden,
        fields.size("mamba_d_state", default=16),
        fields.size("mamba_d_conv", default=4),
        width_or_auto(fields, "mamba_dt_rank", -(-hidden // 16)),
        projection_bias=fields.flag("mamba_proj_bias"),
        convolution_bias=fields.flag("mamba_conv_bias", default=True),
        norms=True,
        prefix="mamba",
    )
    attention = Attention(hidden, heads, kv_heads, head_dim, rotary_dim=0)
    dense = GatedFeedForward(hidden, wide, activation, prefix="feed_forward")
    mixture = MixtureOfExperts(
        SoftmaxRouter(hidden, experts, chosen, "feed_forward.router"),
        Experts(hidden, wide, experts, chosen, activation, "feed_forward.experts"),
    )
    norms = (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "pre_ff_layernorm"))
    attending = _every(fields, "attn_layer", count, period=8, offset=4)
    sparse = _every(fields, "expert_layer", count, period=2, offset=1)
    keys = [(a, s and experts > 1) for a, s in zip(attending, sparse, strict=True)]
    made = {key: PreNormBlock(attention if key[0] else mixer, mixture if key[1] else dense, norms) for key in set(keys)}
    vocabulary = fields.size("vocab_size", default=65_536)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(made[key] for key in keys),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), RMSNorm(hidden, "final_layernorm")),
    )


def _every(fields: Fields, name: str, count: int, period: int, offset: int) -> list[bool]:
    """Which layers are those of a period and an offset into it."""
    period = fields.size(f"{name}_period", default=period)
    offset = fields.size(f"{name}_offset", default=offset, least=0)
    return [index % period == offset for index in range(count)]


def granitemoehybrid(fields: Fields, name: str | None) -> Model:
    """Granite 4: Mamba-2 layers with a few attention layers, experts (or none) and a shared one in each."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers", default=32)
    activation = fields.text("hidden_act", default="silu")
    bias = fields.flag("attention_bias")
    turned = fields.text("position_embedding_type", default="nope") == "rope"
    shared = GatedFeedForward(
        hidden,
        fields.size("shared_intermediate_size", default=1024),
        activation,
        fused="input_linear",
        down="output_linear",
        prefix="shared_mlp",
        component="shared_experts",
        suffix="_shexp",
    )
    feed_forward: GatedFeedForward | MixtureOfExperts = shared
    experts = fields.size("num_local_experts", default=8, least=0, most=100_000)
    if experts:
        chosen = fields.size("num_experts_per_tok", default=2, most=experts)
        wide = fields.size("intermediate_size", default=11008)
        router = FloatLateRouter(hidden, experts, chosen, "block_sparse_moe.router")
        stacks = Experts(hidden, wide, experts, chosen, activation, "block_sparse_moe.experts")
        feed_forward = MixtureOfExperts(router, stacks, shared)
    mixers = {
        "full_attention": Attention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            rotary_dim=head_dim if turned else 0,
        ),
        "linear_attention": mamba2_of(fields, hidden, fields.size("mamba_expand", default=2) * hidden),
    }
    kinds = layer_kinds(fields, count, "layer_types", "layers_block_type") or ["linear_attention"] * count
    _only(fields, "layer_types", kinds, set(mixers))
    norms = (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "post_attention_layernorm"))
    made = {kind: ScaledResidualBlock(mixers[kind], feed_forward, norms) for kind in set(kinds)}
    vocabulary = fields.size("vocab_size", default=32_000)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, scaled=True),
        tuple(made[kind] for kind in kinds),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), RMSNorm(hidden, "norm"), scaled=True),
        rotary=head_dim if turned else 0,
    )


LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}  # of hybrid_override_pattern


def nemotron_h(fields: Fields, name: str | None) -> Model:
    """Nemotron-H: every layer is one thing, a Mamba-2, an attention, a feed-forward layer or a mixture of experts."""
    hidden = fields.size("hidden_size", default=4096)
    heads = fields.size("num_attention_heads", default=32)
    kv_heads = fields.size("num_key_value_heads", default=8)
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    activation = fields.text("mlp_hidden_act", default="relu2")
    bias = fields.flag("mlp_bias")
    kinds = _nemotron_kinds(fields)
    made: dict[str, Block] = {}
    norms = (FloatRMSNorm(hidden, "norm"),)
    for kind in set(kinds):
        if kind == "linear_attention":
            made[kind] = PreNormBlock(_nemotron_mamba(fields, hidden), None, norms)
        elif kind == "full_attention":
            attention = Attention(
                hidden,
                heads,
                kv_heads,
                fields.size("head_dim", default=128),
                rotary_dim=0,
                prefix="mixer",
            )
            made[kind] = PreNormBlock(attention, None, norms)
        elif kind == "mlp":
            wide = fields.size("intermediate_size", default=21_504)
            made[kind] = PreNormBlock(None, FeedForward(hidden, wide, activation, bias, prefix="mixer"), norms)
        else:
            made[kind] = PreNormBlock(None, _nemotron_mixture(fields, hidden, activation, bias), norms)
    vocabulary = fields.size("vocab_size", default=131_072)
    tied = fields.flag("tie_word_embeddings")
    model = finish(
        fields,
        name,
        Embedding(vocabulary, hidden, "embeddings"),
        tuple(made[kind] for kind in kinds),
        Head(vocabulary, hidden, tied, FloatRMSNorm(hidden, "norm_f"), widened=True),
    )
    return replace(model, speculative=_nemotron_speculative(fields, made, hidden))


def _nemotron_kinds(fields: Fields) -> list[str]:
    """`layers_block_type`, or the letters of `hybrid_override_pattern`."""
    path = f"{fields.path}.hybrid_override_pattern"
    listed = fields.items("layers_block_type", "layer_types")
    if listed is None:
        pattern = fields.text("hybrid_override_pattern", default="")
        listed = [LETTERS.get(letter, letter) for letter in pattern]
    else:
        path = f"{fields.path}.layers_block_type"
        listed = [LEGACY_KINDS.get(kind, kind) if isinstance(kind, str) else "" for kind in listed]
    if not listed:
        raise InvalidConfig(f"{path} is needed: it says what each layer is", path)
    if len(listed) > LIMITS["num_hidden_layers"]:
        raise InvalidConfig(f"{path} has more than {LIMITS['num_hidden_layers']:,} layers", path)
    _only(fields, path.rsplit(".", 1)[-1], listed, set(LETTERS.values()))
    count = fields.size("num_hidden_layers", default=len(listed))
    if count != len(listed):
        raise InvalidConfig(f"{path} has {len(listed)} layers, num_hidden_layers says {count}", path)
    return listed


def _nemotron_mamba(fields: Fields, hidden: int) -> Mamba2:
    bias = fields.flag("use_bias")
    heads, groups = fields.size("mamba_num_heads", default=128), fields.size("n_groups", "mamba_n_groups", default=8)
    fields.divides(heads, groups, ("mamba_num_heads", "n_groups"))
    return Mamba2(
        hidden,
        heads,
        fields.size("mamba_head_dim", default=64),
        fields.size("ssm_state_size", default=128),
        groups,
        fields.size("conv_kernel", "mamba_d_conv", default=4),
        fields.size("chunk_size", "mamba_chunk_size", default=128),
        projection_bias=bias,
        output_bias=bias,
        convolution_bias=fields.flag("use_conv_bias", "mamba_conv_bias", default=True),
        precision=state_precision(fields),
    )


def _nemotron_mixture(fields: Fields, hidden: int, activation: str, bias: bool) -> LatentMixture:
    """Experts without gates, perhaps in a latent space, and a shared one beside them."""
    experts = fields.size("n_routed_experts", "num_local_experts", default=8, most=100_000)
    chosen = fields.size("num_experts_per_tok", default=2, most=experts)
    latent = fields.optional("moe_latent_size") or 0
    router = SigmoidRouter(
        hidden,
        experts,
        chosen,
        "mixer.gate",
        normal=fields.flag("norm_topk_prob", default=True),
        groups=fields.size("n_group", default=1),
        best=fields.size("topk_group", default=1),
    )
    wide = fields.size("moe_intermediate_size", default=7688)
    stacks = PlainExperts(
        latent or hidden, wide, experts, chosen, activation, "mixer.experts", names=("up_proj", "down_proj")
    )
    shared = FeedForward(
        hidden,
        fields.size("moe_shared_expert_intermediate_size", default=7688),
        activation,
        bias,
        prefix="mixer.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    return LatentMixture(router, stacks, shared, latent, bias)


def _nemotron_speculative(fields: Fields, made: dict[str, Block], hidden: int) -> tuple[Tensor, ...]:
    """The layers that predict a token more, as their pattern says, behind a matrix over two hidden states."""
    count = fields.optional("num_nextn_predict_layers") or 0
    pattern = fields.text("mtp_hybrid_override_pattern", default="")
    listed = fields.items("mtp_layers_block_type") or [LETTERS.get(letter, letter) for letter in pattern]
    kinds = [LEGACY_KINDS.get(kind, kind) for kind in listed if isinstance(kind, str)]
    tensors = [tensor for kind in kinds or ["full_attention", "moe"] if kind in made for tensor in made[kind].tensors()]
    tensors.append(Tensor("eh_proj.weight", (hidden, 2 * hidden), "other", "other", True))
    tensors += [Tensor(f"{part}.weight", (hidden,), "norm", "norm") for part in ("enorm", "hnorm", "final_layernorm")]
    return tuple(replace(tensor, name=f"mtp.{tensor.name}", count=tensor.count * count) for tensor in tensors if count)


READERS: dict[str, Reader] = {
    "mamba": mamba,
    "falcon_mamba": falcon_mamba,
    "mamba2": mamba2,
    "bamba": bamba,
    "falcon_h1": falcon_h1,
    "zamba": zamba,
    "zamba2": zamba2,
    "jamba": jamba,
    "granitemoehybrid": granitemoehybrid,
    "nemotron_h": nemotron_h,
}
