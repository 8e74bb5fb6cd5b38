"""GPT-2, GPT-J, GPT-NeoX (Pythia) and OPT."""

from __future__ import annotations

from typing import Any

from ..layers.attention import Projections
from ..layers.blocks import Block, ParallelBlock
from ..layers.early import JoinedAttention, NamedBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import FeedForward
from ..layers.gpt import ChunkedAttention, GPTJAttention, NeoXBlock, OPTAttention, OPTBlock
from ..layers.norms import LayerNorm
from ..model import Model
from .fields import Fields
from .kin import stack
from .llama import attention_sizes, finish
from .phi import rotary_dim
from .table import Reader


def early_sizes(fields: Fields) -> tuple[int, int, int, int]:
    """hidden, heads, width of a head, width of the feed-forward layer under the names of GPT-2 and GPT-J."""
    hidden = fields.size("n_embd", "hidden_size")
    heads = fields.size("n_head", "num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("n_embd", "n_head"))
    return hidden, heads, head_dim, fields.optional("n_inner") or 4 * hidden


def gpt2(fields: Fields, name: str | None) -> Model:
    """GPT-2: learned positions, one matrix for q, k and v, dropout everywhere."""
    hidden, heads, head_dim, wide = early_sizes(fields)
    dropped = fields.number("resid_pdrop", default=0.1)
    attention = JoinedAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(fused="c_attn", output="c_proj"),
        prefix="attn",
        rotary_dim=0,
        dropout=fields.number("attn_pdrop", default=0.1),
        output_dropout=dropped,
        low_softmax=True,
    )
    activation = fields.text("activation_function", default="gelu_new")
    feed_forward = FeedForward(hidden, wide, activation, up="c_fc", down="c_proj", dropout=dropped)
    layer = NamedBlock(attention, feed_forward, (LayerNorm(hidden, "ln_1"), LayerNorm(hidden, "ln_2")))
    positions = fields.size("n_positions", "max_position_embeddings", "n_ctx", default=1024)
    return with_learned_positions(fields, name, layer, hidden, positions)


def with_learned_positions(fields: Fields, name: str | None, layer: Block, hidden: int, positions: int) -> Model:
    """GPT-2's two ends around equal layers: tables of tokens and of positions, a last norm, a tied head."""
    return stack(
        fields,
        name,
        lambda _: layer,
        LayerNorm(hidden, "ln_f"),
        tied=True,
        embedding={
            "name": "wte",
            "positions": positions,
            "position_name": "wpe",
            "dropout": fields.number("embd_pdrop", default=0.1),
        },
        max_context=positions,
    )


def gptj(fields: Fields, name: str | None) -> Model:
    """GPT-J: attention and feed-forward side by side; transformers runs it eager."""
    hidden, heads, head_dim, wide = early_sizes(fields)
    dropped = fields.number("resid_pdrop", default=0.0)
    positions = fields.size("n_positions", "max_position_embeddings", default=2048)
    attention = GPTJAttention(
        hidden,
        heads,
        heads,
        head_dim,
        names=Projections(output="out_proj"),
        prefix="attn",
        rotary_dim=fields.size("rotary_dim", default=min(64, head_dim), most=head_dim),
        dropout=fields.number("attn_pdrop", default=0.0),
        output_dropout=dropped,
        positions=positions,
    )
    activation = fields.text("activation_function", default="gelu_new")
    feed_forward = FeedForward(hidden, wide, activation, up="fc_in", down="fc_out", dropout=dropped)
    layer = ParallelBlock(attention, feed_forward, (LayerNorm(hidden, "ln_1"),))
    tables = 4 * positions * (attention.rotary_dim or 0) * fields.size("n_layer", "num_hidden_layers")
    return stack(
        fields,
        name,
        lambda _: layer,
        LayerNorm(hidden, "ln_f"),
        embedding={"name": "wte", "dropout": fields.number("embd_pdrop", default=0.0)},
        head={"bias": True},
        max_context=positions,
        sdpa=False,
        holds_outputs=True,
        buffers=tables,
    )


def gpt_neox(fields: Fields, name: str | None) -> Model:
    """GPT-NeoX and Pythia: a quarter of each head rotated, attention and feed-forward side by side on a norm each."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    fields.divides(kv_heads, heads, ("num_key_value_heads", "num_attention_heads"))
    turned = rotary_dim(fields, head_dim, fields.number("rotary_pct", default=0.25))
    bias = fields.flag("attention_bias", default=True)
    attention = ChunkedAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        names=Projections(fused="query_key_value", output="dense"),
        prefix="attention",
        rotary_dim=turned,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    feed_forward = FeedForward(
        hidden,
        fields.size("intermediate_size"),
        fields.text("hidden_act", default="gelu"),
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    )
    dropped = fields.number("hidden_dropout", default=0.0)
    layer = NeoXBlock(
        attention,
        feed_forward,
        (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm")),
        fields.flag("use_parallel_residual", default=True),
        dropped,
    )
    return stack(
        fields,
        name,
        lambda _: layer,
        LayerNorm(hidden, "final_layer_norm"),
        rotary=turned,
        embedding={"name": "embed_in", "dropout": dropped},
        head={"name": "embed_out"},
    )


def opt(fields: Fields, name: str | None) -> Model:
    """OPT: learned positions with two rows to spare; 350m has a narrower table and norms after the sums."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    fields.divides(kv_heads, heads, ("num_key_value_heads", "num_attention_heads"))
    bias = fields.flag("enable_bias", default=True)
    affine = fields.flag("layer_norm_elementwise_affine", default=True)
    before = fields.flag("do_layer_norm_before", default=True)
    attention = OPTAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        names=Projections(output="out_proj"),
        rotary_dim=0,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("activation_function", default="relu")
    feed_forward = FeedForward(hidden, fields.size("ffn_dim"), activation, bias, up="fc1", down="fc2", prefix="")

    def norm(called: str) -> LayerNorm:
        return LayerNorm(hidden, called, affine=affine)

    layer = OPTBlock(
        attention,
        feed_forward,
        (norm("self_attn_layer_norm"), norm("final_layer_norm")),
        before,
        fields.number("dropout", default=0.1),
    )
    vocabulary, table = fields.size("vocab_size"), fields.size("word_embed_proj_dim", default=hidden)
    positions = fields.size("max_position_embeddings", default=2048)
    narrow: dict[str, Any] = {"projected": hidden} if table != hidden else {}
    last = norm("final_layer_norm") if before and not fields.flag("_remove_final_layer_norm") else None
    return finish(
        fields,
        name,
        Embedding(vocabulary, table, positions=positions + 2, positions_each=True, **narrow),
        (layer,) * fields.size("num_hidden_layers"),
        Head(
            vocabulary,
            hidden,
            fields.flag("tie_word_embeddings", default=True),
            last,
            projected=table if narrow else 0,
        ),
        max_context=positions,
    )


READERS: dict[str, Reader] = {"gpt2": gpt2, "gptj": gptj, "gpt_neox": gpt_neox, "opt": opt}
