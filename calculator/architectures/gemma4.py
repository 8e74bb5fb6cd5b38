"""Gemma 3n and 4: local and global layers of different heads, embeddings for every layer, keys and values shared."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InvalidConfig
from ..layers.altup import (
    AlternatingBlock,
    AlternatingUpdates,
    LearnedResidual,
    StreamsEmbedding,
    StreamsHead,
    TopFeedForward,
)
from ..layers.blocks import Block
from ..layers.ends import Embedding, Head
from ..layers.experts import Experts
from ..layers.feed_forward import GatedFeedForward
from ..layers.gemma import BesideMixture, GemmaBlock, NormedAttention, PerLayerEmbedding, PerLayerInput, PowerRMSNorm
from ..layers.mixtures import NormedRouter
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from .experts import stack
from .fields import Fields
from .linear_attention import completed, text_of
from .llama import finish
from .table import Reader

LOCAL, GLOBAL = "sliding_attention", "full_attention"


def local_and_global(fields: Fields, count: int, every: int) -> list[str]:
    """The kind of each layer: `layer_types`, or global every so many layers."""
    kinds = fields.items("layer_types", length=count)
    if kinds is None:
        kinds = [LOCAL if (index + 1) % every else GLOBAL for index in range(count)]
    for kind in kinds:
        if kind not in (LOCAL, GLOBAL):
            raise InvalidConfig(
                f"{fields.path}.layer_types has {kind!r:.40}; known: {LOCAL}, {GLOBAL}", f"{fields.path}.layer_types"
            )
    return list(kinds)


def first_shared(fields: Fields, kinds: list[str], default: int = 0) -> int:
    """The first layer that takes keys and values from an earlier one of its kind."""
    path = f"{fields.path}.num_kv_shared_layers"
    first = len(kinds) - fields.size("num_kv_shared_layers", default=default, least=0)
    if first < 0 or not set(kinds[first:]) <= set(kinds[:first]):
        raise InvalidConfig(f"{path} leaves no layer of a kind to make keys and values for those that share", path)
    return first


def gemma4_text(fields: Fields, name: str | None) -> Model:
    """The text layers of Gemma 4."""
    hidden = fields.size("hidden_size", default=2304)
    count = fields.size("num_hidden_layers", default=30)
    kinds = local_and_global(fields, count, every=6)
    kinds[-1] = GLOBAL
    first = first_shared(fields, kinds)
    activation = fields.text("hidden_activation", default="gelu_pytorch_tanh")
    own = per_layer_input(fields, hidden, count, activation)
    wide = fields.size("intermediate_size", default=9216)
    double = 2 if fields.flag("use_double_wide_mlp") else 1
    mixture = _mixture(fields, hidden, activation) if fields.flag("enable_moe_block") else None
    made: dict[tuple[str, bool], Block] = {}
    layers: list[Block] = []
    for index, kind in enumerate(kinds):
        key = (kind, index >= first)
        if key not in made:
            feed_forward = GatedFeedForward(hidden, wide * (double if key[1] else 1), activation)
            made[key] = GemmaBlock(_attention(fields, hidden, *key), feed_forward, _norms(hidden), own, mixture)
        layers.append(made[key])
    vocabulary = fields.size("vocab_size", default=262_144)
    head_dim, wide_head = fields.size("head_dim", default=256), fields.size("global_head_dim", default=512)
    tables = [("cos", head_dim), ("sin", head_dim)] if LOCAL in kinds else []
    tables += [("cos_global", wide_head), ("sin_global", wide_head)]
    tied = fields.flag("tie_word_embeddings", default=True)
    model = finish(
        fields,
        name,
        per_layer_embedding(fields, vocabulary, hidden, own, in_place=False),
        tuple(layers),
        Head(
            vocabulary,
            hidden,
            tied,
            PowerRMSNorm(hidden, "norm"),
            softcap=fields.has("final_logit_softcapping"),
        ),
        tables=tuple(tables),
    )
    return replace(
        model,
        inputs=(("per_layer", own.width * count),) if own is not None else (),
        last_token_from=first if first < count else None,
    )


def _norms(hidden: int) -> tuple[PowerRMSNorm, ...]:
    return tuple(
        PowerRMSNorm(hidden, name)
        for name in (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        )
    )


def _mixture(fields: Fields, hidden: int, activation: str) -> BesideMixture:
    """The experts beside each dense layer."""
    experts = fields.size("num_experts", most=100_000)
    chosen = fields.size("top_k_experts", most=experts)
    router = NormedRouter(hidden, experts, chosen, "router", norm=PowerRMSNorm(hidden, "norm", affine=False))
    stacks = Experts(hidden, fields.size("moe_intermediate_size"), experts, chosen, activation, "experts")
    names = ("post_feedforward_layernorm_1", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2")
    first, second, third = (PowerRMSNorm(hidden, name) for name in names)
    return BesideMixture(router, stacks, (first, second, third))


def _attention(fields: Fields, hidden: int, kind: str, shared: bool) -> NormedAttention:
    """Local layers have a window; global ones wider heads, perhaps fewer, and keys that may serve as values."""
    heads = fields.size("num_attention_heads", default=8)
    kv_heads = fields.size("num_key_value_heads", default=4)
    head_dim = fields.size("head_dim", default=256)
    same = fields.flag("attention_k_eq_v") and kind == GLOBAL
    if kind == GLOBAL:
        head_dim = fields.size("global_head_dim", default=512)
        if fields.flag("attention_k_eq_v"):
            kv_heads = fields.size("num_global_key_value_heads", default=kv_heads)
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    bias = fields.flag("attention_bias")
    return NormedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=PowerRMSNorm(head_dim, "q_norm"),
        key_norm=PowerRMSNorm(head_dim, "k_norm"),
        value_norm=PowerRMSNorm(head_dim, "v_norm", affine=False),
        window=fields.size("sliding_window", default=512) if kind == LOCAL else None,
        keys_are_values=same,
        shared=shared,
        values_first=True,
        tables=("cos", "sin") if kind == LOCAL else ("cos_global", "sin_global"),
    )


def per_layer_input(fields: Fields, hidden: int, count: int, activation: str) -> PerLayerInput | None:
    """What each layer does with its own embedding, where `hidden_size_per_layer_input` is not 0."""
    width = fields.size("hidden_size_per_layer_input", default=256, least=0)
    if not width:
        return None
    return PerLayerInput(hidden, width, count, activation, PowerRMSNorm(hidden, "post_per_layer_input_norm"))


def per_layer_embedding(
    fields: Fields, vocabulary: int, hidden: int, own: PerLayerInput | None, in_place: bool
) -> Embedding:
    """The table of tokens, and the one of all layers where they have embeddings of their own."""
    if own is None:
        return Embedding(vocabulary, hidden, scaled=True)
    return PerLayerEmbedding(
        vocabulary,
        hidden,
        scaled=True,
        layer_vocabulary=fields.size("vocab_size_per_layer_input", default=262_144),
        layer_width=own.width,
        layers=own.layers,
        layer_norm=PowerRMSNorm(own.width, "per_layer_projection_norm"),
        in_place=in_place,
    )


def gemma3n_text(fields: Fields, name: str | None) -> Model:
    """The text layers of Gemma 3n: several hidden states, learned residuals, sparse gates in the first layers."""
    hidden, count = fields.size("hidden_size", default=2048), fields.size("num_hidden_layers", default=35)
    heads = fields.size("num_attention_heads", default=8)
    kv_heads, head_dim = fields.size("num_key_value_heads", default=2), fields.size("head_dim", default=256)
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    kinds = local_and_global(fields, count, every=5)
    first = first_shared(fields, kinds, default=15)
    activation = fields.text("hidden_activation", default="gelu_pytorch_tanh")
    own = PerLayerInput(
        hidden,
        fields.size("hidden_size_per_layer_input", default=256),
        count,
        activation,
        PowerRMSNorm(hidden, "post_per_layer_input_norm"),
    )
    streams = fields.size("altup_num_inputs", default=4, most=64)
    updates = AlternatingUpdates(
        hidden,
        streams,
        PowerRMSNorm(hidden, "altup.router_norm"),
        fields.flag("altup_correct_scale", default=True),
        "altup_coef_clip" not in fields.values or fields.has("altup_coef_clip"),
    )
    learned = LearnedResidual(
        hidden, fields.size("laurel_rank", default=64), PowerRMSNorm(hidden, "laurel.post_laurel_norm")
    )
    bias = fields.flag("attention_bias")
    window = fields.size("sliding_window", default=512)

    def make(key: tuple[str, bool, int, bool]) -> Block:
        kind, shared, wide, sparse = key
        attention = NormedAttention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            query_norm=PowerRMSNorm(head_dim, "q_norm"),
            key_norm=PowerRMSNorm(head_dim, "k_norm"),
            value_norm=PowerRMSNorm(head_dim, "v_norm", affine=False),
            window=window if kind == LOCAL else None,
            shared=shared,
            tables=("cos", "sin") if kind == LOCAL else ("cos_global", "sin_global"),
        )
        feed_forward = (TopFeedForward if sparse else GatedFeedForward)(hidden, wide, activation)
        return AlternatingBlock(attention, feed_forward, _norms(hidden), updates, learned, own)

    widths, sparse = _widths(fields, count), _sparse(fields, count)
    layers = stack([(kinds[i], i >= first, widths[i], sparse[i]) for i in range(count)], make)
    vocabulary = fields.size("vocab_size", default=262_400)
    tied = fields.flag("tie_word_embeddings", default=True)
    capped = "final_logit_softcapping" not in fields.values or fields.has("final_logit_softcapping")
    model = finish(
        fields,
        name,
        StreamsEmbedding(
            vocabulary,
            hidden,
            scaled=True,
            layer_vocabulary=fields.size("vocab_size_per_layer_input", default=262_144),
            layer_width=own.width,
            layers=count,
            layer_norm=PowerRMSNorm(own.width, "per_layer_projection_norm"),
            in_place=True,
            streams=streams,
        ),
        layers,
        StreamsHead(vocabulary, hidden, tied, PowerRMSNorm(hidden, "norm"), softcap=capped, streams=streams),
        tables=tuple((name, head_dim) for name in ("cos", "sin", "cos_global", "sin_global")),
    )
    return replace(model, inputs=(("per_layer", own.width * count),), streams=streams)


def _widths(fields: Fields, count: int) -> list[int]:
    """`intermediate_size` is a figure for all layers or a list of one for each."""
    if not isinstance(fields.values.get("intermediate_size"), list):
        return [fields.size("intermediate_size", default=16_384)] * count
    listed = fields.items("intermediate_size", length=count) or []
    return [Fields({"intermediate_size": each}, fields.path).size("intermediate_size") for each in listed]


def _sparse(fields: Fields, count: int) -> list[bool]:
    """Whether a layer's gate is sparse: `activation_sparsity_pattern`, or the first ten of more than ten layers."""
    listed = fields.items("activation_sparsity_pattern", length=count)
    if listed is None:
        return [index < 10 and count > 10 for index in range(count)]
    return [isinstance(each, (int, float)) and each > 0 for each in listed]


