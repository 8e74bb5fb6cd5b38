"""Earlier decoders of transformers 5.23.0: Persimmon, CodeGen, GPT-NeoX Japanese, XGLM, BioGPT, GPT, CTRL."""

from __future__ import annotations

from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, ParallelBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import FeedForward
from ..layers.norms import LayerNorm
from ..layers.older import (
    AfterNormBlock,
    CodeGenAttention,
    FlooredAttention,
    InnerDropBlock,
    KeptNormBlock,
    LastDropBlock,
    NamedNormBlock,
    PreparedAttention,
    ThreefoldAttention,
    TriangularAttention,
    WaveEmbedding,
)
from ..model import Model
from ..tape import FLOAT, TOKENS
from .fields import Fields, with_defaults
from .kin import stack
from .llama import finish
from .phi import rotary_dim
from .table import Reader


def plain_sizes(fields: Fields, width: str = "hidden_size", heads: str = "num_attention_heads") -> tuple[int, int, int]:
    """hidden, heads and width of a head, for families without key-value heads."""
    hidden, count = fields.size(width, "hidden_size"), fields.size(heads, "num_attention_heads")
    return hidden, count, fields.divides(hidden, count, (width, heads))


def persimmon(fields: Fields, name: str | None) -> Model:
    """Persimmon and Fuyu's text: half of each head rotated, norms over q and k, a squared ReLU."""
    fields = with_defaults(
        fields,
        vocab_size=262144,
        hidden_size=4096,
        intermediate_size=16384,
        num_hidden_layers=36,
        num_attention_heads=64,
        max_position_embeddings=16384,
    )
    hidden, heads, head_dim = plain_sizes(fields)
    turned = rotary_dim(fields, head_dim, 0.5)
    normed = fields.flag("qk_layernorm", default=True)
    attention = ThreefoldAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(fused="query_key_value", output="dense"),
        query_norm=LayerNorm(head_dim, "q_layernorm") if normed else None,
        key_norm=LayerNorm(head_dim, "k_layernorm") if normed else None,
        rotary_dim=turned,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation, wide = fields.text("hidden_act", default="relu2"), fields.size("intermediate_size")
    feed_forward = FeedForward(hidden, wide, activation, up="dense_h_to_4h", down="dense_4h_to_h")
    norms = (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))
    block = LastDropBlock(attention, feed_forward, norms, fields.number("hidden_dropout", default=0.0))
    return stack(fields, name, lambda _: block, LayerNorm(hidden, "final_layernorm"), rotary=turned)


def codegen(fields: Fields, name: str | None) -> Model:
    """CodeGen: GPT-J with q, v and k in one matrix; transformers runs it eager."""
    hidden = fields.size("n_embd", "hidden_size", default=4096)
    heads = fields.size("n_head", "num_attention_heads", default=16)
    head_dim = fields.divides(hidden, heads, ("n_embd", "n_head"))
    if heads % 4:
        fields.refuse("n_head", "must be a multiple of 4")
    dropped = fields.number("resid_pdrop", default=0.0)
    positions = fields.size("n_positions", "max_position_embeddings", default=2048)
    turned = fields.size("rotary_dim", default=64, most=head_dim)
    attention = CodeGenAttention(
        hidden,
        heads,
        heads,
        head_dim,
        names=Projections(fused="qkv_proj", output="out_proj"),
        prefix="attn",
        rotary_dim=turned,
        dropout=fields.number("attn_pdrop", default=0.0),
        output_dropout=dropped,
    )
    activation = fields.text("activation_function", default="gelu_new")
    wide = fields.optional("n_inner") or 4 * hidden
    feed_forward = FeedForward(hidden, wide, activation, up="fc_in", down="fc_out", dropout=dropped)
    block = ParallelBlock(attention, feed_forward, (LayerNorm(hidden, "ln_1"),))
    count = fields.size("n_layer", "num_hidden_layers", default=28, most=10_000)
    vocabulary = fields.size("vocab_size", default=50400)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, "wte", dropout=fields.number("embd_pdrop", default=0.0)),
        (block,) * count,
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), LayerNorm(hidden, "ln_f"), bias=True),
        max_context=positions,
        sdpa=False,
        holds_outputs=True,
        buffers=4 * positions * turned * count,
    )


