"""Phi 3 and 4 of Microsoft."""

from __future__ import annotations

from ..layers.attention import Projections
from ..layers.blocks import PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.fused import SlicedAttention
from ..layers.norms import RMSNorm
from ..model import Model
from .fields import Fields
from .llama import attention_sizes, finish
from .table import Reader


def rotary_dim(fields: Fields, head_dim: int, default: float) -> int:
    """Dimensions of a head that are rotated: `partial_rotary_factor` of them."""
    factor = fields.number("partial_rotary_factor", default=0.0)
    factor = factor or fields.inner("rope_parameters").number("partial_rotary_factor", default=default)
    if not 0 < factor <= 1:
        fields.refuse("partial_rotary_factor", "must be more than 0 and at most 1")
    return max(int(head_dim * factor), 2)


def phi3(fields: Fields, name: str | None) -> Model:
    """Phi 3, 3.5, 4: one matrix for q, k and v, one for gate and up."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    turned = rotary_dim(fields, head_dim, 1.0)
    attention = SlicedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        names=Projections(fused="qkv_proj"),
        rotary_dim=turned,
        window=fields.optional("sliding_window"),
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, fused="gate_up_proj")
    layer = PreNormBlock(
        attention,
        feed_forward,
        (RMSNorm(hidden, "input_layernorm"), RMSNorm(hidden, "post_attention_layernorm")),
    )
    vocabulary = fields.size("vocab_size")
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        (layer,) * count,
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), RMSNorm(hidden, "norm")),
        rotary=turned,
    )


READERS: dict[str, Reader] = {"phi3": phi3}
