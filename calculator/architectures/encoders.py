"""Encoders: BERT, RoBERTa, DistilBERT."""

from __future__ import annotations

from ..layers.attention import Projections
from ..layers.encoders import (
    DistilBlock,
    EncoderAttention,
    EncoderBlock,
    EncoderEmbedding,
    EncoderFeedForward,
    MaskedHead,
    PoolingHead,
)
from ..layers.ends import Head
from ..layers.feed_forward import FeedForward
from ..layers.norms import LayerNorm
from ..model import Model
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader


def bert(fields: Fields, name: str | None) -> Model:
    """BERT with its head over the vocabulary, or bare where `architectures` says BertModel."""
    fields = with_defaults(
        fields,
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
        type_vocab_size=2,
    )
    return bert_like(fields, name)


def roberta(fields: Fields, name: str | None) -> Model:
    """RoBERTa and XLM-RoBERTa: BERT under other names, two positions more than tokens."""
    fields = with_defaults(
        fields,
        vocab_size=50265,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
        type_vocab_size=2,
    )
    return bert_like(fields, name, "lm_head.dense", "lm_head.layer_norm")


def bert_like(
    fields: Fields,
    name: str | None,
    transform: str = "cls.predictions.transform.dense",
    transform_norm: str = "cls.predictions.transform.LayerNorm",
) -> Model:
    """What the two have in common."""
    hidden = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    dropout = fields.number("hidden_dropout_prob", default=0.1)
    attention = EncoderAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections("self.query", "self.key", "self.value", "output.dense"),
        prefix="attention",
        rotary_dim=0,
        causal=False,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
    )
    activation = fields.text("hidden_act", default="gelu")
    wide = fields.size("intermediate_size")
    feed_forward = EncoderFeedForward(hidden, wide, activation, up="intermediate.dense", down="output.dense", prefix="")
    norms = (LayerNorm(hidden, "attention.output.LayerNorm"), LayerNorm(hidden, "output.LayerNorm"))
    block = EncoderBlock(attention, feed_forward, norms, dropout)
    vocabulary, positions = fields.size("vocab_size"), fields.size("max_position_embeddings")
    named = fields.values.get("architectures")
    bare = isinstance(named, list) and any(isinstance(each, str) and each.endswith("Model") for each in named)
    tied = fields.flag("tie_word_embeddings", default=True)
    head: Head = PoolingHead(vocabulary, hidden, True, None, narrow_loss=True)
    if not bare:
        head = MaskedHead(
            vocabulary,
            hidden,
            tied,
            None,
            "cls.predictions.decoder",
            narrow_loss=True,
            activation=activation,
            transform=transform,
            transform_norm=transform_norm,
        )
    return finish(
        fields,
        name,
        EncoderEmbedding(
            vocabulary,
            hidden,
            name="word_embeddings",
            positions=positions,
            position_name="position_embeddings",
            types=fields.size("type_vocab_size"),
            norm=LayerNorm(hidden, "embeddings.LayerNorm"),
            dropout=dropout,
        ),
        (block,) * fields.size("num_hidden_layers"),
        head,
        max_context=positions,
        unmasked=True,
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
    attention = EncoderAttention(
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
        MaskedHead(
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
    "distilbert": distilbert,
    "roberta": roberta,
    "xlm-roberta": roberta,
}