def gpt_neox_japanese(fields: Fields, name: str | None) -> Model:
    """GPT-NeoX Japanese: no biases but one on the last attention's output; transformers runs it eager."""
    fields = with_defaults(
        fields,
        vocab_size=32000,
        hidden_size=2560,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    hidden, heads, head_dim = plain_sizes(fields)
    turned = rotary_dim(fields, head_dim, fields.number("rotary_pct", default=1.0))
    dropped = fields.number("hidden_dropout", default=0.0)
    wide = int(hidden * fields.number("intermediate_multiple_size", default=4.0))
    wide = Fields({"intermediate_multiple_size": wide}, fields.path).size("intermediate_multiple_size")
    activation = fields.text("hidden_act", default="gelu")
    feed_forward = FeedForward(hidden, wide, activation, bias=False, up="dense_h_to_4h", down="dense_4h_to_h")
    norms = (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))

    def layer(last: bool) -> Block:
        attention = PreparedAttention(
            hidden,
            heads,
            heads,
            head_dim,
            names=Projections(fused="query_key_value", output="dense"),
            prefix="attention",
            rotary_dim=turned,
            dropout=fields.number("attention_dropout", default=0.1),
            own_bias=last,
        )
        return NamedNormBlock(attention, feed_forward, norms, dropped, last)

    count = fields.size("num_hidden_layers")
    inner = layer(False)
    return stack(
        fields,
        name,
        lambda _: inner,
        LayerNorm(hidden, "final_layer_norm"),
        tied=True,
        rotary=turned,
        layers=(*(inner,) * (count - 1), layer(True)),
        embedding={"name": "embed_in"},
        head={"name": "embed_out"},
        sdpa=False,
        holds_outputs=True,
    )


def xglm(fields: Fields, name: str | None) -> Model:
    """XGLM: OPT's layers with sines for positions; transformers runs it eager."""
    hidden = fields.size("d_model", "hidden_size", default=1024)
    heads = fields.size("attention_heads", "num_attention_heads", default=16)
    head_dim = fields.divides(hidden, heads, ("d_model", "attention_heads"))
    dropped = fields.number("dropout", default=0.1)
    attention = FlooredAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(output="out_proj"),
        rotary_dim=0,
        dropout=fields.number("attention_dropout", default=0.1),
    )
    if fields.flag("add_cross_attention"):
        fields.refuse("add_cross_attention", "must be false: the decoder alone is read")
    activation, wide = fields.text("activation_function", default="gelu"), fields.size("ffn_dim", default=4096)
    feed_forward = FeedForward(hidden, wide, activation, up="fc1", down="fc2", prefix="")
    norms = (LayerNorm(hidden, "self_attn_layer_norm"), LayerNorm(hidden, "final_layer_norm"))
    inner = fields.number("activation_dropout", default=0.0)
    block = InnerDropBlock(attention, feed_forward, norms, inner, dropped)
    count = fields.size("num_layers", "num_hidden_layers", default=24, most=10_000)
    vocabulary = fields.size("vocab_size", default=256008)
    positions = fields.size("max_position_embeddings", default=2048)
    tied = fields.flag("tie_word_embeddings", default=True)
    return finish(
        fields,
        name,
        WaveEmbedding(vocabulary, hidden, scaled=True, dropout=dropped),
        (block,) * count,
        Head(vocabulary, hidden, tied, LayerNorm(hidden, "layer_norm")),
        max_context=positions,
        sdpa=False,
        waves=(positions + 2) * hidden,
    )


