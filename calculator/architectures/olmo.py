"""OLMo 1 to 3 of Ai2."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.blocks import Block, PostNormBlock, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import LateRMSNorm
from ..layers.partial import ClippedAttention, PlainLayerNorm
from ..model import Model
from .fields import Fields
from .gemma import alternating
from .kin import stack
from .llama import attention_sizes, finish
from .table import Reader


def norms_after(fields: Fields, name: str | None, windows: list[int | None], local_tables: bool) -> Model:
    """Norms after attention and feed-forward, and over all of q and of k; rotary tables in float32."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    feed_forward = GatedFeedForward(
        hidden, fields.size("intermediate_size"), fields.text("hidden_act", default="silu")
    )
    norms = (LateRMSNorm(hidden, "post_attention_layernorm"), LateRMSNorm(hidden, "post_feedforward_layernorm"))
    made: dict[int | None, Block] = {}
    for window in windows:
        if window not in made:
            attention = Attention(
                hidden,
                heads,
                kv_heads,
                head_dim,
                bias=bias,
                output_bias=bias,
                query_norm=LateRMSNorm(heads * head_dim, "q_norm"),
                key_norm=LateRMSNorm(kv_heads * head_dim, "k_norm"),
                norm_full=True,
                window=window,
                dropout=fields.number("attention_dropout", default=0.0),
                tables=("cos_local", "sin_local") if local_tables and window else ("cos", "sin"),
                turned_type=True,
            )
            made[window] = PostNormBlock(attention, feed_forward, norms)
    tables = [("cos", head_dim), ("sin", head_dim)] if not local_tables or None in made else []
    if local_tables and any(made):
        tables += [("cos_local", head_dim), ("sin_local", head_dim)]
    vocabulary = fields.size("vocab_size")
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(made[window] for window in windows),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), LateRMSNorm(hidden, "norm")),
        tables=tuple(tables),
        float_tables=True,
    )


def olmo2(fields: Fields, name: str | None) -> Model:
    """OLMo 2."""
    return norms_after(fields, name, [None] * fields.size("num_hidden_layers"), local_tables=False)


def olmo3(fields: Fields, name: str | None) -> Model:
    """OLMo 3: three layers with a window to one without, each kind with its own rotary tables."""
    count = fields.size("num_hidden_layers")
    return norms_after(fields, name, alternating(fields, count, 4), local_tables=True)


def olmo(fields: Fields, name: str | None) -> Model:
    """OLMo 1: Llama with norms without weights, and q, k and v clipped in the 7B of 2024."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    kind = ClippedAttention if fields.has("clip_qkv") else Attention
    attention = kind(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        dropout=fields.number("attention_dropout", default=0.0),
        turned_type=True,
    )
    activation = fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    norms = (PlainLayerNorm(hidden, "input_layernorm"), PlainLayerNorm(hidden, "post_attention_layernorm"))
    layer = PreNormBlock(attention, feed_forward, norms)
    norm = PlainLayerNorm(hidden, "norm")
    return stack(fields, name, lambda _: layer, norm, rotary=head_dim, float_tables=True)


READERS: dict[str, Reader] = {"olmo": olmo, "olmo2": olmo2, "olmo3": olmo3}