def gemma4_vision(fields: Fields, text_width: int) -> Tower:
    """The vision tower: patches, a table of positions for each axis, blocks like the text's, and a projection."""
    width, wide = fields.size("hidden_size", default=768), fields.size("intermediate_size", default=3072)
    heads, head_dim = fields.size("num_attention_heads", default=12), fields.size("head_dim", default=64)
    keys = fields.size("num_key_value_heads", default=12) * head_dim
    block = (
        *matrix("encoder.layers.self_attn.q_proj.linear", heads * head_dim, width, False),
        *matrix("encoder.layers.self_attn.k_proj.linear", keys, width, False),
        *matrix("encoder.layers.self_attn.v_proj.linear", keys, width, False),
        *matrix("encoder.layers.self_attn.o_proj.linear", width, heads * head_dim, False),
        *layer_norm("encoder.layers.self_attn.q_norm", head_dim, False),
        *layer_norm("encoder.layers.self_attn.k_norm", head_dim, False),
        *matrix("encoder.layers.mlp.gate_proj.linear", wide, width, False),
        *matrix("encoder.layers.mlp.up_proj.linear", wide, width, False),
        *matrix("encoder.layers.mlp.down_proj.linear", width, wide, False),
        *layer_norm("encoder.layers.norms", width, False, count=4),
    )
    return Tower(
        "vision",
        (
            *matrix("patch_embedder.input_proj", width, 3 * fields.size("patch_size", default=16) ** 2, False),
            table(
                "patch_embedder.position_embedding_table",
                2,
                fields.size("position_embedding_size", default=10_240),
                width,
            ),
            *times(block, fields.size("num_hidden_layers", default=16)),
            *matrix("embed_vision.embedding_projection", text_width, width, False),
        ),
    )


def gemma4(fields: Fields, name: str | None) -> Model:
    """Gemma 4 with the towers that its configuration has."""
    text = text_of(fields)
    model = gemma4_text(text, name)
    towers: list[Tower] = []
    if fields.has("vision_config"):
        towers.append(gemma4_vision(fields.inner("vision_config"), model.embedding.width))
    return completed(fields, model, tuple(towers))


READERS: dict[str, Reader] = {
    "gemma3n_text": gemma3n_text,
    "gemma4": gemma4,
    "gemma4_text": gemma4_text,
}
