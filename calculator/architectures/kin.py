"""Llama's kin: decoders of the same plan with other names, norms, activations or attention.

Those that transformers 5.23.0 has follow its classes; EXAONE 3, Qwen 1, ChatGLM, InternLM, Baichuan, Orion, MiniCPM,
Phi-3-small and the DeciLM models follow the modeling files published with their checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..layers.attention import Attention, Projections
from ..layers.blocks import Block, PostNormBlock, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.norms import LayerNorm, Norm, RMSNorm
from ..layers.variants import (
    DroppedFeedForward,
    GeGELUFeedForward,
    LayerNorm1P,
    Linear,
    PublishedAttention,
    RotatedThenNormed,
    ScaledBlock,
    ScaledQueries,
    WideRotary,
    XIELUFeedForward,
)
from ..model import Model
from ..tensors import Tensor
from ..units import round_up
from .fields import Fields, with_defaults
from .llama import attention_sizes, finish, layer_windows, llama_like, switched_windows
from .table import Reader


def stack(
    fields: Fields,
    name: str | None,
    layer: Callable[[int | None], Block],
    norm: Norm,
    *,
    windows: list[int | None] | None = None,
    tied: bool = False,
    rotary: int = 0,
    tables: tuple[Any, ...] | None = None,
    embedding: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    max_context: int | None = None,
    layers: tuple[Block, ...] | None = None,
    **more: Any,
) -> Model:
    """Embedding, layers (one object for each window, unless they are given), norm, head."""
    count = fields.size("num_hidden_layers", "num_layers", "n_layer", "n_layers")
    each = windows if windows is not None else [None] * count
    made = {window: layer(window) for window in dict.fromkeys(each)}
    vocabulary = fields.size("vocab_size")
    return finish(
        fields,
        name,
        Embedding(vocabulary, norm.width, **(embedding or {})),
        layers or tuple(made[window] for window in each),
        Head(vocabulary, norm.width, fields.flag("tie_word_embeddings", default=tied), norm, **(head or {})),
        rotary=rotary,
        tables=tables,
        max_context=max_context,
        **more,
    )


def rms_pair(hidden: int, first: str = "input_layernorm", second: str = "post_attention_layernorm") -> tuple[Norm, ...]:
    """The two norms of a Llama layer, under a family's names."""
    return (RMSNorm(hidden, first), RMSNorm(hidden, second))


