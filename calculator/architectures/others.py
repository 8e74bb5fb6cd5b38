"""Dense families that share little with others."""

from __future__ import annotations

from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, ParallelBlock, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.falcon import FalconAttention, FalconBlock
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.norms import LayerNorm
from ..layers.partial import CenteredNorm, HeadNorms, PartlyRotated, RotatedInFloat, StableLMBlock
from ..model import Model
from .fields import Fields
from .kin import stack
from .llama import attention_sizes, finish
from .phi import rotary_dim
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


def falcon(fields: Fields, name: str | None) -> Model:
    """Falcon: 7B with one key-value head and one norm, 40B and 180B with groups and two, RW with distances (ALiBi)."""
    hidden = fields.size("hidden_size", "n_embed")
    heads = fields.size("num_attention_heads", "n_head")
    count = fields.size("num_hidden_layers", "n_layer")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    grouped = fields.flag("new_decoder_architecture")
    few = fields.flag("multi_query", default=True)
    kv_heads = fields.size("num_kv_heads", "n_head_kv", default=heads) if grouped or not few else 1
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_kv_heads"))
    alibi, bias = fields.flag("alibi"), fields.flag("bias")
    parallel = grouped or fields.flag("parallel_attn", default=True)
    attention = FalconAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        names=Projections(output="dense", fused="query_key_value"),
        prefix="self_attention",
        dropout=fields.number("attention_dropout", default=0.0) if alibi else 0.0,
        grouped=grouped,
        alibi=alibi,
    )
    feed_forward = FeedForward(
        hidden,
        fields.size("ffn_hidden_size", default=4 * hidden),
        fields.text("activation", default="gelu"),
        bias,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        plain=True,
    )
    if not parallel:
        norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    elif fields.size("num_ln_in_parallel_attn", default=2 if grouped else 1) == 2:
        norms = ("ln_attn", "ln_mlp")
    else:
        norms = ("input_layernorm",)
    layer = FalconBlock(attention, feed_forward, tuple(LayerNorm(hidden, each) for each in norms), parallel)
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings", default=True)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, name="word_embeddings"),
        (layer,) * count,
        Head(vocabulary, hidden, tied, LayerNorm(hidden, "ln_f")),
        rotary=head_dim,
        max_context=fields.size("max_position_embeddings", default=2048),
        masked=not alibi,
        holds_outputs=True,
        distances=heads if alibi else 0,
    )


def cohere(fields: Fields, name: str | None) -> Model:
    """Command R, Aya: attention and feed-forward on one norm without bias, rotation in float32, scaled logits."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias, normed = fields.flag("attention_bias"), fields.flag("use_qk_norm")
    attention = RotatedInFloat(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=CenteredNorm(head_dim, "q_norm", heads=heads) if normed else None,
        key_norm=CenteredNorm(head_dim, "k_norm", heads=kv_heads) if normed else None,
        turned_norms=normed,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    layer = ParallelBlock(
        attention, feed_forward, (CenteredNorm(hidden, "input_layernorm"),), residual_first=True
    )
    norm = CenteredNorm(hidden, "norm")
    return stack(fields, name, lambda _: layer, norm, tied=True, rotary=head_dim, head={"scaled": True})


def stablelm(fields: Fields, name: str | None) -> Model:
    """StableLM 3B and 2: a quarter of each head rotated, LayerNorm, gated feed-forward; side by side in 2-12B."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    turned = rotary_dim(fields, head_dim, 0.25)
    normed = fields.flag("qk_layernorm")
    attention = PartlyRotated(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=fields.flag("use_qkv_bias"),
        query_norm=HeadNorms(head_dim, "q_layernorm", heads=heads) if normed else None,
        key_norm=HeadNorms(head_dim, "k_layernorm", heads=kv_heads) if normed else None,
        turned_norms=normed,
        rotary_dim=turned,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    dropped = fields.number("hidden_dropout", default=0.0)
    first, second = LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm")
    layer: Block
    if fields.flag("use_parallel_residual"):
        layer = ParallelBlock(attention, feed_forward, (first,), residual_first=True, dropout=dropped)
    else:
        layer = StableLMBlock(attention, feed_forward, (first, second), dropped)
    return stack(fields, name, lambda _: layer, LayerNorm(hidden, "norm"), rotary=turned)


READERS: dict[str, Reader] = {"cohere": cohere, "falcon": falcon, "stablelm": stablelm, "starcoder2": starcoder2}
