"""The first large models: StarCoder's GPT-BigCode, BLOOM, MPT."""

from __future__ import annotations

from ..layers.attention import Projections
from ..layers.early import BloomAttention, BloomFeedForward, EmbeddingNorm, JoinedAttention, MPTAttention, NamedBlock
from ..layers.feed_forward import FeedForward
from ..layers.norms import LayerNorm
from ..model import Model
from ..tape import FLOAT, TOKENS, scaled
from .fields import Fields, with_defaults
from .gpt import with_learned_positions
from .kin import stack
from .table import Reader


def gpt_bigcode(fields: Fields, name: str | None) -> Model:
    """SantaCoder and StarCoder: GPT-2 with one key-value head."""
    fields = with_defaults(fields, vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
    hidden = fields.size("n_embd", "hidden_size")
    heads = fields.size("n_head", "num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("n_embd", "n_head"))
    dropped = fields.number("resid_pdrop", default=0.1)
    attention = JoinedAttention(
        hidden,
        heads,
        1 if fields.flag("multi_query", default=True) else heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(fused="c_attn", output="c_proj"),
        prefix="attn",
        rotary_dim=0,
        dropout=fields.number("attn_pdrop", default=0.1),
        output_dropout=dropped,
    )
    wide = fields.optional("n_inner") or 4 * hidden
    activation = fields.text("activation_function", default="gelu_pytorch_tanh")
    feed_forward = FeedForward(hidden, wide, activation, up="c_fc", down="c_proj", dropout=dropped)
    block = NamedBlock(attention, feed_forward, (LayerNorm(hidden, "ln_1"), LayerNorm(hidden, "ln_2")))
    positions = fields.size("n_positions", "max_position_embeddings")
    return with_learned_positions(fields, name, block, hidden, positions)


def bloom(fields: Fields, name: str | None) -> Model:
    """BLOOM: a bias by distance for positions, a norm after the embedding; transformers runs it eager."""
    fields = with_defaults(fields, vocab_size=250880)
    hidden = fields.size("hidden_size", "n_embed", default=64)
    heads = fields.size("n_head", "num_attention_heads", default=8)
    head_dim = fields.divides(hidden, heads, ("hidden_size", "n_head"))
    count = fields.size("n_layer", "num_hidden_layers", default=2)
    fields = Fields({**fields.values, "num_hidden_layers": count}, fields.path)
    dropped = fields.number("hidden_dropout", default=0.0)
    attention = BloomAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(fused="query_key_value", output="dense"),
        prefix="self_attention",
        rotary_dim=0,
        dropout=fields.number("attention_dropout", default=0.0),
        output_dropout=dropped,
    )
    feed_forward = BloomFeedForward(hidden, 4 * hidden, up="dense_h_to_4h", down="dense_4h_to_h", dropout=dropped)
    norms = (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))
    block = NamedBlock(attention, feed_forward, norms, chained=True)
    return stack(
        fields,
        name,
        lambda _: block,
        LayerNorm(hidden, "ln_f"),
        tied=True,
        embedding={"name": "word_embeddings", "norm": EmbeddingNorm(hidden, "word_embeddings_layernorm")},
        max_context=fields.optional("seq_length"),
        sdpa=False,
        beside=(("alibi_once", scaled(TOKENS, heads), None),),
        holds_outputs=True,
    )


def mpt(fields: Fields, name: str | None) -> Model:
    """MPT: a float32 bias by distance for positions, no biases at all; transformers runs it eager."""
    fields = with_defaults(fields, vocab_size=50368, d_model=2048, n_heads=16, n_layers=24, max_seq_len=2048)
    hidden = fields.size("d_model", "hidden_size")
    heads = fields.size("n_heads", "num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("d_model", "n_heads"))
    inside = fields.inner("attn_config")
    dropped = inside.number("attn_pdrop", default=0.0)
    attention = MPTAttention(
        hidden,
        heads,
        heads,
        head_dim,
        names=Projections(fused="Wqkv", output="out_proj"),
        prefix="attn",
        rotary_dim=0,
        dropout=dropped,
        output_dropout=dropped,
        clipped=bool(inside.number("clip_qkv", default=0.0)),
    )
    feed_forward = FeedForward(hidden, 4 * hidden, bias=False, prefix="ffn", dropout=dropped)
    norms = (LayerNorm(hidden, "norm_1", bias=False), LayerNorm(hidden, "norm_2", bias=False))
    block = NamedBlock(attention, feed_forward, norms)
    longest = fields.size("max_seq_len")
    return stack(
        fields,
        name,
        lambda _: block,
        LayerNorm(hidden, "norm_f", bias=False),
        tied=True,
        embedding={"name": "wte"},
        max_context=longest,
        sdpa=False,
        beside=(("alibi_once", (heads * longest, 0, 0, 0, 0, 0), FLOAT),),
        mask_filled=True,
        holds_outputs=True,
    )


READERS: dict[str, Reader] = {"bloom": bloom, "gpt_bigcode": gpt_bigcode, "mpt": mpt}