def exaone(fields: Fields, name: str | None) -> Model:
    """EXAONE 3: Llama under GPT-2's names."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    attention = Attention(
        hidden, heads, kv_heads, head_dim, names=Projections(output="out_proj"), prefix="attn.attention"
    )
    wide = fields.size("intermediate_size", default=4 * hidden)
    activation = fields.text("activation_function", default="silu")
    feed_forward = GatedFeedForward(hidden, wide, activation, gate="c_fc_0", up="c_fc_1", down="c_proj")
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden, "ln_1", "ln_2"))
    return stack(
        fields, name, lambda _: block, RMSNorm(hidden, "ln_f"), tied=True, rotary=head_dim, embedding={"name": "wte"}
    )


def exaone4(fields: Fields, name: str | None) -> Model:
    """EXAONE 4: norms after each part and over each head; where some layers have a window, the others know no
    positions."""
    fields = with_defaults(
        fields,
        vocab_size=102400,
        hidden_size=4096,
        intermediate_size=16384,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=2048,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    window = fields.optional("sliding_window")
    windows = patterned_windows(fields, window)
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), fields.text("hidden_act", default="silu"))
    norms = rms_pair(hidden, "post_attention_layernorm", "post_feedforward_layernorm")

    def layer(each: int | None) -> Block:
        attention = Attention(
            hidden,
            heads,
            kv_heads,
            head_dim,
            query_norm=RMSNorm(head_dim, "q_norm"),
            key_norm=RMSNorm(head_dim, "k_norm"),
            turned_norms=True,
            rotary_dim=None if window is None or each is not None else 0,
            window=each,
            dropout=fields.number("attention_dropout", default=0.0),
        )
        return PostNormBlock(attention, feed_forward, norms)

    return stack(fields, name, layer, RMSNorm(hidden, "norm"), windows=windows, rotary=head_dim)


def patterned_windows(fields: Fields, window: int | None) -> list[int | None]:
    """Windows by `layer_types`, or by `sliding_window_pattern`: the period of full layers, or letters L and G."""
    count = fields.size("num_hidden_layers")
    if window is None or fields.has("layer_types"):
        return layer_windows(fields, count, None if window is None else window)
    pattern = fields.values.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        return [window if pattern[index % len(pattern)] == "L" else None for index in range(count)]
    period = fields.size("sliding_window_pattern", default=4)
    return [window if (index + 1) % period else None for index in range(count)]


def nemotron(fields: Fields, name: str | None) -> Model:
    """Nemotron and Minitron: layer norms around 1, squared ReLU without a gate, half of each head rotated."""
    fields = with_defaults(
        fields,
        vocab_size=256000,
        hidden_size=6144,
        intermediate_size=24576,
        num_hidden_layers=32,
        num_attention_heads=48,
        max_position_embeddings=4096,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    rotary = rotated_part(fields, head_dim, 0.5)
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        rotary_dim=rotary,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="relu2")
    feed_forward = FeedForward(hidden, fields.size("intermediate_size"), activation, fields.flag("mlp_bias"))
    norms = (LayerNorm1P(hidden, "input_layernorm"), LayerNorm1P(hidden, "post_attention_layernorm"))
    block = PreNormBlock(attention, feed_forward, norms)
    return stack(fields, name, lambda _: block, LayerNorm1P(hidden, "norm"), rotary=rotary)


def rotated_part(fields: Fields, head_dim: int, default: float) -> int:
    """Dimensions of a head that are rotated: `partial_rotary_factor`, where it stands now or once stood."""
    inside = fields.inner("rope_parameters") if fields.has("rope_parameters") else fields.inner("rope_scaling")
    factor = fields.number("partial_rotary_factor", default=inside.number("partial_rotary_factor", default=default))
    return min(max(int(head_dim * factor), 0), head_dim)


def arcee(fields: Fields, name: str | None) -> Model:
    """AFM: Llama with a squared ReLU and no gate."""
    fields = with_defaults(
        fields,
        vocab_size=32000,
        hidden_size=2560,
        intermediate_size=18432,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    activation = fields.text("hidden_act", default="relu2")
    feed_forward = FeedForward(hidden, fields.size("intermediate_size"), activation, fields.flag("mlp_bias"))
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    return stack(fields, name, lambda _: block, RMSNorm(hidden, "norm"), rotary=head_dim)


def seed_oss(fields: Fields, name: str | None) -> Model:
    """Seed-OSS: a bias on q, k and v; dropout after both parts unless the configuration says 0."""
    fields = with_defaults(
        fields,
        vocab_size=155136,
        hidden_size=4096,
        intermediate_size=27648,
        num_hidden_layers=64,
        num_attention_heads=80,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=524288,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    after = fields.number("residual_dropout", default=0.1)
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=fields.flag("attention_bias", default=True),
        output_bias=fields.flag("attention_out_bias"),
        dropout=fields.number("attention_dropout", default=0.1),
        output_dropout=after,
    )
    activation = fields.text("hidden_act", default="silu")
    wide, bias = fields.size("intermediate_size"), fields.flag("mlp_bias")
    feed_forward = DroppedFeedForward(hidden, wide, activation, bias, rate=after)
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    return stack(fields, name, lambda _: block, RMSNorm(hidden, "norm"), rotary=head_dim)


def ernie4_5(fields: Fields, name: str | None) -> Model:
    """ERNIE 4.5 without experts: rotated in float32, tied."""
    fields = with_defaults(
        fields,
        vocab_size=103424,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=18,
        num_attention_heads=16,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=131072,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("use_bias")
    attention = WideRotary(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    activation = fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, bias)
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    norm, tables = RMSNorm(hidden, "norm"), (("cos_once", head_dim), ("sin_once", head_dim))
    return stack(fields, name, lambda _: block, norm, tied=True, tables=tables, float_tables=True)


def hunyuan_v1_dense(fields: Fields, name: str | None) -> Model:
    """Hunyuan: norms over each head of q and k, after they are rotated."""
    fields = with_defaults(
        fields,
        vocab_size=290943,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = RotatedThenNormed(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=RMSNorm(head_dim, "query_layernorm"),
        key_norm=RMSNorm(head_dim, "key_layernorm"),
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation)
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    return stack(fields, name, lambda _: block, RMSNorm(hidden, "norm"), rotary=head_dim)


def apertus(fields: Fields, name: str | None) -> Model:
    """Apertus: norms over each head of q and k, xIELU without a gate."""
    fields = with_defaults(
        fields,
        vocab_size=131072,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=65536,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=RMSNorm(head_dim, "q_norm"),
        key_norm=RMSNorm(head_dim, "k_norm"),
        turned_norms=True,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation, wide = fields.text("hidden_act", default="xielu"), fields.size("intermediate_size")
    kind = XIELUFeedForward if activation == "xielu" else FeedForward
    block = PreNormBlock(
        attention,
        kind(hidden, wide, activation, bias=False),
        rms_pair(hidden, "attention_layernorm", "feedforward_layernorm"),
    )
    return stack(fields, name, lambda _: block, RMSNorm(hidden, "norm"), rotary=head_dim)


def ministral3(fields: Fields, name: str | None) -> Model:
    """Ministral 3 and Devstral 2: Mistral with queries scaled by their position."""
    fields = with_defaults(
        fields,
        vocab_size=131072,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=34,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=262144,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), fields.text("hidden_act", default="silu"))

    def layer(window: int | None) -> Block:
        dropout = fields.number("attention_dropout", default=0.0)
        attention = ScaledQueries(hidden, heads, kv_heads, head_dim, window=window, dropout=dropout)
        return PreNormBlock(attention, feed_forward, rms_pair(hidden))

    windows = layer_windows(fields, count, fields.optional("sliding_window"))
    return stack(fields, name, layer, RMSNorm(hidden, "norm"), windows=windows, rotary=head_dim)


def minicpm(fields: Fields, name: str | None) -> Model:
    """MiniCPM 1 and 4: Llama with scaled embeddings, residuals and logits; tied unless the configuration says no."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = PublishedAttention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), fields.text("hidden_act", default="silu"))
    block = ScaledBlock(attention, feed_forward, rms_pair(hidden))
    return stack(
        fields,
        name,
        lambda _: block,
        RMSNorm(hidden, "norm"),
        tied=True,
        rotary=head_dim,
        embedding={"scaled": True},
        head={"shrunk": True},
    )


