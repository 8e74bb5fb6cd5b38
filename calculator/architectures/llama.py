"""Llama and the families that differ from it by a bias, a norm or a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..layers.attention import Attention
from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import Norm, RMSNorm
from ..layers.variants import ScaledBlock
from ..model import Model
from .fields import Fields, with_defaults
from .table import Reader

PRECISIONS = {"float32", "float16", "bfloat16"}


def attention_sizes(fields: Fields, kv_default: int | None = None) -> tuple[int, int, int, int]:
    """hidden, heads, key-value heads, width of a head."""
    hidden = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", default=kv_default or heads)
    if heads % kv_heads:
        fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    head_dim = fields.size("head_dim", default=0) or fields.divides(
        hidden, heads, ("hidden_size", "num_attention_heads")
    )
    return hidden, heads, kv_heads, head_dim


def precision_of(fields: Fields) -> str | None:
    """The dtype of the published checkpoint, if the configuration says one we know."""
    named = fields.values.get("torch_dtype") or fields.values.get("dtype")
    return named if isinstance(named, str) and named in PRECISIONS else None


def finish(
    fields: Fields,
    name: str | None,
    embedding: Embedding,
    layers: tuple[Block, ...],
    head: Head,
    *,
    rotary: int = 0,
    tables: tuple[tuple[str, int], ...] | None = None,
    max_context: int | None = None,
    **more: Any,
) -> Model:
    """A model of the text kind: what every reader ends with."""
    made = tables if tables is not None else ((("cos", rotary), ("sin", rotary)) if rotary else ())
    quantization = fields.values.get("quantization_config")
    return Model(
        name=name,
        model_type=str(fields.values.get("model_type", "")),
        embedding=embedding,
        layers=layers,
        head=head,
        tables=made,
        max_context=max_context if max_context is not None else fields.optional("max_position_embeddings"),
        default_precision=precision_of(fields),
        quantization=quantization if isinstance(quantization, dict) else None,
        config=fields.values,
        **more,
    )


def layer_windows(fields: Fields, count: int, window: int | None) -> list[int | None]:
    """The window of each layer, from `layer_types` where it is there, else the same for all."""
    kinds = fields.items("layer_types", length=count)
    if kinds is None:
        return [window] * count
    return [window if kind == "sliding_attention" else None for kind in kinds]


def llama_like(
    fields: Fields,
    name: str | None,
    *,
    bias: bool | None = None,
    output_bias: bool | None = None,
    head_norm: bool = False,
    tied_default: bool = False,
    window: int | None = None,
    windows: list[int | None] | None = None,
) -> Model:
    """RMSNorm, rotary attention, RMSNorm, gated feed-forward: the plan that most families share."""
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    count = fields.size("num_hidden_layers")
    attention_bias = fields.flag("attention_bias") if bias is None else bias
    wide = fields.size("intermediate_size")
    activation = fields.text("hidden_act", "hidden_activation", default="silu")
    per_layer = windows if windows is not None else layer_windows(fields, count, window)
    feed_forward = GatedFeedForward(hidden, wide, activation, fields.flag("mlp_bias"))
    norms: tuple[Norm, ...] = (
        RMSNorm(hidden, "input_layernorm"),
        RMSNorm(hidden, "post_attention_layernorm"),
    )
    made: dict[int | None, Block] = {}
    for each in per_layer:
        if each not in made:
            attention = Attention(
                hidden,
                heads,
                kv_heads,
                head_dim,
                bias=attention_bias,
                output_bias=attention_bias if output_bias is None else output_bias,
                query_norm=RMSNorm(head_dim, "q_norm") if head_norm else None,
                key_norm=RMSNorm(head_dim, "k_norm") if head_norm else None,
                window=each,
                dropout=fields.number("attention_dropout", default=0.0),
            )
            made[each] = PreNormBlock(attention, feed_forward, norms)
    vocabulary = fields.size("vocab_size")
    tied = fields.flag("tie_word_embeddings", default=tied_default)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden),
        tuple(made[each] for each in per_layer),
        Head(vocabulary, hidden, tied, RMSNorm(hidden, "norm")),
        rotary=head_dim,
    )


# What the configuration classes of transformers 5.23.0 fill in where a field is absent.
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
MISTRAL = {**LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072}
QWEN = {
    **LLAMA,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}


def llama(fields: Fields, name: str | None) -> Model:
    """Llama 1 to 3."""
    return llama_like(with_defaults(fields, **LLAMA), name)


def mistral(fields: Fields, name: str | None) -> Model:
    """Mistral: Llama with a window in all layers, where the configuration names one."""
    fields = with_defaults(fields, **MISTRAL)
    return llama_like(fields, name, bias=False, window=fields.optional("sliding_window"))


def qwen2(fields: Fields, name: str | None) -> Model:
    """Qwen 1.5 to 2.5: a bias on q, k and v alone; windows only from `max_window_layers` on, and only if switched
    on."""
    fields = with_defaults(fields, **QWEN)
    count = fields.size("num_hidden_layers")
    return llama_like(fields, name, bias=True, output_bias=False, windows=switched_windows(fields, count))


def switched_windows(fields: Fields, count: int) -> list[int | None]:
    """Qwen's windows: `layer_types`, or the layers from `max_window_layers` on while `use_sliding_window`."""
    window = fields.optional("sliding_window") if fields.flag("use_sliding_window") else None
    if fields.has("layer_types") or window is None:
        return layer_windows(fields, count, window)
    first = fields.size("max_window_layers", default=28, least=0)
    return [window if index >= first else None for index in range(count)]


