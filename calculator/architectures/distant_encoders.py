"""Encoders whose scores know how far apart two tokens are: DeBERTa, XLNet, Funnel Transformer."""

from __future__ import annotations

from ..layers.attention import Projections
from ..layers.encoders import (
    BareHead,
    DistantAttention,
    EncoderEmbedding,
    EncoderFeedForward,
    ShiftedAttention,
    StatedBlock,
    dense,
)
from ..layers.ends import Head
from ..layers.norms import LayerNorm
from ..model import Model
from ..tensors import Tensor
from .encoder_kin import table
from .encoders import SIZES, Extra, Style, bare, bert_like
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader


def xlnet(fields: Fields, name: str | None) -> Model:
    """XLNet: attention with relative positions, whose matrices are plain parameters; the head is the table with a
    bias. Its activations are answered by Funnel's program."""
    fields = with_defaults(fields, vocab_size=32000, d_model=1024, n_layer=24, n_head=16, d_inner=4096)
    hidden, heads, wide = fields.size("d_model"), fields.size("n_head", most=4_096), fields.size("d_inner")
    head_dim = fields.divides(hidden, heads, ("d_model", "n_head"))
    shape = (hidden, heads, head_dim)
    roles = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "r": "other"}
    stated = (
        *(Tensor(f"rel_attn.{part}", shape, "attention", role) for part, role in roles.items()),
        *(Tensor(f"rel_attn.r_{part}_bias", shape[1:], "attention", "bias") for part in "rsw"),
        Tensor("rel_attn.seg_embed", (2, *shape[1:]), "attention", "position"),
        *LayerNorm(hidden, "rel_attn.layer_norm").tensors(),
        *LayerNorm(hidden, "ff.layer_norm").tensors(),
        *dense("ff.layer_1", wide, hidden, "mlp_dense", "ffn_up"),
        *dense("ff.layer_2", hidden, wide, "mlp_dense", "ffn_down"),
    )
    return _relative(
        fields,
        name,
        (heads, head_dim),
        (hidden, wide, fields.text("ff_activation", default="gelu")),
        (stated,) * fields.size("n_layer", most=10_000),
        EncoderEmbedding(
            fields.size("vocab_size"),
            hidden,
            name="word_embedding",
            dropout=fields.number("dropout", default=0.1),
            stored=(Tensor("mask_emb", (1, 1, hidden), "embedding", "other"),),
        ),
        "lm_loss",
    )


def funnel(fields: Fields, name: str | None) -> Model:
    """Funnel Transformer: blocks, each of half as many positions as the one before, and a small decoder at full
    length. Its activations are answered as if all layers were at full length."""
    fields = with_defaults(fields, vocab_size=30522, d_model=768, n_head=12, d_head=64, d_inner=3072)
    hidden, heads, wide = fields.size("d_model"), fields.size("n_head", most=4_096), fields.size("d_inner")
    head_dim = fields.size("d_head")
    inner = heads * head_dim
    stated = (
        Tensor("attention.r_w_bias", (heads, head_dim), "attention", "bias"),
        Tensor("attention.r_r_bias", (heads, head_dim), "attention", "bias"),
        Tensor("attention.r_kernel", (hidden, heads, head_dim), "attention", "other"),
        Tensor("attention.r_s_bias", (heads, head_dim), "attention", "bias"),
        Tensor("attention.seg_embed", (2, heads, head_dim), "attention", "position"),
        Tensor("attention.q_head.weight", (inner, hidden), "attention", "attn_q", True),
        *dense("attention.k_head", inner, hidden, "attention", "attn_k"),
        *dense("attention.v_head", inner, hidden, "attention", "attn_v"),
        *dense("attention.post_proj", hidden, inner, "attention", "attn_output"),
        *LayerNorm(hidden, "attention.layer_norm").tensors(),
        *dense("ffn.linear_1", wide, hidden, "mlp_dense", "ffn_up"),
        *dense("ffn.linear_2", hidden, wide, "mlp_dense", "ffn_down"),
        *LayerNorm(hidden, "ffn.layer_norm").tensors(),
    )
    blocks = fields.items("block_sizes") or [4, 4, 4]
    if any(isinstance(each, bool) or not isinstance(each, int) or not 1 <= each <= 10_000 for each in blocks):
        fields.refuse("block_sizes", "must hold whole numbers of at least 1")
    repeats = fields.items("block_repeats", length=len(blocks)) or [1] * len(blocks)
    if any(isinstance(each, bool) or not isinstance(each, int) or not 1 <= each <= 10_000 for each in repeats):
        fields.refuse("block_repeats", "must hold whole numbers of at least 1")
    if sum(size * times for size, times in zip(blocks, repeats, strict=True)) > 10_000:
        fields.refuse("block_sizes", "must come to at most 10,000 layers")
    layers: list[tuple[Tensor, ...]] = []
    for size, times in zip(blocks, repeats, strict=True):
        layers += [stated] * size + [()] * (size * (times - 1))
    layers += [stated] * fields.size("num_decoder_layers", default=2, most=10_000, least=0)
    return _relative(
        fields,
        name,
        (heads, head_dim),
        (hidden, wide, fields.text("hidden_act", default="gelu_new")),
        tuple(layers),
        EncoderEmbedding(
            fields.size("vocab_size"),
            hidden,
            name="word_embeddings",
            norm=LayerNorm(hidden, "embeddings.layer_norm"),
            dropout=fields.number("hidden_dropout", default=0.1),
        ),
        "lm_head",
    )


