"""Phi 1 to 4 of Microsoft."""

from __future__ import annotations

from ..layers.attention import Projections
from ..layers.blocks import ParallelBlock, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.fused import SlicedAttention
from ..layers.norms import LayerNorm, RMSNorm
from ..layers.partial import PartlyRotated
from ..model import Model
from .fields import Fields
from .kin import stack
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


def phi(fields: Fields, name: str | None) -> Model:
    """Phi 1 to 2: attention and feed-forward side by side on one norm, biases everywhere, half of each head rotated."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    turned = rotary_dim(fields, head_dim, 0.5)
    normed = fields.flag("qk_layernorm")
    attention = PartlyRotated(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(output="dense"),
        query_norm=LayerNorm(head_dim, "q_layernorm") if normed else None,
        key_norm=LayerNorm(head_dim, "k_layernorm") if normed else None,
        turned_norms=normed,
        rotary_dim=turned,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="gelu_new")
    feed_forward = FeedForward(hidden, fields.size("intermediate_size"), activation, up="fc1", down="fc2")
    dropped = fields.number("resid_pdrop", default=0.0)
    norms = (LayerNorm(hidden, "input_layernorm"),)
    layer = ParallelBlock(attention, feed_forward, norms, dropout=dropped, both=True)
    return stack(
        fields,
        name,
        lambda _: layer,
        LayerNorm(hidden, "final_layernorm"),
        rotary=turned,
        embedding={"dropout": fields.number("embd_pdrop", default=0.0), "dropout_first": True},
        head={"bias": True},
    )


READERS: dict[str, Reader] = {"phi": phi, "phi3": phi3}