def orion(fields: Fields, name: str | None) -> Model:
    """Orion: Llama with layer norms that have a bias."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    attention = PublishedAttention(hidden, heads, kv_heads, head_dim)
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), fields.text("hidden_act", default="silu"))
    norms = (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))
    block = PreNormBlock(attention, feed_forward, norms)
    return stack(fields, name, lambda _: block, LayerNorm(hidden, "norm"), rotary=head_dim)


def qwen(fields: Fields, name: str | None) -> Model:
    """Qwen 1: GPT-2's names, one matrix with a bias for q, k and v, a feed-forward layer of half the stated width."""
    hidden = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    head_dim = fields.size("kv_channels", default=128)
    bias = not fields.flag("no_bias", default=True)
    attention = PublishedAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=bias,
        names=Projections(fused="c_attn", output="c_proj"),
        prefix="attn",
        rotary_dim=rotary_dimensions(fields, head_dim, "rotary_pct"),
        wide_turn=True,
    )
    wide = fields.divides(fields.size("intermediate_size"), 2, ("intermediate_size", "2"))
    feed_forward = GatedFeedForward(hidden, wide, bias=bias, gate="w2", up="w1", down="c_proj")
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden, "ln_1", "ln_2"))
    norm = RMSNorm(hidden, "ln_f")
    context = fields.optional("max_position_embeddings", "seq_length")
    return stack(
        fields,
        name,
        lambda _: block,
        norm,
        rotary=attention.rotary_dim or head_dim,
        embedding={"name": "wte"},
        max_context=context,
        float_tables=True,
    )


def rotary_dimensions(fields: Fields, head_dim: int, key: str) -> int | None:
    """Dimensions of a head that are rotated, None for all of them."""
    part = min(max(int(head_dim * fields.number(key, default=1.0)), 0), head_dim)
    return None if part == head_dim else part