def _relative(
    fields: Fields,
    name: str | None,
    heads: tuple[int, int],
    sizes: tuple[int, int, str],
    stated: tuple[tuple[Tensor, ...], ...],
    embedding: EncoderEmbedding,
    head_name: str,
) -> Model:
    """Layers whose tensors are stated, in BERT's order, and a head that is the table with a bias."""
    hidden, wide, activation = sizes
    attention = ShiftedAttention(
        hidden, heads[0], heads[0], heads[1], bias=True, output_bias=True, rotary_dim=0, causal=False, widened=True
    )
    feed_forward = EncoderFeedForward(hidden, wide, activation, up="up", down="down", prefix="")
    norms = (LayerNorm(hidden), LayerNorm(hidden))
    made = {each: StatedBlock(attention, feed_forward, norms, embedding.dropout, each) for each in set(stated)}
    tied = fields.flag("tie_word_embeddings", default=True)
    vocabulary = embedding.vocabulary
    head = BareHead if bare(fields) else Head
    return finish(
        fields,
        name,
        embedding,
        tuple(made[each] for each in stated),
        head(vocabulary, hidden, tied, None, head_name, bias=head is Head, narrow_loss=True),
        max_context=fields.optional("max_position_embeddings"),
        unmasked=True,
        sdpa=False,
    )


# ---------------------------------------------------------------------- disentangled attention


def deberta(fields: Fields, name: str | None) -> Model:
    """DeBERTa: scores of contents with positions beside those of contents, from one table of distances; transformers
    runs it eager."""
    fields = with_defaults(fields, **{**SIZES, "vocab_size": 50265, "type_vocab_size": 0})
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kinds, span = distances(fields)
    path = "attention.self"
    stored: list[Tensor] = []
    if fields.flag("talking_head"):
        stored += [
            Tensor(f"{path}.head_{part}_proj.weight", (heads, heads), "attention", "other", True)
            for part in ("logits", "weights")
        ]
    if span and "c2p" in kinds:
        stored.append(Tensor(f"{path}.pos_proj.weight", (hidden, hidden), "attention", "other", True))
    if span and "p2c" in kinds:
        stored += dense(f"{path}.pos_q_proj", hidden, hidden, "attention")
    stored += [Tensor(f"{path}.{part}_bias", (hidden,), "attention", "bias") for part in "qv"]
    attention = DistantAttention(
        hidden,
        heads,
        heads,
        fields.divides(hidden, heads, ("hidden_size", "num_attention_heads")),
        output_bias=True,
        names=Projections(fused="self.in_proj", output="output.dense"),
        prefix="attention",
        rotary_dim=0,
        causal=False,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
        stored=tuple(stored),
        span=2 * span,
        kinds=len(kinds) if span else 0,
    )
    tables = (table("encoder.rel_embeddings", 2 * span, hidden),) if span else ()
    return _deberta(fields, name, attention, tables)


