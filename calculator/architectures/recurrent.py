"""Decoders without attention, or with little: RWKV, RecurrentGemma, xLSTM."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import GemmaRMSNorm, LateRMSNorm, LayerNorm, Norm
from ..layers.recurrent import (
    ChannelMix,
    LinearRecurrence,
    MatrixMemory,
    MixingBlock,
    NamedResidualBlock,
    TimeMix,
)
from ..model import Model
from ..units import round_up
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader


def rwkv(fields: Fields, name: str | None) -> Model:
    """RWKV-4: a running mean with decay in place of attention, computed by RWKV's own kernel."""
    fields = with_defaults(fields, vocab_size=50277, hidden_size=4096, num_hidden_layers=32)
    hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
    mixer = TimeMix(hidden, fields.size("attention_hidden_size", default=hidden))
    inner = ChannelMix(hidden, fields.size("intermediate_size", default=4 * hidden))
    norms = (LayerNorm(hidden, "ln1"), LayerNorm(hidden, "ln2"))
    first = MixingBlock(mixer, inner, norms, LayerNorm(hidden, "pre_ln"))
    count = fields.size("num_hidden_layers")
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, "embeddings"),
        (first, *(MixingBlock(mixer, inner, norms),) * (count - 1)),
        Head(vocabulary, hidden, fields.flag("tie_word_embeddings"), LayerNorm(hidden, "ln_out"), "head"),
        max_context=fields.optional("context_length"),
    )


def recurrent_gemma(fields: Fields, name: str | None) -> Model:
    """RecurrentGemma (Griffin): two recurrent blocks to one with attention in a window; `intermediate_size` counts both
    branches of the gated layer."""
    fields = with_defaults(
        fields,
        vocab_size=256000,
        hidden_size=2560,
        intermediate_size=7680,
        num_hidden_layers=26,
        num_attention_heads=10,
    )
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    kv_heads = fields.size("num_key_value_heads", default=heads)
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    width = fields.size("lru_width", default=hidden)
    fields.divides(width, heads, ("lru_width", "num_attention_heads"))
    activation = fields.text("hidden_activation", default="gelu_pytorch_tanh")
    kernel = fields.size("conv1d_width", default=4, least=2, most=10**4)
    rotary = fields.number("partial_rotary_factor", default=0.5)
    rotary = fields.inner("rope_parameters").number("partial_rotary_factor", default=rotary)
    if not 0 < rotary <= 1:
        fields.refuse("partial_rotary_factor", "must be above 0 and at most 1")
    turned = int(head_dim * rotary)
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=fields.flag("attention_bias"),
        output_bias=True,
        prefix="temporal_block",
        window=fields.size("attention_window_size", default=2048),
        rotary_dim=turned,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    recurrence = LinearRecurrence(hidden, width, heads, kernel, activation)
    wide = fields.size("intermediate_size", least=2) // 2
    inner = GatedFeedForward(hidden, wide, activation, True, prefix="mlp_block")
    norms = (GemmaRMSNorm(hidden, "temporal_pre_norm"), GemmaRMSNorm(hidden, "channel_pre_norm"))
    pattern = fields.items("block_types", "_block_types") or ["recurrent", "recurrent", "attention"]
    if any(each not in ("recurrent", "attention") for each in pattern):
        fields.refuse("block_types", "must hold recurrent and attention")
    blocks: dict[str, Block] = {
        "recurrent": NamedResidualBlock(recurrence, inner, norms),
        "attention": NamedResidualBlock(attention, inner, norms),
    }
    count, vocabulary = fields.size("num_hidden_layers"), fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings", default=True)
    capped = bool(fields.number("logits_soft_cap", default=30.0))
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, scaled=True),
        tuple(blocks[pattern[index % len(pattern)]] for index in range(count)),
        Head(vocabulary, hidden, tied, GemmaRMSNorm(hidden, "final_norm"), softcap=capped),
        rotary=turned,
    )


def xlstm(fields: Fields, name: str | None) -> Model:
    """xLSTM of 7 billion parameters and its kin: a matrix memory and a gated feed-forward layer in every block."""
    fields = with_defaults(fields, vocab_size=50304, num_heads=8)
    hidden = fields.size("hidden_size", "embedding_dim", default=4096)
    heads, vocabulary = fields.size("num_heads", most=4_096), fields.size("vocab_size")
    count = fields.size("num_hidden_layers", "num_blocks", default=32)
    bias = fields.flag("use_bias")
    mode = fields.text("weight_mode", default="single")
    if mode not in ("single", "fused"):
        fields.refuse("weight_mode", "must be single or fused")
    fused = mode == "fused"
    keys = _rounded(fields, hidden, "qk_dim_factor", 0.5, 64)
    values = _rounded(fields, hidden, "v_dim_factor", 1.0, 64)
    for each in (keys, values):
        fields.divides(each, heads, ("qk_dim_factor", "num_heads"))
    mixer = MatrixMemory(hidden, heads, keys, values, bias, fused, fields.size("chunk_size", default=64))
    step = fields.size("ffn_round_up_to_multiple_of", default=64, most=10**6)
    wide = _rounded(fields, hidden, "ffn_proj_factor", 2.667, step)
    inner = GatedFeedForward(
        hidden,
        wide,
        "silu",
        bias,
        gate="proj_up_gate",
        up="proj_up",
        down="proj_down",
        fused="proj_up_gate_z" if fused else None,
        prefix="ffn",
    )
    norms: tuple[Norm, ...] = tuple(LateRMSNorm(hidden, each, bias) for each in ("norm_mlstm", "norm_ffn"))
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, "embeddings"),
        (PreNormBlock(mixer, inner, norms),) * count,
        Head(
            vocabulary,
            hidden,
            fields.flag("tie_word_embeddings"),
            LateRMSNorm(hidden, "out_norm"),
            softcap=bool(fields.number("output_logit_soft_cap", default=30.0)),
        ),
    )


def _rounded(fields: Fields, hidden: int, key: str, default: float, step: int) -> int:
    """A width that is a multiple of the hidden size, rounded up."""
    factor = fields.number(key, default=default)
    if not 0 < factor <= 1_000:
        fields.refuse(key, "must be above 0 and at most 1,000")
    return round_up(int(hidden * factor), step)


READERS: dict[str, Reader] = {"recurrent_gemma": recurrent_gemma, "rwkv": rwkv, "xlstm": xlstm}
