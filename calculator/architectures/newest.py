"""The latest families: Mistral 4 and Qwen 4."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from dataclasses import replace

from ..layers.latent import LatentAttention
from ..layers.linear_attention import GatedDeltaNet
from ..layers.newest import (
    GatedResidual,
    GatedStreamBlock,
    GatedStreamHead,
    GramTables,
    LimitedSoftmaxRouter,
    PickedGatedAttention,
)
from ..layers.streams import StreamEmbedding
from ..model import Model
from .experts import expert_counts
from .fields import Fields, with_defaults
from .latent import deepseek, latent_sizes, pairing
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
    experts, chosen = expert_counts(fields, "n_routed_experts", "num_local_experts", chosen=4, experts=128)
    groups = fields.size("n_group", default=1)
    if fields.divides(experts, groups, ("n_routed_experts", "n_group")) < 2:
        fields.refuse("n_group", "must leave two experts to a group")
    router = LimitedSoftmaxRouter(
        attention.hidden,
        experts,
        chosen,
        normal=fields.flag("norm_topk_prob", default=True),
        groups=groups,
        best=fields.size("topk_group", default=1, most=groups),
    )
    layers = [attention] * fields.size("num_hidden_layers")
    return deepseek(fields, name, layers, router, wide=2048, first=0, dense_wide=12288, adapted_stacks=False)


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
    "mistral4": mistral4,
    "qwen4_exp": qwen4,
    "qwen4_exp_text": qwen4,
}
