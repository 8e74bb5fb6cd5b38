"""T5 and its kin: an encoder and a decoder whose scores get a learned bias by distance.

A step of an encoder-decoder model has as many source tokens as target tokens: its figures are for both at that length.
"""

from __future__ import annotations

from ..layers.attention import Projections
from ..layers.blocks import Block
from ..layers.ends import Embedding
from ..layers.t5 import (
    Crossing,
    T5Attention,
    T5Block,
    T5FeedForward,
    T5GatedFeedForward,
    T5Head,
    T5Norm,
)
from ..model import Model
from ..tape import TOKENS, scaled
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader


def t5(fields: Fields, name: str | None) -> Model:
    """T5, T5 1.1 and FLAN-T5: an encoder and a decoder over one table; where the head is the table too, what goes into
    it is scaled."""
    fields = with_defaults(fields, vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8)
    hidden, head_dim, heads = fields.size("d_model"), fields.size("d_kv"), fields.size("num_heads")
    wide, dropout = fields.size("d_ff"), fields.number("dropout_rate", default=0.1)
    buckets = fields.size("relative_attention_num_buckets", default=32)
    count = fields.size("num_layers", most=10_000)
    kind = fields.text("feed_forward_proj", default="relu")
    activation = "gelu_new" if kind == "gated-gelu" else kind.rsplit("-", 1)[-1]
    inner: T5FeedForward | T5GatedFeedForward
    if kind.startswith("gated"):
        inner = T5GatedFeedForward(
            hidden, wide, activation, gate="wi_0", up="wi_1", down="wo", prefix="layer.DenseReluDense", dropout=dropout
        )
    else:
        inner = T5FeedForward(
            hidden, wide, activation, False, up="wi", down="wo", prefix="layer.DenseReluDense", dropout=dropout
        )

    def attention(decoder: bool, first: bool, last: bool, across: bool = False) -> T5Attention:
        return T5Attention(
            hidden,
            heads,
            heads,
            head_dim,
            names=Projections("q", "k", "v", "o"),
            prefix="layer.EncDecAttention" if across else "layer.SelfAttention",
            rotary_dim=0,
            causal=decoder and not across,
            dropout=dropout,
            buckets=buckets if first and not across else 0,
            across=across,
            first=first,
            last=last,
            table="cross_bias" if across else "bias",
        )

    norms = tuple(T5Norm(hidden, f"layer.{index}.layer_norm") for index in range(3))

    def side(layers: int, decoder: bool) -> list[Block]:
        kept = norms if decoder else norms[:2]
        made: dict[tuple[bool, bool], Block] = {}
        for key in {(index == 0, index == layers - 1) for index in range(layers)}:
            across = attention(True, *key, True) if decoder else None
            made[key] = T5Block(attention(decoder, *key), inner, kept, across, not decoder, dropout)
        return [made[index == 0, index == layers - 1] for index in range(layers)]

    vocabulary = fields.size("vocab_size")
    crossing = Crossing(None, None, (T5Norm(hidden, "encoder.final_layer_norm"),), vocabulary, hidden, dropout)
    decoders = fields.size("num_decoder_layers", default=count, most=10_000)
    scales = fields.values.get("tie_word_embeddings") is not False
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, "shared", dropout=dropout),
        (*side(count, False), crossing, *side(decoders, True)),
        T5Head(
            vocabulary,
            hidden,
            scales,
            T5Norm(hidden, "decoder.final_layer_norm"),
            narrow_loss=True,
            dropout=dropout,
            factor=scales,
        ),
        max_context=fields.optional("n_positions"),
        biases=(("bias", heads, False), ("cross_bias", heads, True)),
        beside=(("encoded", scaled(TOKENS, hidden), None),),
    )


READERS: dict[str, Reader] = {"t5": t5}
