"""Llama's and GPT-2's later kin: families that share their layers with others."""

from __future__ import annotations

from typing import Any

from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, ParallelBlock, PreNormBlock
from ..layers.early import NamedBlock
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.later import FilledAttention, NormedFeedForward, NormedOutput, PairedRotary, ShortConvolution
from ..layers.norms import LateRMSNorm, LayerNorm, Norm, RMSNorm
from ..layers.partial import CenteredNorm, RotatedInFloat
from ..model import Model
from ..units import round_up
from .fields import Fields, with_defaults
from .kin import patterned_windows, rms_pair, stack
from .llama import attention_sizes, layer_windows, llama_like
from .table import Reader


def ministral(fields: Fields, name: str | None) -> Model:
    """Ministral under its own model type: Mistral with a kind for each layer."""
    count = fields.size("num_hidden_layers")
    window = fields.optional("sliding_window")
    return llama_like(fields, name, bias=False, windows=layer_windows(fields, count, window))


def cwm(fields: Fields, name: str | None) -> Model:
    """Code World Model: Llama 3 where every fourth layer, from the first on, looks at everything."""
    fields = with_defaults(
        fields,
        vocab_size=128256,
        hidden_size=6144,
        intermediate_size=21504,
        num_hidden_layers=64,
        num_attention_heads=48,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    )
    count, window = fields.size("num_hidden_layers"), fields.optional("sliding_window")
    if fields.has("layer_types"):
        return llama_like(fields, name, bias=False, windows=layer_windows(fields, count, window))
    windows = [window if index % 4 else None for index in range(count)]
    return llama_like(fields, name, bias=False, windows=windows)


def cohere2(fields: Fields, name: str | None) -> Model:
    """Command R7B, Command A: Cohere where three layers in four rotate and look back a window, the fourth neither."""
    fields = with_defaults(
        fields,
        vocab_size=256000,
        hidden_size=8192,
        intermediate_size=22528,
        num_hidden_layers=40,
        num_attention_heads=64,
        max_position_embeddings=8192,
        sliding_window=4096,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias, dropout = fields.flag("attention_bias"), fields.number("attention_dropout", default=0.0)
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), fields.text("hidden_act", default="silu"))

    def layer(window: int | None) -> Block:
        sizes = (hidden, heads, kv_heads, head_dim)
        attention = (
            Attention(*sizes, bias=bias, output_bias=bias, rotary_dim=0, dropout=dropout)
            if window is None
            else RotatedInFloat(*sizes, bias=bias, output_bias=bias, window=window, dropout=dropout)
        )
        return ParallelBlock(attention, feed_forward, (CenteredNorm(hidden, "input_layernorm"),), residual_first=True)

    windows = patterned_windows(fields, fields.optional("sliding_window"))
    norm = CenteredNorm(hidden, "norm")
    return stack(fields, name, layer, norm, windows=windows, tied=True, rotary=head_dim, head={"scaled": True})


