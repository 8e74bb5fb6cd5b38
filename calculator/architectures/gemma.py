"""Gemma 1 to 3: scaled embeddings, norms of 1 + weight, tied heads; from 2 on four norms a layer and windows."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock, SandwichBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import GemmaRMSNorm
from ..model import Model
from .fields import Fields
from .llama import attention_sizes, finish, layer_windows
from .table import Reader

HEAD_DIM = 256  # of all three, whatever the hidden size (transformers' GemmaConfig, Gemma2Config, Gemma3TextConfig)
TWO_SIDES = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def alternating(fields: Fields, count: int, period: int) -> list[int | None]:
    """Windows by `layer_types`, else in all layers but every `period`th."""
    window = fields.optional("sliding_window")
    if fields.has("layer_types"):
        return layer_windows(fields, count, window)
    return [window if (index + 1) % period else None for index in range(count)]


def gemma_like(
    fields: Fields,
    name: str | None,
    *,
    norms: tuple[str, ...],
    windows: list[int | None],
    head_norm: bool = False,
    local_tables: bool = False,
    softcap: bool = False,
    final_softcap: bool = False,
) -> Model:
    """What the three have in common."""
    if not fields.has("head_dim"):
        fields = Fields({**fields.values, "head_dim": HEAD_DIM}, fields.path)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    activation = fields.text("hidden_activation", "hidden_act", default="gelu_pytorch_tanh")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
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
                query_norm=GemmaRMSNorm(head_dim, "q_norm") if head_norm else None,
                key_norm=GemmaRMSNorm(head_dim, "k_norm") if head_norm else None,
                turned_norms=head_norm,
                window=window,
                softcap=softcap,
                dropout=fields.number("attention_dropout", default=0.0),
                tables=("cos_local", "sin_local") if local_tables and window else ("cos", "sin"),
            )
            block = PreNormBlock if len(norms) == 2 else SandwichBlock
            made[window] = block(attention, feed_forward, tuple(GemmaRMSNorm(hidden, each) for each in norms))
    tables = [("cos", head_dim), ("sin", head_dim)] if not local_tables or None in made else []
    if local_tables and any(made):
        tables += [("cos_local", head_dim), ("sin_local", head_dim)]
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings", default=True)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, scaled=True),
        tuple(made[window] for window in windows),
        Head(vocabulary, hidden, tied, GemmaRMSNorm(hidden, "norm"), softcap=final_softcap),
        tables=tuple(tables),
        sdpa=not softcap,
    )


def gemma(fields: Fields, name: str | None) -> Model:
    """Gemma 1, CodeGemma."""
    count = fields.size("num_hidden_layers")
    return gemma_like(fields, name, norms=TWO_SIDES[:2], windows=[None] * count)


def capped(fields: Fields, key: str, default: float) -> bool:
    """Whether a softcap is set: absent means the family's own, null or 0 none."""
    return bool(fields.number(key, default=0.0 if key in fields.values else default))


def gemma2(fields: Fields, name: str | None) -> Model:
    """Gemma 2: every other layer looks back a window; scores and logits are capped, so transformers runs it eager."""
    count = fields.size("num_hidden_layers")
    return gemma_like(
        fields,
        name,
        norms=TWO_SIDES,
        windows=alternating(fields, count, 2),
        softcap=capped(fields, "attn_logit_softcapping", 50.0),
        final_softcap=capped(fields, "final_logit_softcapping", 30.0),
    )


def gemma3_text(fields: Fields, name: str | None) -> Model:
    """Gemma 3: five layers with a window to one without, each kind with its own rotary tables, norms on q and k."""
    count = fields.size("num_hidden_layers")
    return gemma_like(
        fields,
        name,
        norms=TWO_SIDES,
        windows=alternating(fields, count, fields.size("sliding_window_pattern", default=6)),
        head_norm=True,
        local_tables=True,
        final_softcap=capped(fields, "final_logit_softcapping", 0.0),
    )


READERS: dict[str, Reader] = {"gemma": gemma, "gemma2": gemma2, "gemma3_text": gemma3_text}
