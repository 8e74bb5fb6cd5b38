"""The latest families: Mistral 4 and Large 4, dots 3, Hy 4, Qwen 4."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

from ..layers.blocks import Block, PreNormBlock
from ..layers.experts import Experts
from ..layers.feed_forward import GatedFeedForward
from ..layers.latent import LatentAttention
from ..layers.linear_attention import GatedDeltaNet
from ..layers.newest import (
    GatedResidual,
    GatedStreamBlock,
    GatedStreamHead,
    GramTables,
    HeadGatedLatentAttention,
    LimitedSoftmaxRouter,
    PickedGatedAttention,
    SinkLatentAttention,
    StretchedLatentAttention,
    UnmixedStreamHead,
    UnmixedStreams,
)
from ..layers.streams import FirstClampedExperts, StreamBlock, StreamEmbedding
from ..model import Model
from .experts import deepseek_mixture, ends, expert_counts, stack, two_norms
from .fields import Fields, with_defaults
from .latent import deepseek, indexed, indexer_kinds, latent_sizes, pairing, sigmoid_router, sparse_layers
from .linear_attention import (
    alternating,
    completed,
    delta_net,
    gated_attention,
    qwen3_tower,
    shared_mixture,
    text_of,
    with_default,
)
from .llama import finish
from .table import Reader
from .vision import pixtral_projector, pixtral_tower


def limited_router(fields: Fields, hidden: int, normal: bool, wide: bool = False) -> LimitedSoftmaxRouter:
    """The router of a configuration with Mistral 4's names."""
    experts, chosen = expert_counts(
        fields, "n_routed_experts", "num_local_experts", "num_experts", chosen=4, experts=128
    )
    groups = fields.size("n_group", default=1)
    if fields.divides(experts, groups, ("n_routed_experts", "n_group")) < 2:
        fields.refuse("n_group", "must leave two experts to a group")
    best = fields.size("topk_group", default=1, most=groups)
    return LimitedSoftmaxRouter(hidden, experts, chosen, normal=normal, groups=groups, best=best, wide=wide)


def mistral4(fields: Fields, name: str | None) -> Model:
    """Mistral 4: DeepSeek's plan with softmax routing, and queries multiplied by a factor of their position."""
    fields = with_defaults(
        fields,
        vocab_size=131072,
        hidden_size=4096,
        num_hidden_layers=36,
        num_attention_heads=32,
        kv_lora_rank=256,
        max_position_embeddings=1048576,
    )
    attention = LatentAttention(**latent_sizes(fields, 1024, 64, 128), pairs=pairing(fields), stretched=True)
    router = limited_router(fields, attention.hidden, fields.flag("norm_topk_prob", default=True))
    layers = [attention] * fields.size("num_hidden_layers")
    return deepseek(fields, name, layers, router, wide=2048, first=0, dense_wide=12288, adapted_stacks=False)


def sources(fields: Fields, count: int) -> list[bool]:
    """Whether each layer makes latents of its own, by `kv_source_layers`."""
    listed = fields.items("kv_source_layers", length=count)
    if listed is None:
        return [True] * count
    for index, source in enumerate(listed):
        whole = isinstance(source, int) and not isinstance(source, bool)
        if not whole or not 0 <= source <= index or listed[source] != source:
            fields.refuse("kv_source_layers", "must name, for each layer, itself or an earlier one that names itself")
    return [source == index for index, source in enumerate(listed)]