def qwen3(fields: Fields, name: str | None) -> Model:
    """Qwen 3: norms over each head of q and k, heads of 128 whatever the hidden size."""
    fields = with_defaults(fields, **QWEN, head_dim=128)
    count = fields.size("num_hidden_layers")
    return llama_like(fields, name, head_norm=True, windows=switched_windows(fields, count))


def granite(fields: Fields, name: str | None) -> Model:
    """Granite 3: Llama with constant factors on the embedding, on what each part adds, and on the logits."""
    model = llama_like(fields, name)
    layers = {layer: ScaledBlock(layer.mixer, layer.feed_forward, layer.norms) for layer in model.distinct}
    return replace(
        model,
        embedding=replace(model.embedding, scaled=True, scaled_after=True),
        layers=tuple(layers[layer] for layer in model.layers),
        head=replace(model.head, scaled=True),
    )


def smollm3(fields: Fields, name: str | None) -> Model:
    """SmolLM 3: every fourth layer goes without rotation, by `no_rope_layers` or `no_rope_layer_interval`."""
    count = fields.size("num_hidden_layers")
    fields = Fields({"tie_word_embeddings": True, "num_key_value_heads": 4, **fields.values}, fields.path)
    model = llama_like(fields, name, windows=switched_windows(fields, count))
    listed = fields.items("no_rope_layers", length=count)
    interval = fields.size("no_rope_layer_interval", default=4)
    rotated = [bool(each) for each in listed] if listed is not None else [(i + 1) % interval != 0 for i in range(count)]
    made: dict[Block, Block] = {}
    for layer in model.distinct:
        made[layer] = replace(layer, mixer=replace(layer.mixer, rotary_dim=0))  # type: ignore[type-var]
    pairs = zip(model.layers, rotated, strict=True)
    return replace(model, layers=tuple(layer if turned else made[layer] for layer, turned in pairs))


def internlm3(fields: Fields, name: str | None) -> Model:
    """InternLM 3: Llama with heads of 128 and two key-value heads where the configuration says nothing."""
    bias = fields.flag("qkv_bias", "attention_bias")
    given = {"head_dim": 128, "num_key_value_heads": 2, **fields.values}
    if fields.has("bias"):
        given = {**given, "mlp_bias": fields.flag("bias")}
    return llama_like(Fields(given, fields.path), name, bias=bias, output_bias=fields.flag("bias", "attention_bias"))


READERS: dict[str, Reader] = {
    "granite": granite,
    "internlm3": internlm3,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
}
