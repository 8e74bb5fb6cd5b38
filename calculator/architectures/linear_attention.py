"""Families whose layers are mostly linear attention: Qwen 3 Next and 3.5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InvalidConfig
from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.linear_attention import GatedAttention, GatedDeltaNet
from ..layers.norms import GemmaRMSNorm
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .fields import Fields
from .llama import attention_sizes, finish
from .state_space import state_precision
from .table import Reader


def with_default(fields: Fields, **values: Any) -> Fields:
    """The same fields, some of them filled in where they are absent."""
    present = {name: value for name, value in fields.values.items() if value is not None}
    return Fields({**values, **present}, fields.path)


def alternating(fields: Fields, count: int) -> list[str]:
    """The kind of each layer: `layer_types`, or full attention every `full_attention_interval` layers."""
    kinds = fields.items("layer_types", length=count)
    if kinds is None:
        every = fields.size("full_attention_interval", default=4)
        return ["full_attention" if (index + 1) % every == 0 else "linear_attention" for index in range(count)]
    for kind in kinds:
        if kind not in ("full_attention", "linear_attention"):
            raise InvalidConfig(
                f"{fields.path}.layer_types has {kind!r:.40}; known: full_attention, linear_attention",
                f"{fields.path}.layer_types",
            )
    return kinds


def delta_net(fields: Fields, hidden: int, fused: bool) -> GatedDeltaNet:
    """The delta rule of Qwen 3 Next (two joint matrices) and 3.5 (four)."""
    keys, values = (
        fields.size("linear_num_key_heads", default=16),
        fields.size("linear_num_value_heads", default=32),
    )
    fields.divides(values, keys, ("linear_num_value_heads", "linear_num_key_heads"))
    return GatedDeltaNet(
        hidden,
        keys,
        values,
        fields.size("linear_key_head_dim", default=128),
        fields.size("linear_value_head_dim", default=128),
        fields.size("linear_conv_kernel_dim", default=4),
        fused=fused,
        precision=state_precision(fields),
    )


def gated_attention(fields: Fields) -> GatedAttention:
    """Grouped heads with norms over q and k, a quarter of each rotated, and an output gate."""
    hidden, heads, kv_heads, head_dim = attention_sizes(with_default(fields, head_dim=256), kv_default=2)
    bias = fields.flag("attention_bias")
    share = fields.inner("rope_parameters").number("partial_rotary_factor", default=0.0) or fields.number(
        "partial_rotary_factor", default=0.25
    )
    rotary = int(head_dim * share)
    if not 0 < rotary <= head_dim:
        raise InvalidConfig(
            f"{fields.path}.partial_rotary_factor must leave some of a head to rotate",
            f"{fields.path}.partial_rotary_factor",
        )
    return GatedAttention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=GemmaRMSNorm(head_dim, "q_norm"),
        key_norm=GemmaRMSNorm(head_dim, "k_norm"),
        rotary_dim=rotary,
        gated=True,
    )


def speculative(fields: Fields, attending: Block, hidden: int) -> tuple[Tensor, ...]:
    """The layers that predict a token more: a full-attention layer, a matrix over two hidden states, three norms."""
    count = fields.optional("mtp_num_hidden_layers", "num_nextn_predict_layers") or 0
    made = [
        *attending.tensors(),
        Tensor("fc.weight", (hidden, 2 * hidden), "other", "other", True),
        *(
            Tensor(f"{name}.weight", (hidden,), "norm", "norm")
            for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
        ),
    ]
    return tuple(replace(tensor, name=f"mtp.{tensor.name}", count=tensor.count * count) for tensor in made if count)


def mixed(fields: Fields, name: str | None, feed_forwards: list[Any], fused: bool) -> Model:
    """A text model of delta-rule and full-attention layers, with the feed-forward layer that each of them has."""
    attention = gated_attention(fields)
    hidden, count = attention.hidden, len(feed_forwards)
    mixers = {"full_attention": attention, "linear_attention": delta_net(fields, hidden, fused)}
    norms = (GemmaRMSNorm(hidden, "input_layernorm"), GemmaRMSNorm(hidden, "post_attention_layernorm"))
    made: dict[tuple[str, int], Block] = {}
    layers: list[Block] = []
    for kind, feed_forward in zip(alternating(fields, count), feed_forwards, strict=True):
        key = (kind, id(feed_forward))
        if key not in made:
            made[key] = PreNormBlock(mixers[kind], feed_forward, norms)
        layers.append(made[key])
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    model = finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(layers),
        Head(vocabulary, hidden, tied, GemmaRMSNorm(hidden, "norm")),
        rotary=attention.rotary_dim or 0,
    )
    last = PreNormBlock(attention, feed_forwards[-1], norms)
    return replace(model, speculative=speculative(fields, last, hidden))


def text_of(fields: Fields) -> Fields:
    """The text part of a configuration with towers, completed by what stands beside it; else the whole."""
    if not fields.has("text_config"):
        return fields
    text = fields.inner("text_config")
    beside = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")
    return with_default(text, **{name: fields.values[name] for name in beside if name in fields.values})


def completed(fields: Fields, model: Model, towers: tuple[Tower, ...]) -> Model:
    """A text model as a part of the whole that its configuration describes."""
    quantization = fields.values.get("quantization_config")
    return replace(
        model,
        model_type=str(fields.values.get("model_type", "")),
        config=fields.values,
        towers=towers,
        quantization=quantization if isinstance(quantization, dict) else model.quantization,
    )


def qwen3_tower(fields: Fields) -> Tower:
    """The vision tower of Qwen 3.5: patches, learned positions, blocks with biases, and a merger of 2 × 2 patches."""
    width, wide = fields.size("hidden_size", default=1152), fields.size("intermediate_size", default=4304)
    patch, time = fields.size("patch_size", default=16), fields.size("temporal_patch_size", default=2)
    merged = width * fields.size("spatial_merge_size", default=2) ** 2
    out = fields.size("out_hidden_size", default=3584)
    block = (
        *layer_norm("blocks.norm1", width),
        *layer_norm("blocks.norm2", width),
        *matrix("blocks.attn.qkv", 3 * width, width),
        *matrix("blocks.attn.proj", width, width),
        *matrix("blocks.mlp.linear_fc1", wide, width),
        *matrix("blocks.mlp.linear_fc2", width, wide),
    )
    channels = fields.size("in_channels", default=3)
    return Tower(
        "vision",
        (
            table("patch_embed.proj.weight", width, channels, time, patch, patch),
            table("patch_embed.proj.bias", width),
            table("pos_embed.weight", fields.size("num_position_embeddings", default=2304), width),
            *times(block, fields.size("depth", default=27)),
            *layer_norm("merger.norm", width),
            *matrix("merger.linear_fc1", merged, merged),
            *matrix("merger.linear_fc2", out, merged),
        ),
    )


def qwen3_5(fields: Fields, name: str | None) -> Model:
    """Qwen 3.5, dense: three delta-rule layers to one full-attention layer, and a vision tower."""
    text = text_of(fields)
    count = text.size("num_hidden_layers", default=32)
    feed_forward = GatedFeedForward(
        text.size("hidden_size", default=4096),
        text.size("intermediate_size", default=12288),
        text.text("hidden_act", default="silu"),
    )
    model = mixed(text, name, [feed_forward] * count, fused=False)
    towers = (qwen3_tower(fields.inner("vision_config")),) if text is not fields else ()
    return completed(fields, model, towers)


READERS: dict[str, Reader] = {
    "qwen3_5": qwen3_5,
    "qwen3_5_text": qwen3_5,
}
