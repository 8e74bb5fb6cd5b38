"""T5Gemma: an encoder and a decoder of Gemma 2's layers, each with a table of its own."""

from __future__ import annotations

from dataclasses import replace

from ..layers.attention import Projections
from ..layers.blocks import Block
from ..layers.ends import Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import GemmaRMSNorm
from ..layers.t5gemma import CrossSandwichBlock, GemmaCrossAttention, GemmaStart, WholeEncoder
from ..model import Model
from ..tape import TOKENS, scaled
from .fields import Fields
from .gemma import alternating, capped
from .llama import attention_sizes, finish
from .table import Reader

SIZES = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}


def side(fields: Fields, source: int, dropout: float) -> tuple[tuple[Block, ...], int, int]:
    """The layers of one side, their width and that of their heads; `source` is the encoder's width, 0 in itself."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias, count = fields.flag("attention_bias"), fields.size("num_hidden_layers")
    activation = fields.text("hidden_activation", "hidden_act", default="gelu_pytorch_tanh")
    inner = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    plain = GemmaCrossAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        names=Projections(),
        softcap=capped(fields, "attn_logit_softcapping", 50.0),
        dropout=fields.number("attention_dropout", default=0.0),
        causal=bool(source),
    )
    parts = ("self_attn", "cross_attn", "feedforward") if source else ("self_attn", "feedforward")
    norms = tuple(GemmaRMSNorm(hidden, f"{place}_{part}_layernorm") for part in parts for place in ("pre", "post"))
    across = replace(plain, prefix="cross_attn", across=True, causal=False, rotary_dim=0, source_width=source)
    made: dict[tuple[int | None, bool], Block] = {}
    keys = [(window, index == count - 1) for index, window in enumerate(alternating(fields, count, 2))]
    for window, last in set(keys):
        crossing = replace(across, last=last) if source else None
        mixer = replace(plain, window=window)
        made[window, last] = CrossSandwichBlock(mixer, inner, norms, crossing, not source, dropout)
    return tuple(made[key] for key in keys), hidden, head_dim


def t5gemma(fields: Fields, name: str | None) -> Model:
    """T5Gemma: transformers runs it eager, for the caps on its scores. Encoder and decoder may differ in width, so the
    encoder is answered as one layer of the decoder's stack and checkpointing does not reach inside it; a window of the
    encoder, which looks both ways, is answered as the decoder's."""
    dropout = fields.number("dropout_rate", default=0.0)
    parts = []
    for word in ("encoder", "decoder"):
        inner = fields.inner(word)
        parts.append(Fields({**SIZES, **inner.values}, inner.path))
    first, second = parts
    encoders, width, _ = side(first, 0, dropout)
    decoders, hidden, head_dim = side(second, width, dropout)
    source, target = first.size("vocab_size"), second.size("vocab_size")
    start = GemmaStart(source, width, "encoder.embed_tokens", scaled=True, dropout=dropout)
    other = GemmaStart(target, hidden, "decoder.embed_tokens", scaled=True, dropout=dropout)
    last = GemmaRMSNorm(width, "encoder.norm")
    tied = fields.flag("tie_word_embeddings", default=True)
    head = Head(
        target,
        hidden,
        tied,
        GemmaRMSNorm(hidden, "decoder.norm"),
        "lm_head.out_proj",
        softcap=capped(second, "final_logit_softcapping", 30.0),
    )
    whole = WholeEncoder(None, None, (last,), encoders, start, dropout)
    rotary = (("cos", head_dim), ("sin", head_dim))
    return finish(
        Fields({**second.values, **fields.values}, fields.path),
        name,
        other,
        (whole, *decoders),
        head,
        tables=rotary,
        sdpa=not capped(second, "attn_logit_softcapping", 50.0),
        beside=(("encoded", scaled(TOKENS, width), None),),
    )


READERS: dict[str, Reader] = {"t5gemma": t5gemma}