def biogpt(fields: Fields, name: str | None) -> Model:
    """BioGPT: OPT's layers with GELU and scaled rows."""
    fields = with_defaults(
        fields,
        vocab_size=42384,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=1024,
    )
    hidden, heads, head_dim = plain_sizes(fields)
    dropped = fields.number("hidden_dropout_prob", default=0.1)
    attention = Attention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(output="out_proj"),
        rotary_dim=0,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
        low_softmax=True,
    )
    activation, wide = fields.text("hidden_act", default="gelu"), fields.size("intermediate_size")
    feed_forward = FeedForward(hidden, wide, activation, up="fc1", down="fc2", prefix="")
    norms = (LayerNorm(hidden, "self_attn_layer_norm"), LayerNorm(hidden, "final_layer_norm"))
    inner = fields.number("activation_dropout", default=0.0)
    block = InnerDropBlock(attention, feed_forward, norms, inner, dropped)
    return stack(
        fields,
        name,
        lambda _: block,
        LayerNorm(hidden, "layer_norm"),
        tied=True,
        embedding={
            "positions": fields.size("max_position_embeddings") + 2,
            "scaled": True,
            "dropout": dropped,
        },
        head={"name": "output_projection"},
        beside=(("ones", TOKENS, FLOAT),),
    )


def openai_gpt(fields: Fields, name: str | None) -> Model:
    """GPT of 2018: norms after the sums, a table of ones for each layer, no cache; transformers runs it eager."""
    hidden = fields.size("n_embd", "hidden_size", default=768)
    heads = fields.size("n_head", "num_attention_heads", default=12)
    head_dim = fields.divides(hidden, heads, ("n_embd", "n_head"))
    positions = fields.size("n_positions", "max_position_embeddings", default=512)
    dropped = fields.number("resid_pdrop", default=0.1)
    attention = TriangularAttention(
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
    )
    activation = fields.text("afn", default="gelu")
    feed_forward = FeedForward(
        hidden,
        4 * hidden,
        {"gelu": "gelu_new", "swish": "silu"}.get(activation, activation),
        up="c_fc",
        down="c_proj",
        dropout=dropped,
    )
    block = AfterNormBlock(attention, feed_forward, (LayerNorm(hidden, "ln_1"), LayerNorm(hidden, "ln_2")))
    count = fields.size("n_layer", "num_hidden_layers", default=12, most=10_000)
    vocabulary = fields.size("vocab_size", default=40478)
    return finish(
        fields,
        name,
        Embedding(
            vocabulary,
            hidden,
            "tokens_embed",
            positions=positions,
            position_name="positions_embed",
            dropout=fields.number("embd_pdrop", default=0.1),
        ),
        (block,) * count,
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings", default=True), None),
        max_context=positions,
        sdpa=False,
        unmasked=True,
        beside=(("triangle", (count * positions**2, 0, 0, 0, 0, 0), None),),
    )


def ctrl(fields: Fields, name: str | None) -> Model:
    """CTRL: sines for positions, a bias on the head."""
    hidden = fields.size("n_embd", "hidden_size", default=1280)
    heads = fields.size("n_head", "num_attention_heads", default=16)
    head_dim = fields.divides(hidden, heads, ("n_embd", "n_head"))
    dropped = fields.number("resid_pdrop", default=0.1)
    attention = Attention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections("Wq", "Wk", "Wv", "dense"),
        prefix="multi_head_attention",
        rotary_dim=0,
        low_softmax=True,
    )
    feed_forward = FeedForward(hidden, fields.size("dff", default=8192), "relu", up="0", down="2", prefix="ffn")
    norms = (LayerNorm(hidden, "layernorm1"), LayerNorm(hidden, "layernorm2"))
    block = KeptNormBlock(attention, feed_forward, norms, dropped)
    vocabulary = fields.size("vocab_size", default=246534)
    positions = fields.size("n_positions", "max_position_embeddings", default=256)
    tied = fields.flag("tie_word_embeddings", default=True)
    return finish(
        fields,
        name,
        WaveEmbedding(vocabulary, hidden, "w", dropout=fields.number("embd_pdrop", default=0.1), in_place=True),
        (block,) * fields.size("n_layer", "num_hidden_layers", default=48, most=10_000),
        Head(vocabulary, hidden, tied, LayerNorm(hidden, "layernorm"), bias=True),
        max_context=positions,
        waves=positions * hidden,
    )


READERS: dict[str, Reader] = {
    "biogpt": biogpt,
    "codegen": codegen,
    "ctrl": ctrl,
    "gpt_neox_japanese": gpt_neox_japanese,
    "openai-gpt": openai_gpt,
    "persimmon": persimmon,
    "xglm": xglm,
}
