"""Dense families that share little with others."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.blocks import PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import FeedForward
from ..layers.norms import LayerNorm
from ..model import Model
from .fields import Fields
from .llama import attention_sizes, finish
from .table import Reader


def starcoder2(fields: Fields, name: str | None) -> Model:
    """StarCoder 2: LayerNorm, biases, a plain feed-forward layer, rotary attention with few key-value heads."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields, kv_default=2)
    count = fields.size("num_hidden_layers")
    bias = fields.flag("use_bias", default=True)
    dropout = fields.number("residual_dropout", default=0.0)
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        window=fields.optional("sliding_window"),
        dropout=fields.number("attention_dropout", default=0.0),
        output_dropout=dropout,
    )
    activation = fields.text("hidden_act", default="gelu_pytorch_tanh")
    feed_forward = FeedForward(
        hidden, fields.size("intermediate_size"), activation, bias, up="c_fc", down="c_proj", dropout=dropout
    )
    layer = PreNormBlock(
        attention, feed_forward, (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))
    )
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings", default=True)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, dropout=fields.number("embedding_dropout", default=0.0)),
        (layer,) * count,
        Head(vocabulary, hidden, tied, LayerNorm(hidden, "norm")),
        rotary=head_dim,
    )


READERS: dict[str, Reader] = {"starcoder2": starcoder2}