def chatglm(fields: Fields, name: str | None) -> Model:
    """ChatGLM 2 and 3 and the first GLM-4-9B: one matrix for q, k and v, two key-value heads, half a head rotated."""
    hidden = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    head_dim = fields.size("kv_channels", default=128)
    shared = fields.flag("multi_query_attention")
    kv_heads = fields.size("multi_query_group_num", default=1) if shared else heads
    if heads % kv_heads:
        fields.divides(heads, kv_heads, ("num_attention_heads", "multi_query_group_num"))
    bias = fields.flag("add_bias_linear")
    attention = PublishedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias or fields.flag("add_qkv_bias"),
        output_bias=bias,
        names=Projections(fused="query_key_value", output="dense"),
        prefix="self_attention",
        rotary_dim=head_dim // 2,
    )
    wide = fields.size("ffn_hidden_size")
    feed_forward = GatedFeedForward(hidden, wide, bias=bias, fused="dense_h_to_4h", down="dense_4h_to_h")
    kind = RMSNorm if fields.flag("rmsnorm", default=True) else LayerNorm
    norms = (kind(hidden, "input_layernorm"), kind(hidden, "post_attention_layernorm"))
    block = PreNormBlock(attention, feed_forward, norms)
    values = {**fields.values, "vocab_size": fields.size("padded_vocab_size", "vocab_size")}
    return stack(
        Fields(values, fields.path),
        name,
        lambda _: block,
        kind(hidden, "final_layernorm"),
        rotary=head_dim // 2,
        embedding={"name": "word_embeddings"},
        head={"name": "output_layer"},
        max_context=fields.optional("max_position_embeddings", "seq_length"),
    )


def mimo(fields: Fields, name: str | None) -> Model:
    """MiMo: Qwen 2 with layers that predict further tokens beside it."""
    count = fields.size("num_hidden_layers")
    bias = fields.flag("attention_bias", default=True)
    model = llama_like(fields, name, bias=bias, output_bias=False, windows=switched_windows(fields, count))
    ahead = fields.size("num_nextn_predict_layers", default=0, least=0)
    return replace(model, speculative=predictors(model.layers[-1], model.hidden, ahead)) if ahead else model


def predictors(layer: Block, hidden: int, count: int) -> tuple[Tensor, ...]:
    """Layers that predict further tokens: each a layer, a matrix that joins two hidden states, and three norms."""
    beside = (
        Tensor("input_proj.weight", (hidden, 2 * hidden), "other", "other", True),
        *(
            Tensor(f"{each}.weight", (hidden,), "norm", "norm")
            for each in ("token_layernorm", "hidden_layernorm", "final_layernorm")
        ),
    )
    return tuple(replace(tensor, count=tensor.count * count) for tensor in (*layer.tensors(), *beside))


def decilm(fields: Fields, name: str | None) -> Model:
    """Llama Nemotron Super and Ultra, found by architecture search: each layer has its own attention and width, or
    none, or one matrix in its place."""
    hidden = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    head_dim = fields.size("head_dim", default=0) or fields.divides(
        hidden, heads, ("hidden_size", "num_attention_heads")
    )
    count = fields.size("num_hidden_layers")
    entries = fields.items("block_configs", length=count)
    if entries is None:
        fields.size("block_configs")  # raises: it is needed
    made: dict[str, Block] = {}
    layers: list[Block] = []
    for index, _ in enumerate(entries or ()):
        part = Fields({"block": (entries or ())[index]}, f"{fields.path}.block_configs[{index}]").inner("block")
        key = repr(part.values)
        if key not in made:
            made[key] = deci_block(fields, part, hidden, heads, head_dim)
        layers.append(made[key])
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    embedding, head = Embedding(vocabulary, hidden), Head(vocabulary, hidden, tied, RMSNorm(hidden, "norm"))
    return finish(fields, name, embedding, tuple(layers), head, rotary=head_dim)


def deci_block(fields: Fields, part: Fields, hidden: int, heads: int, head_dim: int) -> Block:
    """One layer of a DeciLM model, from its entry in `block_configs`."""
    attention, feed_forward = part.inner("attention"), part.inner("ffn")
    mixer: Any = None
    bias = fields.flag("attention_bias")
    if attention.flag("replace_with_linear"):
        mixer = Linear(hidden, "self_attn.linear_attn", "attention", "attn_output")
    elif not attention.flag("no_op"):
        group = attention.size("n_heads_in_group", default=1)
        kv_heads = fields.divides(heads, group, ("num_attention_heads", "n_heads_in_group"))
        window = attention.optional("window_length")
        mixer = PublishedAttention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias, window=window)
    inner: Any = None
    if feed_forward.flag("replace_with_linear"):
        inner = Linear(hidden, "mlp.linear_mlp", "mlp_dense", "ffn_down")
    elif not feed_forward.flag("no_op"):
        wide = feed_forward.size("intermediate_size", default=0)
        if not wide:
            wide = round_up(int(2 * feed_forward.number("ffn_mult", default=4.0) * hidden / 3), 256)
        checked = Fields({"intermediate_size": wide}, feed_forward.path).size("intermediate_size")
        activation = fields.text("hidden_act", default="silu")
        inner = GatedFeedForward(hidden, checked, activation, fields.flag("mlp_bias"))
    norms: list[Norm] = [RMSNorm(hidden, "input_layernorm")] if mixer is not None else []
    norms += [RMSNorm(hidden, "post_attention_layernorm")] if inner is not None else []
    return PreNormBlock(mixer, inner, tuple(norms))