def helium(fields: Fields, name: str | None) -> Model:
    """Helium: norms that stay in float32 until the end, neighbours rotated instead of halves."""
    fields = with_defaults(
        fields,
        vocab_size=48000,
        hidden_size=2560,
        intermediate_size=7040,
        num_hidden_layers=24,
        num_attention_heads=20,
        num_key_value_heads=20,
        head_dim=128,
        max_position_embeddings=4096,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    attention = PairedRotary(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=fields.flag("attention_bias"),
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("intermediate_size")
    feed_forward = GatedFeedForward(hidden, wide, activation, fields.flag("mlp_bias"))
    norms: tuple[Norm, ...] = (
        LateRMSNorm(hidden, "input_layernorm"),
        LateRMSNorm(hidden, "post_attention_layernorm"),
    )
    block = PreNormBlock(attention, feed_forward, norms)
    tables = (("cos_once", head_dim), ("sin_once", head_dim))
    return stack(fields, name, lambda _: block, LateRMSNorm(hidden, "norm"), tables=tables)


def jais2(fields: Fields, name: str | None) -> Model:
    """Jais 2: layer norms, a squared ReLU without a gate, biases everywhere."""
    fields = with_defaults(
        fields,
        vocab_size=150272,
        hidden_size=3328,
        intermediate_size=26624,
        num_hidden_layers=32,
        num_attention_heads=26,
        max_position_embeddings=8192,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias", default=True)
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    activation, wide = fields.text("hidden_act", default="relu2"), fields.size("intermediate_size")
    feed_forward = FeedForward(hidden, wide, activation, fields.flag("mlp_bias", default=True))
    norms = (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))
    block = PreNormBlock(attention, feed_forward, norms)
    return stack(fields, name, lambda _: block, LayerNorm(hidden, "norm"), rotary=head_dim)


def bitnet(fields: Fields, name: str | None) -> Model:
    """BitNet: Llama with a norm before each part's last matrix. Ternary weights are a number format, not a layer."""
    fields = with_defaults(
        fields,
        vocab_size=128256,
        hidden_size=2560,
        intermediate_size=6912,
        num_hidden_layers=30,
        num_attention_heads=20,
        num_key_value_heads=5,
        max_position_embeddings=2048,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias, wide = fields.flag("attention_bias"), fields.size("intermediate_size")
    attention = NormedOutput(
        hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias, inner=RMSNorm(hidden, "attn_sub_norm")
    )
    activation = fields.text("hidden_act", default="relu2")
    feed_forward = NormedFeedForward(hidden, wide, activation, inner=RMSNorm(wide, "ffn_sub_norm"))
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    return stack(fields, name, lambda _: block, RMSNorm(hidden, "norm"), rotary=head_dim)


def lfm2(fields: Fields, name: str | None) -> Model:
    """LFM 2: short convolutions, and attention with norms over each head in some layers; tied."""
    fields = with_defaults(
        fields,
        vocab_size=65536,
        hidden_size=2560,
        intermediate_size=12288,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=128000,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    wide = fields.size("block_ff_dim", "intermediate_size")
    if fields.flag("block_auto_adjust_ff_dim", default=True):
        wide = int(fields.number("block_ffn_dim_multiplier", default=1.0) * int(2 * wide / 3))
        wide = round_up(wide, fields.size("block_multiple_of", default=256))
    wide = Fields({"intermediate_size": wide}, fields.path).size("intermediate_size")
    feed_forward = GatedFeedForward(hidden, wide, gate="w1", up="w3", down="w2", prefix="feed_forward")
    norms = rms_pair(hidden, "operator_norm", "ffn_norm")
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        names=Projections(output="out_proj"),
        query_norm=RMSNorm(head_dim, "q_layernorm"),
        key_norm=RMSNorm(head_dim, "k_layernorm"),
    )
    kernel = fields.size("conv_L_cache", default=3)
    convolution = ShortConvolution(hidden, kernel, fields.flag("conv_bias"))
    attending, convolving = PreNormBlock(attention, feed_forward, norms), PreNormBlock(convolution, feed_forward, norms)
    kinds: list[Any] | None = fields.items("layer_types", length=count)
    if kinds is None:
        full = fields.items("full_attn_idxs")
        kinds = ["full_attention" if full is None or index in full else "conv" for index in range(count)]
    layers: tuple[Block, ...] = tuple(convolving if kind == "conv" else attending for kind in kinds)
    return stack(
        fields,
        name,
        lambda _: attending,
        RMSNorm(hidden, "embedding_norm"),
        tied=fields.flag("tie_embedding", default=True),
        rotary=head_dim,
        layers=layers,
    )


def gpt_neo(fields: Fields, name: str | None) -> Model:
    """GPT-Neo: GPT-2 with scores in float32; every other layer looks back a window, but keeps everything."""
    fields = with_defaults(
        fields,
        vocab_size=50257,
        max_position_embeddings=2048,
        hidden_size=2048,
        num_layers=24,
        num_heads=16,
    )
    hidden, heads = fields.size("hidden_size"), fields.size("num_heads", "num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_heads"))
    dropped = fields.number("resid_dropout", default=0.0)
    attention = FilledAttention(
        hidden,
        heads,
        heads,
        head_dim,
        output_bias=True,
        names=Projections(output="out_proj"),
        prefix="attn.attention",
        rotary_dim=0,
        dropout=fields.number("attention_dropout", default=0.0),
        output_dropout=dropped,
    )
    wide = fields.optional("intermediate_size") or 4 * hidden
    activation = fields.text("activation_function", default="gelu_new")
    feed_forward = FeedForward(hidden, wide, activation, up="c_fc", down="c_proj", dropout=dropped)
    block = NamedBlock(attention, feed_forward, (LayerNorm(hidden, "ln_1"), LayerNorm(hidden, "ln_2")))
    positions = fields.size("max_position_embeddings")
    dropout = fields.number("embed_dropout", default=0.0)
    return stack(
        fields,
        name,
        lambda _: block,
        LayerNorm(hidden, "ln_f"),
        tied=True,
        embedding={"name": "wte", "positions": positions, "position_name": "wpe", "dropout": dropout},
        max_context=positions,
        sdpa=False,
        holds_outputs=True,
    )


READERS: dict[str, Reader] = {
    "bitnet": bitnet,
    "cohere2": cohere2,
    "cwm": cwm,
    "gpt_neo": gpt_neo,
    "helium": helium,
    "jais2": jais2,
    "lfm2": lfm2,
    "ministral": ministral,
}