def mistral_large4_text(fields: Fields, name: str | None) -> Model:
    """Mistral Large 4: Mistral 4 with picked keys, layers without rotation, and latents that layers may share.

    Shared latents are held by the layer that makes them; what their gradients add up to on the way back is left out:
    with checkpointing such a model needed 3 % more.
    The router's matrix is counted in the precision of the rest, where transformers keeps it in float32.
    """
    fields = with_defaults(
        fields,
        vocab_size=204800,
        hidden_size=6144,
        num_hidden_layers=72,
        num_attention_heads=64,
        max_position_embeddings=1048576,
    )
    count = fields.size("num_hidden_layers")
    sizes = {**latent_sizes(fields, 0, 64, 128), "query_rank": 0}
    base = StretchedLatentAttention(
        **sizes,
        index_heads=fields.size("index_n_heads", default=32),
        index_dim=fields.size("index_head_dim", default=128, least=sizes["rotary"]),
        most=fields.size("index_topk", default=2048),
        index_pairs="interleaved",
    )
    picks = indexer_kinds(fields, count)
    if not picks[0]:
        fields.refuse("indexer_types", "must give the first layer an indexer of its own")
    listed = fields.items("no_rope_layers")
    if listed is not None and len(listed) < count:
        fields.refuse("no_rope_layers", f"must have an entry for each of {count} layers")
    every = fields.size("no_rope_layer_interval", default=4)
    turns = [bool(listed[i]) if listed is not None else (i + 1) % every != 0 for i in range(count)]
    made: dict[tuple[bool, bool, bool], StretchedLatentAttention] = {}
    layers: list[StretchedLatentAttention] = []
    for key in zip(picks, turns, sources(fields, count), strict=True):
        if key not in made:
            full, turned, own = key
            layer = replace(base, indexer=full, own=own)
            made[key] = layer if turned else replace(layer, plain=base.plain + base.rotary, rotary=0)
        layers.append(made[key])
    router = limited_router(fields, base.hidden, True, wide=True)
    tables = (("cos", base.rotary), ("sin", base.rotary))
    model = deepseek(
        fields,
        name,
        layers,
        router,
        wide=6144,
        first=1,
        dense_wide=24576,
        tables=tables,
        adapted_stacks=False,
        masked=True,
    )
    return replace(model, head=replace(model.head, softcap=True))


def mistral_large4(fields: Fields, name: str | None) -> Model:
    """Mistral Large 4 with Pixtral's tower, as Mistral Small 3.1 has it."""
    text = text_of(fields)
    text = Fields({**text.values, "tie_word_embeddings": fields.flag("tie_word_embeddings")}, text.path)
    model = mistral_large4_text(text, name)
    seen = with_default(
        fields.inner("vision_config"),
        **({} if fields.has("vision_config") else LARGE_TOWER),
    )
    return completed(fields, model, (pixtral_tower(seen), pixtral_projector(fields, seen, model.hidden)))


LARGE_TOWER = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 30, "patch_size": 14}


def hy_v4(fields: Fields, name: str | None) -> Model:
    """Hy 4: latent attention with picked keys, sinks and a gate, clamped experts, and streams that are not mixed.

    transformers keeps the head, the streams' matrices, the sinks and two parts of the indexer in float32 whatever the
    rest is in; here they are in the precision of the rest.
    """
    fields = with_defaults(
        fields,
        vocab_size=120832,
        hidden_size=2816,
        num_hidden_layers=34,
        num_attention_heads=32,
        max_position_embeddings=262144,
    )
    count, hidden = fields.size("num_hidden_layers"), fields.size("hidden_size")
    sizes = latent_sizes(fields, 1536, 192, 256)
    if not sizes["query_rank"]:
        fields.refuse("q_lora_rank", "must be a whole number")
    listed = fields.items("indexer_types", length=count)
    picks = [index % 4 == 1 or not index for index in range(count)]
    picks = picks if listed is None else [each == "full" for each in listed]
    if not picks[0]:
        fields.refuse("indexer_types", "must give the first layer an indexer of its own")
    own = SinkLatentAttention(
        **sizes,
        pairs="halves",
        index_heads=fields.size("index_n_heads", default=16),
        index_dim=fields.size("index_head_dim", default=128, least=sizes["rotary"]),
        most=fields.size("index_topk", default=2048),
        hands_on=True,
    )
    borrowed = replace(own, indexer=False)
    streams = fields.size("hc_mult", default=4, most=64)
    around = (
        UnmixedStreams(hidden, streams, 0, "attn_hc", "other"),
        UnmixedStreams(hidden, streams, 0, "ffn_hc", "other"),
    )
    activation = fields.text("hidden_act", default="silu")
    router = sigmoid_router(fields, hidden, 8, 256, 1, 1)
    wide, always = fields.size("moe_intermediate_size", default=768), fields.size("n_shared_experts", default=1)
    mixture = deepseek_mixture(router, always, activation, wide, False)
    mixture = replace(mixture, experts=FirstClampedExperts(hidden, wide, router.experts, router.chosen, activation))
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=6912), activation)

    def make(key: tuple[bool, bool]) -> Block:
        return StreamBlock(own if key[0] else borrowed, mixture if key[1] else dense, two_norms(hidden), around)

    keys = list(zip(picks, sparse_layers(fields, count, 1), strict=True))
    head = ends(fields, hidden)[1]
    vocabulary = head.vocabulary
    return finish(
        fields,
        name,
        StreamEmbedding(vocabulary, hidden, projected=streams * hidden),
        stack(keys, make),
        UnmixedStreamHead(vocabulary, hidden, head.tied, head.norm, streams=streams),
        rotary=own.rotary,
        sdpa=False,
    )


