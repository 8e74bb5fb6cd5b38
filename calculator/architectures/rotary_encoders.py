"""Later encoders: rotary positions, gated feed-forward layers, windows."""

from __future__ import annotations

from typing import Any

from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, PreNormBlock
from ..layers.encoders import (
    BareHead,
    EncoderAttention,
    EncoderEmbedding,
    FusedFeedForward,
    HalfBiasedFeedForward,
    InlineBlock,
    JoinedAttention,
    MaskedHead,
    RotaryEncoderBlock,
)
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.norms import LayerNorm, RMSNorm
from ..model import Model
from .encoders import ROBERTA, Style, bare, headed
from .fields import Fields, with_defaults
from .llama import attention_sizes, finish
from .table import Reader

ROTARY: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
OWN = Projections()


def nomic_bert(fields: Fields, name: str | None) -> Model:
    """Nomic BERT: rotary positions, a gated feed-forward layer, no biases in either."""
    fields = with_defaults(
        fields,
        **ROTARY,
        vocab_size=30528,
        type_vocab_size=2,
        hidden_act="silu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=2048,
    )
    style = Style(transform_norm="cls.predictions.transform.layer_norm", bare_pooled=False)
    hidden, wide = fields.size("hidden_size"), fields.size("intermediate_size")
    inner = GatedFeedForward(hidden, wide, fields.text("hidden_act", default="silu"))
    return _rotary(fields, name, style, inner, bias=False)


def gte(fields: Fields, name: str | None) -> Model:
    """GTE (v1.5 and multilingual): rotary positions, a gated feed-forward layer with one bias."""
    fields = with_defaults(
        fields,
        **ROTARY,
        vocab_size=250048,
        type_vocab_size=1,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=8192,
    )
    style = Style("lm_head.dense", "lm_head.layer_norm", bare_pooled=False)
    hidden, wide = fields.size("hidden_size"), fields.size("intermediate_size")
    inner = HalfBiasedFeedForward(
        hidden,
        wide,
        fields.text("hidden_act", default="gelu"),
        dropout=fields.number("hidden_dropout_prob", default=0.1),
    )
    return _rotary(fields, name, style, inner, bias=True)


def jina_embeddings_v3(fields: Fields, name: str | None) -> Model:
    """Jina Embeddings v3: XLM-RoBERTa's sizes with rotary positions. Adapters of the published model are outside."""
    fields = with_defaults(
        fields,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        vocab_size=250002,
        type_vocab_size=1,
        max_position_embeddings=8194,
    )
    hidden, wide = fields.size("hidden_size"), fields.size("intermediate_size")
    inner = FeedForward(hidden, wide, fields.text("hidden_act", default="gelu"), up="fc1", down="fc2")
    return _rotary(fields, name, ROBERTA, inner, bias=True)


def _rotary(fields: Fields, name: str | None, style: Style, inner: FeedForward | GatedFeedForward, bias: bool) -> Model:
    """Layers with norms after each part, no positions in the embedding."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    head_dim = fields.size("head_dim", default=0) or fields.divides(
        hidden, heads, ("hidden_size", "num_attention_heads")
    )
    attention = EncoderAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        causal=False,
        rotary_dim=head_dim,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
    )
    norms = (LayerNorm(hidden, "post_attention_layernorm"), LayerNorm(hidden, "post_mlp_layernorm"))
    dropout = fields.number("hidden_dropout_prob", default=0.1)
    block = RotaryEncoderBlock(attention, inner, norms, dropout)
    vocabulary = fields.size("vocab_size")
    activation = fields.text("hidden_act", default="gelu")
    return finish(
        fields,
        name,
        EncoderEmbedding(
            vocabulary,
            hidden,
            name="word_embeddings",
            types=fields.size("type_vocab_size", default=0, least=0),
            norm=LayerNorm(hidden, "embeddings.LayerNorm"),
            dropout=dropout,
        ),
        (block,) * fields.size("num_hidden_layers"),
        headed(fields, style, vocabulary, hidden, activation, hidden, ()),
        rotary=head_dim,
        unmasked=True,
    )


def eurobert(fields: Fields, name: str | None) -> Model:
    """EuroBERT: Llama's layers that attend both ways, a separate head."""
    fields = with_defaults(fields, **ROTARY, vocab_size=128256, max_position_embeddings=8192)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias, feed_bias = fields.flag("attention_bias"), fields.flag("mlp_bias")
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        causal=False,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="silu")
    inner = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, feed_bias)
    norms = (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "post_attention_layernorm"))
    vocabulary = fields.size("vocab_size")
    head = BareHead if bare(fields) else Head
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        (PreNormBlock(attention, inner, norms),) * fields.size("num_hidden_layers"),
        head(vocabulary, hidden, fields.flag("tie_word_embeddings"), RMSNorm(hidden, "norm")),
        rotary=head_dim,
        unmasked=True,
    )


