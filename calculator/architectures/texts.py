"""The text part inside a configuration with towers: any family that has a reader, with its own class's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidConfig, nearest
from ..layers.ends import Head
from ..model import Model
from .families import TEXTS
from .fields import Fields, with_defaults

# What the configuration classes of transformers 5.23.0 fill in: text parts leave out what is equal to it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 8192,
    },
    "gemma2": {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
    },
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "granite": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "ministral3": {
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
    },
    "opt": {
        "vocab_size": 50272,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
    },
    "phi": {
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "phi3": {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
    },
    "qwen3_moe": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 32768,
    },
    "qwen3_5_text": {
        "vocab_size": 248320,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 32768,
    },
    "gpt_oss": {
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "max_position_embeddings": 131072,
    },
}
BESIDE = ("torch_dtype", "dtype", "quantization_config")
TIED = {  # whose configuration class ties the head where nothing is said
    "cohere",
    "cohere2",
    "ernie4_5",
    "ernie4_5_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "gemma4_text",
    "gpt2",
    "lfm2",
    "opt",
    "smollm3",
    "starcoder2",
}


def part(fields: Fields, name: str, absent: Mapping[str, Any] | None = None) -> Fields:
    """A part of a configuration. Where it is absent as a whole, `absent` stands for it: transformers does not mix the
    two."""
    return fields.inner(name) if fields.has(name) or absent is None else Fields(absent, f"{fields.path}.{name}")


def text_part(
    fields: Fields, kind: str, absent: Mapping[str, Any] | None = None, fixed: bool = False
) -> tuple[str, Fields]:
    """The family of the text part and its fields, completed by what stands beside it.

    The part names its own family in `model_type`, else it is of `kind`, as it always is where that is `fixed`. Older
    checkpoints have no such part, but its fields at the top.
    """
    if not fields.has("text_config") and fields.has("num_hidden_layers", "num_attention_heads"):
        text = Fields({**fields.values, "model_type": kind}, fields.path)
    else:
        text = part(fields, "text_config", absent)
        beside = {each: fields.values[each] for each in BESIDE if fields.has(each) and not text.has(each)}
        text = Fields({**text.values, **beside}, text.path)
    named = kind if fixed else text.text("model_type", default=kind)
    if named not in TEXTS and not fixed:
        path = f"{fields.path}.text_config.model_type"
        close = nearest(named[:100], TEXTS)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InvalidConfig(f"{path} {named!r:.60} is no text model that this program reads{hint}", path)
    return named, text if fixed else with_defaults(text, **DEFAULTS.get(named, {}))


def tied_outside(fields: Fields, default: bool) -> bool:
    """Whether the head is tied, by what the whole configuration says: `default` where it says nothing."""
    return fields.flag("tie_word_embeddings", default=default)


def tied_anywhere(fields: Fields, kind: str) -> bool:
    """The same, where the text part's word counts too: what either says is tied."""
    inside = fields.inner("text_config").flag("tie_word_embeddings", default=kind in TIED)
    return fields.flag("tie_word_embeddings", default=False) or inside


def read_text(kind: str, text: Fields, name: str | None, tied: bool, keeps_cap: bool = False) -> Model:
    """The text model under the head of the whole, which is a matrix without a bias: what the text family does with its
    own logits is not done, save the cap where `keeps_cap`."""
    model = TEXTS[kind](Fields({**text.values, "tie_word_embeddings": tied}, text.path), name)
    if model.towers:
        text.refuse("model_type", f"{kind!r} has towers of its own, so it is no text part")
    return replace(model, head=plain_head(model.head, tied, keeps_cap))


def plain_head(head: Head, tied: bool, keeps_cap: bool = False) -> Head:
    """A head without bias and factors."""
    return replace(head, tied=tied, bias=False, scaled=False, shrunk=False, softcap=head.softcap and keeps_cap)