# The sizes of a layer with a window, which configurations name with `swa_` before them.
WINDOWED = {
    "num_attention_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "head_dim": 256,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}


def dots3_kinds(fields: Fields, count: int) -> list[str]:
    """The kind of each layer's attention: by `layer_types`, or full in the first two and every fourth."""
    listed = fields.items("layer_types", length=count)
    if listed is None:
        whole = not fields.flag("use_sliding_window", default=True)
        return ["indexed" if whole or i < 2 or i % 4 == 1 else "sliding" for i in range(count)]
    known = {"indexed_attention": "indexed", "full_attention": "indexed", "sliding_attention": "sliding"}
    if not set(map(str, listed)) <= set(known):
        fields.refuse("layer_types", f"must name the attention of each layer; known: {', '.join(known)}")
    return [known[str(each)] for each in listed]


def dots3_text(fields: Fields, name: str | None) -> Model:
    """dots 3: latent attention over picked keys in every fourth layer, in windows and with other sizes between.

    What layers keep was met to the last byte; whole steps of four small layers were met within 0.3 %, and decode steps
    past the window within 0.5 %.
    """
    fields = with_defaults(
        fields,
        vocab_size=152064,
        hidden_size=5120,
        num_hidden_layers=46,
        num_attention_heads=128,
        max_position_embeddings=524288,
    )
    for name_of in ("per_layer_config", "moe_layer_freq"):
        if fields.has(name_of) and fields.values[name_of] != 1:
            fields.refuse(name_of, "is not read by this program")
    if not fields.flag("use_dsa", default=True):
        fields.refuse("use_dsa", "must be true: layers that attend to all keys are not read by this program")
    count, hidden = fields.size("num_hidden_layers"), fields.size("hidden_size")
    own = indexed(fields, latent_sizes(fields, 1024, 128, 128), 64, "interleaved")
    base: dict[str, Any] = {each.name: getattr(own, each.name) for each in dataclass_fields(own)}
    swa = {each: fields.size(f"swa_{each}", default=size) for each, size in WINDOWED.items()}
    rotary = fields.size("swa_qk_rope_head_dim", default=max(swa["head_dim"] - swa["qk_nope_head_dim"], 0))
    if not rotary or swa["head_dim"] != swa["qk_nope_head_dim"] + rotary:
        fields.refuse("swa_head_dim", "must be swa_qk_nope_head_dim and swa_qk_rope_head_dim together")
    window = fields.size("sliding_window", "sliding_window_size", default=512)
    narrow: dict[str, Any] = {
        "heads": swa["num_attention_heads"],
        "query_rank": swa["q_lora_rank"],
        "latent": swa["kv_lora_rank"],
        "plain": swa["qk_nope_head_dim"],
        "rotary": rotary,
        "value": swa["v_head_dim"],
    }
    attentions = {
        "indexed": HeadGatedLatentAttention(**base),
        "sliding": HeadGatedLatentAttention(**{**base, **narrow, "window": window, "indexer": False}),
    }
    activation = fields.text("hidden_act", default="silu")
    router = sigmoid_router(fields, hidden, 8, 256, 1, 1)
    wide, always = fields.size("moe_intermediate_size", default=1536), fields.size("n_shared_experts", default=1)
    beside = fields.size("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size", default=1536)
    mixture = deepseek_mixture(router, always, activation, beside, False)
    mixture = replace(mixture, experts=Experts(hidden, wide, router.experts, router.chosen, activation))
    dense = GatedFeedForward(hidden, fields.size("intermediate_size", default=13824), activation)

    def make(key: tuple[str, bool]) -> Block:
        return PreNormBlock(attentions[key[0]], mixture if key[1] else dense, two_norms(hidden))

    keys = list(zip(dots3_kinds(fields, count), sparse_layers(fields, count, 1), strict=True))
    embedding, head = ends(fields, hidden)
    tables = (("cos", own.rotary), ("sin", own.rotary), ("window_cos", rotary), ("window_sin", rotary))
    return finish(fields, name, embedding, stack(keys, make), head, tables=tables, masked=True)


# ---------------------------------------------------------------------- Qwen 4

TABLES = 4_096  # tables of n-grams that a configuration may ask for
BASES = (2, 3, 5, 7)  # decide whether a number below 3,215,031,751 is prime [Jaeschke 1993]


def prime(number: int) -> bool:
    """Whether a number is prime. [Miller and Rabin]

    >>> [each for each in range(30) if prime(each)]
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    """
    if number < 11:
        return number in BASES
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in BASES:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if not any((power := power * power % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


def gram_tables(fields: Fields, hidden: int, streams: int, kinds: list[str]) -> dict[int, GramTables]:
    """Tables of n-grams by layer: every head has as many rows as the next prime."""
    listed = fields.items("ple_layer_ids") or []
    for each in listed:
        if isinstance(each, bool) or not isinstance(each, int) or not 1 <= each <= len(kinds):
            fields.refuse("ple_layer_ids", f"must hold numbers of layers from 1 to {len(kinds)}")
        if kinds[each - 1] != "linear_attention":
            fields.refuse("ple_layer_ids", "must hold layers of linear attention")
    numbers = sorted(set(listed))
    if not numbers:
        return {}
    grams = fields.size("ngram_size", default=3, least=2, most=64)
    heads = (grams - 1) * fields.size("heads_per_ngram", default=8, most=TABLES)
    if heads * len(numbers) > TABLES:
        fields.refuse("heads_per_ngram", f"must leave at most {TABLES} tables")
    width = fields.size("ple_embed_dim", default=hidden)
    fields.divides(width, heads, ("ple_embed_dim", "heads_per_ngram"))
    each = fields.size("ngram_vocab_size_base", default=20_000_000, most=2**31) - 1
    by = fields.size("make_ngram_vocab_size_divisible_by", default=128, most=2**31)
    made: dict[int, GramTables] = {}
    for number in numbers:
        rows = 0
        for _ in range(heads):
            each += 1
            while not prime(each):
                each += 1
            rows += each
        kernel = fields.size("ple_conv_kernel_size", default=4, most=65_536)
        made[number - 1] = GramTables(hidden, streams, -(-rows // by) * by, heads, width, kernel, grams)
    return made


def picking(fields: Fields) -> PickedGatedAttention:
    """Gated attention with the indexer, all of whose figures a configuration must name."""
    base = gated_attention(with_default(fields, partial_rotary_factor=1.0))
    plain = {each.name: getattr(base, each.name) for each in dataclass_fields(base)}
    if fields.size("indexer_kv_heads") != 1:
        fields.refuse("indexer_kv_heads", "must be 1")
    most, ratio = fields.size("indexer_budget"), fields.size("indexer_compress_ratio")
    fields.divides(most, ratio, ("indexer_budget", "indexer_compress_ratio"))
    heads, width = fields.size("indexer_n_heads"), fields.size("indexer_head_dim", least=base.rotary_dim or 1)
    return PickedGatedAttention(**plain, index_heads=heads, index_dim=width, most=most, ratio=ratio)


def qwen4_text(fields: Fields, name: str | None) -> Model:
    """Delta-rule layers, and attention over picked keys in every fourth; gated streams; tables of n-grams in some.

    What transformers makes on the way while it picks keys for one query after the other is not there: its shapes
    follow from values, so no run of layers with full attention could be counted, only those of the delta rule.
    """
    fields = with_default(
        fields,
        vocab_size=248320,
        hidden_size=2048,
        num_hidden_layers=40,
        num_attention_heads=16,
        max_position_embeddings=32768,
    )
    hidden, count = fields.size("hidden_size"), fields.size("num_hidden_layers")
    listed = fields.items("layer_types", length=count)
    if listed is not None:
        known = {"indexed_attention": "full_attention"}
        fields = Fields({**fields.values, "layer_types": [known.get(str(each), each) for each in listed]}, fields.path)
    kinds = alternating(fields, count)
    gate = fields.text("output_gate_type", default=fields.text("hidden_act", default="silu"))
    if gate not in ("sigmoid", "silu"):
        fields.refuse("output_gate_type", "must be sigmoid or silu")
    streams = fields.size("hc_count", default=4, least=2, most=64)
    rank = fields.size("hc_lowrank", default=320)
    around = (
        GatedResidual(hidden, streams, rank, "attn_hyper_connection"),
        GatedResidual(hidden, streams, rank, "mlp_hyper_connection"),
    )
    mixture = shared_mixture(fields, hidden, experts=512, chosen=10)
    mixers: dict[str, PickedGatedAttention | GatedDeltaNet] = {
        kind: picking(fields) if kind == "full_attention" else delta_net(fields, hidden, False) for kind in set(kinds)
    }
    tables = gram_tables(fields, hidden, streams, kinds)
    plain = {kind: GatedStreamBlock(mixer, mixture, (), around) for kind, mixer in mixers.items()}
    layers = tuple(
        replace(plain[kind], grams=tables[index]) if index in tables else plain[kind]
        for index, kind in enumerate(kinds)
    )
    vocabulary = fields.size("vocab_size")
    last = GatedResidual(hidden, streams, rank, "hyper_connection_mixer", leaves=False)
    head = GatedStreamHead(vocabulary, hidden, fields.flag("tie_word_embeddings"), None, mixer=last)
    attending = mixers.get("full_attention")
    model = finish(
        fields,
        name,
        StreamEmbedding(vocabulary, hidden, projected=streams * hidden),
        layers,
        head,
        rotary=(attending.rotary_dim or 0) if isinstance(attending, PickedGatedAttention) else 0,
        masked=True,
    )
    return replace(model, batched_tables=True)


def qwen4(fields: Fields, name: str | None) -> Model:
    """Qwen 4 with or without its vision tower, which is that of Qwen 3.5."""
    text = text_of(fields)
    model = qwen4_text(text, name)
    towers = (qwen3_tower(fields.inner("vision_config")),) if text is not fields else ()
    return completed(fields, model, towers)


READERS: dict[str, Reader] = {
    "dots3_note_text": dots3_text,
    "hy_v4": hy_v4,
    "mistral4": mistral4,
    "mistral_large4": mistral_large4,
    "mistral_large4_text": mistral_large4_text,
    "qwen4_exp": qwen4,
    "qwen4_exp_text": qwen4,
}
