"""Encoders: BERT, RoBERTa, DistilBERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..layers.attention import Projections
from ..layers.encoders import (
    BareHead,
    DistilBlock,
    EarlyNormBlock,
    EncoderAttention,
    EncoderBlock,
    EncoderEmbedding,
    EncoderFeedForward,
    MaskedHead,
    PoolingHead,
    StatedBlock,
    dense,
)
from ..layers.ends import Head
from ..layers.feed_forward import FeedForward
from ..layers.norms import LayerNorm
from ..model import Model
from ..tensors import Tensor
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader

SIZES: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}


NAMES = Projections("self.query", "self.key", "self.value", "output.dense")


@dataclass(frozen=True, slots=True)
class Style:
    """What sets one of BERT's kin apart.

    transform, transform_norm   names of the head's first matrix and of its norm
    early       whether norms come before the parts they norm, and after all layers
    normed      whether the embedding has a norm
    inside, fed_dropout   see EarlyNormBlock
    last_norm   name of the norm after all layers, where they have one
    attention_norm, feed_norm   names of a layer's two norms
    names       of its attention
    output      name of the matrix that joins the heads
    bare_pooled whether the model without a head has a matrix for the first token
    pooled      whether the model with a head has it too
    """

    transform: str = "cls.predictions.transform.dense"
    transform_norm: str = "cls.predictions.transform.LayerNorm"
    early: bool = False
    inside: bool = False
    fed_dropout: bool = True
    normed: bool = True
    last_norm: str = ""
    attention_norm: str = "attention.output.LayerNorm"
    feed_norm: str = "output.LayerNorm"
    names: Projections = NAMES
    bare_pooled: bool = True
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class Extra:
    """Further tensors, by what holds them."""

    attention: tuple[Tensor, ...] = ()
    layer: tuple[Tensor, ...] = ()
    embedding: tuple[Tensor, ...] = ()
    model: tuple[Tensor, ...] = ()


BERT = Style()
ROBERTA = Style("lm_head.dense", "lm_head.layer_norm")
NONE = Extra()


def bare(fields: Fields) -> bool:
    """Whether `architectures` names the model without a head."""
    named = fields.values.get("architectures")
    return isinstance(named, list) and any(isinstance(each, str) and each.endswith("Model") for each in named)


def bert(fields: Fields, name: str | None) -> Model:
    """BERT with its head over the vocabulary, or bare where `architectures` says BertModel."""
    return bert_like(with_defaults(fields, **SIZES), name)


def roberta(fields: Fields, name: str | None) -> Model:
    """RoBERTa: BERT under other names, two positions more than tokens."""
    return bert_like(with_defaults(fields, **{**SIZES, "vocab_size": 50265}), name, ROBERTA)


def xlm_roberta(fields: Fields, name: str | None) -> Model:
    """XLM-RoBERTa, CamemBERT and data2vec for text: RoBERTa's layers, whose vocabulary is BERT's by default."""
    return bert_like(with_defaults(fields, **SIZES), name, ROBERTA)


def ibert(fields: Fields, name: str | None) -> Model:
    """I-BERT before it is quantized: XLM-RoBERTa, eager."""
    return bert_like(with_defaults(fields, **SIZES), name, ROBERTA, sdpa=False)


def bert_like(
    fields: Fields,
    name: str | None,
    style: Style = BERT,
    extra: Extra = NONE,
    *,
    mixer: EncoderAttention | None = None,
    embedded: int = 0,
    projection: str = "embeddings_project",
    inner: int = 0,
    bias: bool = True,
    counted_positions: bool = True,
    sdpa: bool = True,
    stated: tuple[Tensor, ...] | None = None,
    hands_back: bool = True,
    **more: Any,
) -> Model:
    """What they have in common.

    mixer     the attention, where it is not BERT's
    embedded  width of the tables, where it is not that of the layers; `inner` that of the head
    stated    tensors of a layer, where they are not BERT's
    hands_back   whether an eager layer's attention weights live until the next is through
    """
    hidden = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    dropout = fields.number("hidden_dropout_prob", default=0.1)
    attention = mixer or EncoderAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=bias,
        output_bias=True,
        names=style.names,
        prefix="attention",
        rotary_dim=0,
        causal=False,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
        stored=extra.attention,
        lasting=not sdpa,
    )
    activation = fields.text("hidden_act", default="gelu")
    wide = fields.size("intermediate_size")
    feed_forward = EncoderFeedForward(hidden, wide, activation, up="intermediate.dense", down="output.dense", prefix="")
    norms = (LayerNorm(hidden, style.attention_norm), LayerNorm(hidden, style.feed_norm))
    block = EncoderBlock(attention, feed_forward, norms, dropout, extra.layer)
    if stated is not None:
        block = StatedBlock(attention, feed_forward, norms, dropout, stated)
    elif style.early:
        inside, dropped = style.inside, style.fed_dropout
        block = EarlyNormBlock(attention, feed_forward, norms, dropout, inside=inside, fed_dropout=dropped)
    vocabulary = fields.size("vocab_size")
    positions = fields.size("max_position_embeddings") if counted_positions else 0
    width = embedded or hidden
    return finish(
        fields,
        name,
        EncoderEmbedding(
            vocabulary,
            width,
            name="word_embeddings",
            positions=positions,
            position_name="position_embeddings",
            types=fields.size("type_vocab_size", default=0, least=0),
            norm=LayerNorm(width, "embeddings.LayerNorm") if style.normed else None,
            dropout=dropout,
            projected=hidden if width != hidden else 0,
            projection=projection,
            outside=projection.startswith("encoder."),
            stored=extra.embedding,
        ),
        (block,) * fields.size("num_hidden_layers"),
        headed(fields, style, vocabulary, hidden, activation, inner or width, extra.model),
        max_context=fields.optional("max_position_embeddings"),
        unmasked=True,
        sdpa=sdpa,
        holds_outputs=not sdpa and hands_back,
        **more,
    )


def headed(
    fields: Fields, style: Style, vocabulary: int, hidden: int, activation: str, inner: int, stored: tuple[Tensor, ...]
) -> Head:
    """The head over the vocabulary, or what a bare model has in its place."""
    last = LayerNorm(hidden, style.last_norm) if style.last_norm else None
    if bare(fields):
        if style.bare_pooled:
            return PoolingHead(vocabulary, hidden, True, last, narrow_loss=True, stored=stored)
        return BareHead(vocabulary, hidden, True, last, narrow_loss=True, stored=stored)
    if style.pooled:
        stored = (*stored, *dense("pooler.dense", hidden, hidden, "other"))
    return MaskedHead(
        vocabulary,
        hidden,
        fields.flag("tie_word_embeddings", default=True),
        last,
        "cls.predictions.decoder",
        narrow_loss=True,
        activation=activation,
        transform=style.transform,
        transform_norm=style.transform_norm,
        inner=0 if inner == hidden else inner,
        stored=stored,
    )


def lin_attention(fields: Fields, hidden: int, heads: int, head_dim: int) -> EncoderAttention:
    """Attention of the layers that DistilBERT took over from XLM, under their names."""
    return EncoderAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections("q_lin", "k_lin", "v_lin", "out_lin"),
        prefix="attention",
        rotary_dim=0,
        causal=False,
        dropout=fields.number("attention_dropout", default=0.1),
    )


def distilbert(fields: Fields, name: str | None) -> Model:
    """DistilBERT: BERT without token types, under other names."""
    fields = with_defaults(
        fields, vocab_size=30522, dim=768, n_layers=6, n_heads=12, hidden_dim=3072, max_position_embeddings=512
    )
    hidden = fields.size("dim", "hidden_size")
    heads = fields.size("n_heads", "num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("dim", "n_heads"))
    dropout = fields.number("dropout", default=0.1)
    attention = lin_attention(fields, hidden, heads, head_dim)
    activation = fields.text("activation", default="gelu")
    feed_forward = FeedForward(hidden, fields.size("hidden_dim"), activation, up="lin1", down="lin2", prefix="ffn")
    norms = (LayerNorm(hidden, "sa_layer_norm"), LayerNorm(hidden, "output_layer_norm"))
    block = DistilBlock(attention, feed_forward, norms, dropout)
    vocabulary, positions = fields.size("vocab_size"), fields.size("max_position_embeddings")
    return finish(
        fields,
        name,
        EncoderEmbedding(
            vocabulary,
            hidden,
            name="word_embeddings",
            positions=positions,
            position_name="position_embeddings",
            norm=LayerNorm(hidden, "embeddings.LayerNorm"),
            dropout=dropout,
        ),
        (block,) * fields.size("n_layers", "num_hidden_layers"),
        BareHead(vocabulary, hidden, True, None, narrow_loss=True)
        if bare(fields)
        else MaskedHead(
            vocabulary,
            hidden,
            fields.flag("tie_word_embeddings", default=True),
            None,
            "vocab_projector",
            narrow_loss=True,
            activation=activation,
            transform="vocab_transform",
            transform_norm="vocab_layer_norm",
        ),
        max_context=positions,
        unmasked=True,
    )


READERS: dict[str, Reader] = {
    "bert": bert,
    "camembert": xlm_roberta,
    "data2vec-text": xlm_roberta,
    "distilbert": distilbert,
    "ibert": ibert,
    "roberta": roberta,
    "xlm-roberta": xlm_roberta,
}