def deberta_v2(fields: Fields, name: str | None) -> Model:
    """DeBERTa v2 and v3: DeBERTa with distances in buckets, a norm over their table, perhaps matrices shared with the
    contents and a convolution after the first layer; transformers runs it eager."""
    defaults = {
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "type_vocab_size": 0,
    }
    fields = with_defaults(fields, **{**SIZES, **defaults})
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kinds, span = distances(fields)
    head_dim = fields.size("attention_head_size", default=0) or fields.divides(
        hidden, heads, ("hidden_size", "num_attention_heads")
    )
    stored: list[Tensor] = []
    if span and not fields.flag("share_att_key"):
        wide = heads * head_dim
        if "c2p" in kinds:
            stored += dense("attention.self.pos_key_proj", wide, hidden, "attention")
        if "p2c" in kinds:
            stored += dense("attention.self.pos_query_proj", wide, hidden, "attention")
    attention = DistantAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections("self.query_proj", "self.key_proj", "self.value_proj", "output.dense"),
        prefix="attention",
        rotary_dim=0,
        causal=False,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
        stored=tuple(stored),
        span=2 * span,
        kinds=len(kinds) if span else 0,
    )
    held: list[Tensor] = [table("encoder.rel_embeddings", 2 * span, hidden)] if span else []
    if "layer_norm" in fields.text("norm_rel_ebd", default="none").lower():
        held += LayerNorm(hidden, "encoder.LayerNorm").tensors()
    kernel = fields.size("conv_kernel_size", default=0, least=0, most=10**4)
    if kernel:
        groups = fields.size("conv_groups", default=1)
        part = fields.divides(hidden, groups, ("hidden_size", "conv_groups"))
        held.append(Tensor("encoder.conv.conv.weight", (hidden, part, kernel), "other", "other"))
        held.append(Tensor("encoder.conv.conv.bias", (hidden,), "other", "bias"))
        held += LayerNorm(hidden, "encoder.conv.LayerNorm").tensors()
    return _deberta(fields, name, attention, tuple(held))


def distances(fields: Fields) -> tuple[tuple[str, ...], int]:
    """Which scores of positions there are, and half the rows of their table: 0 where attention is not relative."""
    named = fields.values.get("pos_att_type") or ()
    if isinstance(named, str):
        named = named.lower().split("|")
    if not isinstance(named, list | tuple) or not all(isinstance(each, str) for each in named):
        fields.refuse("pos_att_type", "must be a list of c2p and p2c")
    kinds = tuple(kind for kind in ("c2p", "p2c") if kind in [each.strip() for each in named])
    if not fields.flag("relative_attention"):
        return kinds, 0
    span = fields.size("position_buckets", default=-1, least=-1, most=10**6)
    if span < 1:
        span = fields.size("max_relative_positions", default=-1, least=-1, most=10**6)
    return kinds, span if span > 0 else fields.size("max_position_embeddings")


def _deberta(fields: Fields, name: str | None, attention: DistantAttention, held: tuple[Tensor, ...]) -> Model:
    hidden = fields.size("hidden_size")
    positions = fields.flag("position_biased_input", default=True)
    embedded = fields.size("embedding_size", default=hidden)
    return bert_like(
        fields,
        name,
        Style(bare_pooled=False),
        Extra(model=held),
        mixer=attention,
        embedded=embedded,
        projection="embeddings.embed_proj",
        counted_positions=positions,
        sdpa=False,
        hands_back=False,
    )


READERS: dict[str, Reader] = {
    "deberta": deberta,
    "deberta-v2": deberta_v2,
    "funnel": funnel,
    "xlnet": xlnet,
}