def internlm(fields: Fields, name: str | None) -> Model:
    """InternLM 1: Llama with a bias on all four matrices of attention."""
    bias = fields.flag("bias", default=True)
    return llama_like(fields, name, bias=bias, output_bias=bias)


def internlm2(fields: Fields, name: str | None) -> Model:
    """InternLM 2: one matrix holds q, k and v group by group."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("bias")
    attention = PublishedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        names=Projections(fused="wqkv", output="wo"),
        prefix="attention",
        gathered=True,
    )
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("intermediate_size")
    feed_forward = GatedFeedForward(
        hidden, wide, activation, gate="w1", up="w3", down="w2", prefix="feed_forward"
    )
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden, "attention_norm", "ffn_norm"))
    return stack(
        fields,
        name,
        lambda _: block,
        RMSNorm(hidden, "norm"),
        rotary=head_dim,
        embedding={"name": "tok_embeddings"},
        head={"name": "output"},
    )


def phi3small(fields: Fields, name: str | None) -> Model:
    """Phi-3-small: one matrix holds q, k and v group by group, biases everywhere, a clamped GEGLU; blocksparse layers
    keep the whole cache."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    attention = PublishedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(fused="query_key_value", output="dense"),
        gathered=True,
    )
    wide = fields.size("ff_intermediate_size", "intermediate_size")
    dropped = fields.number("ffn_dropout_prob", default=0.1)
    feed_forward = GeGELUFeedForward(hidden, wide, dropout=dropped)
    norms = (LayerNorm(hidden, "input_layernorm"), LayerNorm(hidden, "post_attention_layernorm"))
    block = PreNormBlock(attention, feed_forward, norms)
    return stack(
        fields,
        name,
        lambda _: block,
        LayerNorm(hidden, "final_layernorm"),
        tied=True,
        rotary=head_dim,
        embedding={"scaled": True, "dropout": fields.number("embedding_dropout_prob", default=0.1)},
        head={"scaled": True},
    )


ROTATED_BAICHUAN = 4096  # the hidden size of Baichuan 7B, which rotates; 13B has ALiBi (as engines tell them apart)


def baichuan(fields: Fields, name: str | None) -> Model:
    """Baichuan 1 and 2: one matrix for q, k and v; 7B rotates, 13B adds ALiBi to its mask."""
    hidden, heads, _, head_dim = attention_sizes(fields)
    rotates = hidden == ROTATED_BAICHUAN
    attention = PublishedAttention(
        hidden,
        heads,
        heads,
        head_dim,
        names=Projections(fused="W_pack"),
        rotary_dim=None if rotates else 0,
    )
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), fields.text("hidden_act", default="silu"))
    block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    return stack(
        fields,
        name,
        lambda _: block,
        RMSNorm(hidden, "norm"),
        rotary=head_dim if rotates else 0,
        max_context=fields.optional("max_position_embeddings", "model_max_length"),
    )


READERS: dict[str, Reader] = {
    "apertus": apertus,
    "arcee": arcee,
    "baichuan": baichuan,
    "chatglm": chatglm,
    "ernie4_5": ernie4_5,
    "exaone": exaone,
    "exaone4": exaone4,
    "hunyuan_v1_dense": hunyuan_v1_dense,
    "internlm": internlm,
    "internlm2": internlm2,
    "mimo": mimo,
    "minicpm": minicpm,
    "ministral3": ministral3,
    "nemotron": nemotron,
    "nemotron-nas": decilm,
    "orion": orion,
    "phi3small": phi3small,
    "qwen": qwen,
    "seed_oss": seed_oss,
}