def modernbert(fields: Fields, name: str | None) -> Model:
    """ModernBERT: early norms, rotary positions of two kinds, windows in two layers of three, no biases by default."""
    fields = with_defaults(
        fields,
        **{**ROTARY, "num_hidden_layers": 22, "intermediate_size": 1152},
        vocab_size=50368,
        max_position_embeddings=8192,
    )
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    count = fields.size("num_hidden_layers")
    every = fields.size("global_attn_every_n_layers", default=3)
    kinds = fields.items("layer_types", length=count) or [
        "sliding_attention" if index % every else "full_attention" for index in range(count)
    ]
    window = fields.size("local_attention", default=128, most=10**9) // 2 + 1
    bias, feed_bias = fields.flag("attention_bias"), fields.flag("mlp_bias")
    norm_bias = fields.flag("norm_bias")
    activation = fields.text("hidden_activation", default="gelu")
    dropout = fields.number("attention_dropout", default=0.0)
    inner = FusedFeedForward(
        hidden,
        fields.size("intermediate_size"),
        activation,
        feed_bias,
        fused="Wi",
        down="Wo",
        dropout=fields.number("mlp_dropout", default=0.0),
    )
    made: dict[tuple[bool, bool], Block] = {}
    keys = [(index == 0, kind == "sliding_attention") for index, kind in enumerate(kinds)]
    for first, local in set(keys):
        attention = JoinedAttention(
            hidden,
            heads,
            heads,
            head_dim,
            bias=bias,
            output_bias=bias,
            names=Projections(fused="Wqkv", output="Wo"),
            widened=True,
            prefix="attn",
            causal=False,
            window=window if local else None,
            dropout=dropout,
            output_dropout=dropout,
            tables=("cos_local", "sin_local") if local else ("cos", "sin"),
        )
        norms = [LayerNorm(hidden, "mlp_norm", bias=norm_bias)]
        if not first:
            norms.insert(0, LayerNorm(hidden, "attn_norm", bias=norm_bias))
        made[first, local] = InlineBlock(attention, inner, tuple(norms))
    vocabulary = fields.size("vocab_size")
    last = LayerNorm(hidden, "final_norm", bias=norm_bias)
    head: Head = BareHead(vocabulary, hidden, True, last)
    if not bare(fields):
        head = MaskedHead(
            vocabulary,
            hidden,
            fields.flag("tie_word_embeddings", default=True),
            last,
            "decoder",
            activation=fields.text("classifier_activation", default="gelu"),
            transform="head.dense",
            transform_norm="head.norm",
            biased=fields.flag("classifier_bias"),
            norm_bias=norm_bias,
            shifted=fields.flag("decoder_bias", default=True),
        )
    tables = [
        (name, head_dim) for local in (False, True) if any(key[1] == local for key in keys) for name in _named(local)
    ]
    return finish(
        fields,
        name,
        EncoderEmbedding(
            vocabulary,
            hidden,
            name="embeddings.tok_embeddings",
            norm=LayerNorm(hidden, "embeddings.norm", bias=norm_bias),
            dropout=fields.number("embedding_dropout", default=0.0),
        ),
        tuple(made[key] for key in keys),
        head,
        tables=tuple(tables),
        unmasked=True,
    )


def _named(local: bool) -> tuple[str, str]:
    return ("cos_local", "sin_local") if local else ("cos", "sin")


READERS: dict[str, Reader] = {
    "eurobert": eurobert,
    "gte": gte,
    "jina_embeddings_v3": jina_embeddings_v3,
    "modernbert": modernbert,
    "nomic_bert": nomic_bert,
}
