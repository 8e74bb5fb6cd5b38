"""The bundled models: one JSON file each in `models/`, found by name, hub id or alias.

A file holds `name`, `hub_id`, `family`, `parameter_count` (exact), `source`, and `config`: the architecture fields
under their Hugging Face names. Three more are optional:

- `siblings`: hub ids of models that the file's own configuration answers (base, chat, renamed);
- `variants`: models of the same sizes whose configuration says something else in few fields, such as the longest
  context: hub id → those fields, null where it lacks one; they are of the text part where the file has one. A
  re-upload of a variant in another number format is a variant too, with that `quantization_config`;
- `quantized`: re-uploads of the file's own model in another number format: hub id → their `quantization_config`.

Files are read once; a model is built when somebody first asks for it. A damaged file is reported, the rest is served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from .architectures import read_model
from .errors import UnknownModel, nearest
from .model import Model

MODELS = Path(__file__).resolve().parent.parent / "models"

# Names that examples in circulation use for models that were never released: served as the nearest one that was.
NEVER_RELEASED: Mapping[str, str] = {
    "Llama-3-7B": "Meta-Llama-3-8B",
    "Qwen3-7B": "Qwen3-8B",
}

# What people type → the model they mean. Names that differ by separators or an ending alone need no row.
SHORT: Mapping[str, str] = {
    "bert-base": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "command-r": "c4ai-command-r-v01",
    "command-r-plus": "c4ai-command-r-plus",
    "dbrx": "dbrx-instruct",
    "deepseek-coder-v2": "DeepSeek-Coder-V2-Instruct",
    "deepseek-coder-v2-lite": "DeepSeek-Coder-V2-Lite-Instruct",
    "gpt-2": "gpt2",
    "gpt-2-large": "gpt2-large",
    "gpt-2-xl": "gpt2-xl",
    "gpt-j": "gpt-j-6b",
    "gpt-neox": "gpt-neox-20b",
    "jamba-mini": "AI21-Jamba-Mini-1.5",
    "kimi-k2": "Kimi-K2-Instruct",
    "llama-2-7b": "Llama-2-7b-hf",
    "llama-2-13b": "Llama-2-13b-hf",
    "llama-2-70b": "Llama-2-70b-hf",
    "llama-3-8b": "Meta-Llama-3-8B",
    "llama-4-scout": "Llama-4-Scout-17B-16E",
    "llama-4-maverick": "Llama-4-Maverick-17B-128E-Instruct",
    "ministral-8b": "Ministral-8B-Instruct-2410",
    "mistral-7b": "Mistral-7B-v0.1",
    "mistral-7b-instruct": "Mistral-7B-Instruct-v0.3",
    "mistral-nemo": "Mistral-Nemo-Instruct-2407",
    "mistral-small": "Mistral-Small-24B-Instruct-2501",
    "mixtral-8x7b": "Mixtral-8x7B-v0.1",
    "mixtral-8x22b": "Mixtral-8x22B-v0.1",
    "olmo-2-1b": "OLMo-2-0425-1B",
    "olmo-2-7b": "OLMo-2-1124-7B",
    "olmo-2-13b": "OLMo-2-1124-13B",
    "olmo-2-32b": "OLMo-2-0325-32B-Instruct",
    "olmoe": "OLMoE-1B-7B-0924",
    "phi-1.5": "phi-1_5",
    "phi-3-medium": "Phi-3-medium-128k-instruct",
    "phi-3-mini": "Phi-3-mini-4k-instruct",
    "phi-3-small": "Phi-3-small-8k-instruct",
    "phi-3.5-mini": "Phi-3-mini-128k-instruct",
    "phi-4-mini": "Phi-4-mini-instruct",
    "qwen3-coder-30b": "Qwen3-Coder-30B-A3B-Instruct",
    "qwen3-coder-480b": "Qwen3-Coder-480B-A35B-Instruct",
    "qwen3-next": "Qwen3-Next-80B-A3B-Instruct",
    "smollm3": "SmolLM3-3B",
    "tinyllama": "TinyLlama-1.1B-Chat-v1.0",
    "tinyllama-1.1b": "TinyLlama-1.1B-Chat-v1.0",
}

_HEAD_KEPT = {"ignore": ["lm_head"]}


def _compressed(bits: int, kind: str, **shared: Any) -> Mapping[str, Any]:
    """What llm-compressor writes for weights of one format, with the head left in 16 bit."""
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, "symmetric": True, **shared}}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **_HEAD_KEPT}


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
_NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
_W4A16 = _compressed(4, "int", strategy="group", group_size=128)
_W8A8 = _compressed(8, "int", strategy="channel")

# How re-uploads in another number format are named, and what those names mean in a `quantization_config`. An ending
# that stands inside another comes after it.
FORMATS: Mapping[str, Mapping[str, Any]] = {
    "-fp8-dynamic": _compressed(8, "float", strategy="channel"),
    "-fp8-block": _compressed(8, "float", strategy="block", block_structure=[128, 128]),
    "-fp8-kv": _compressed(8, "float", strategy="tensor"),
    "-fp8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "-nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4", **_HEAD_KEPT},
    "-fp4": {"quant_method": "modelopt", "quant_algo": "NVFP4", **_HEAD_KEPT},
    "-awq-int4": _AWQ,
    "-int4-awq": _AWQ,
    "-awq": _AWQ,
    "-gptq-int4": _GPTQ,
    "-gptq-4bit": _GPTQ,
    "-gptq-int8": {**_GPTQ, "bits": 8},
    "-gptq": _GPTQ,
    "-quantized.w4a16": _W4A16,
    "-w4a16": _W4A16,
    "-quantized.w8a8": _W8A8,
    "-w8a8": _W8A8,
    "-quantized.w8a16": _W8A8,
    "-bnb-4bit": _NF4,
    "-bnb-8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
}

# What a variant may say otherwise than its file, and the kinds of value. None of these changes a parameter.
VARYING: Mapping[str, tuple[type, ...]] = {
    "max_position_embeddings": (int,),
    "model_max_length": (int,),
    "seq_length": (int,),
    "torch_dtype": (str,),
    "sliding_window": (int, type(None)),
    "use_sliding_window": (bool,),
    "max_window_layers": (int,),
    "rope_scaling": (dict, type(None)),
    "rope_theta": (int, float),
    "quantization_config": (dict,),
}

_MEMBERS = {"name", "hub_id", "family", "parameter_count", "source", "config", "siblings", "variants", "quantized"}
_TUNED = re.compile(r"(-(hf|instruct|chat|it|base|pt|bf16|gguf))+$")  # endings that tell of training, not of sizes
_SEPARATORS = re.compile(r"[-_\s]+")
_LONGEST = 1000  # characters of a name that are looked at
_SHOWN = 100  # characters of an unknown name that an error repeats


@dataclass(frozen=True, eq=False)
class Entry:
    """One bundled model as its file has it; `model` is built when first asked for."""

    name: str
    hub_id: str
    family: str
    parameter_count: int
    source: str
    config: Mapping[str, Any]
    siblings: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] | None = None
    quantized: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def model_type(self) -> str:
        """The architecture family as Hugging Face names it."""
        return str(self.config["model_type"])

    @cached_property
    def model(self) -> Model:
        """The model with its layers. Raises InvalidConfig or UnknownName where the configuration cannot be read."""
        return read_model(self.config, self.name)

    def in_format(self, hub_id: str, quantization: Mapping[str, Any]) -> Entry:
        """The same model as a re-upload in another number format holds it."""
        return self.varied(hub_id, {"quantization_config": dict(quantization)})

    def varied(self, hub_id: str, fields: Mapping[str, Any]) -> Entry:
        """A model of these sizes, under its own name, whose configuration has `fields` in place of the file's."""
        name, config = hub_id.rsplit("/", 1)[-1], {**self.config}
        text = config.get("text_config")
        for field, value in fields.items():
            if isinstance(text, dict) and field != "quantization_config":
                text = config["text_config"] = {**text, field: value}
            else:
                config[field] = value
        return replace(self, name=name, hub_id=hub_id, config=config, siblings=(), variants=None, quantized=None)


class Library:
    """All entries, by family, then size, and the ways to find one."""

    def __init__(self, entries: Iterable[Entry], problems: Iterable[str] = ()) -> None:
        self.entries = tuple(sorted(entries, key=lambda e: (e.family.lower(), e.parameter_count, e.name.lower())))
        self.problems = tuple(problems)
        self._found: dict[str, tuple[Entry, str | None]] = {}
        self._squeezed: dict[str, tuple[Entry, str | None]] = {}
        self._tuned: dict[str, tuple[Entry, str | None]] = {}
        self._index()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def _index(self) -> None:
        """Exact names come first, then aliases, then what a name without its separators or its ending could mean."""
        for entry in self.entries:
            self._found.setdefault(entry.hub_id.lower(), (entry, None))
            self._found.setdefault(entry.name.lower(), (entry, None))
        for entry in self.entries:
            for hub_id in entry.siblings:
                self._both(hub_id, entry)
            for hub_id, fields in (entry.variants or {}).items():
                self._both(hub_id, entry.varied(hub_id, fields))
            for hub_id, quantization in (entry.quantized or {}).items():
                self._both(hub_id, entry.in_format(hub_id, quantization))
        for short, name in SHORT.items():
            if name.lower() in self._found:
                self._found.setdefault(short.lower(), (self._found[name.lower()][0], None))
        for wrong, name in NEVER_RELEASED.items():
            if name.lower() in self._found:
                entry = self._found[name.lower()][0]
                warning = f"{wrong} was never released; it is served as {entry.name}"
                self._found.setdefault(wrong.lower(), (entry, warning))
                self._found.setdefault(f"{entry.hub_id.split('/')[0]}/{wrong}".lower(), (entry, warning))
        for key, found in self._found.items():
            self._squeezed.setdefault(_squeezed(key), found)
        for entry in self.entries:  # the smallest name first: a base model before its variants
            for key in (entry.name, entry.hub_id):
                core = _squeezed(_TUNED.sub("", key.lower()))
                if core not in self._squeezed:
                    self._tuned.setdefault(core, (entry, None))

    def _both(self, hub_id: str, entry: Entry) -> None:
        self._found.setdefault(hub_id.lower(), (entry, None))
        self._found.setdefault(hub_id.rsplit("/", 1)[-1].lower(), (entry, None))

    def get(self, name: str) -> tuple[Entry, str | None]:
        """The entry that a name, hub id or alias means, in any case; a warning where that is not quite what was named.

        Raises UnknownModel, with the nearest names.
        """
        key = name.strip().lower()[:_LONGEST]
        found = self._look(key)
        if found is not None:
            return found
        for ending, quantization in FORMATS.items():
            if key.endswith(ending):
                found = self._look(key.removesuffix(ending))
                if found is not None:
                    entry = found[0].in_format(name.strip(), quantization)
                    method = quantization["quant_method"]
                    return entry, f"{name.strip()} is not bundled: this is {found[0].name} with {method} weights"
        shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
        raise UnknownModel(f"Model '{shown}' not found", "model_name", self.suggestions(name[:_SHOWN]))

    def _look(self, key: str) -> tuple[Entry, str | None] | None:
        found = self._found.get(key) or self._squeezed.get(_squeezed(key))
        if found is not None:
            return found
        for alike in (key, key.rsplit("/", 1)[-1]):
            for shorter in _shortened(alike):
                found = self._squeezed.get(_squeezed(shorter))
                if found is not None:
                    break
            found = found or self._tuned.get(_squeezed(shorter))
            if found is not None:
                entry, warning = found
                return entry, warning or f"{key} is not bundled under that name: this is {entry.name}"
        return None

    def suggestions(self, name: str, most: int = 5) -> tuple[str, ...]:
        """Names that hold the word, then names that look like it."""
        word = name.strip().lower().rsplit("/", 1)[-1]
        names = [entry.name for entry in self.entries]
        holding = [each for each in names if len(word) > 2 and _squeezed(word) in _squeezed(each.lower())]
        alike = [each for each in nearest(word, names, most) if each not in holding]
        return tuple((sorted(holding, key=len) + alike)[:most])


def _squeezed(key: str) -> str:
    """A name without its separators.

    >>> _squeezed("llama-2 7b"), _squeezed("qwen2.5_7b")
    ('llama27b', 'qwen2.57b')
    """
    return _SEPARATORS.sub("", key)


def _shortened(key: str) -> Iterator[str]:
    """A name, then without its endings, one after the other: a chat model's own context comes before its base's.

    >>> list(_shortened("qwen2.5-7b-instruct-gguf"))
    ['qwen2.5-7b-instruct-gguf', 'qwen2.5-7b-instruct', 'qwen2.5-7b']
    """
    yield key
    while _TUNED.search(key):
        key = key[: key.rindex("-")]
        yield key


def _several(values: Mapping[str, Any], member: str) -> dict[str, dict[str, Any]]:
    """An optional member that holds an object for each of several hub ids. Raises TypeError where it is not that."""
    found = values.get(member, {})
    if not isinstance(found, dict) or not all(hub_id and fields for hub_id, fields in found.items()):
        raise TypeError(f"{member} must be an object of hub ids, each with an object that is not empty")
    for hub_id, fields in found.items():
        if not isinstance(fields, dict):
            raise TypeError(f"{member} of {hub_id} must be an object")
    return found


def _check_variant(hub_id: str, fields: Mapping[str, Any]) -> None:
    """Raises TypeError where a field is unknown or its value is of the wrong kind."""
    for field, value in fields.items():
        if field not in VARYING:
            raise TypeError(f"variants of {hub_id}: {field} is none of the fields that may vary")
        if not isinstance(value, VARYING[field]) or (isinstance(value, bool) and bool not in VARYING[field]):
            raise TypeError(f"variants of {hub_id}: {field} has a value of the wrong kind")


def read_entry(path: Path) -> Entry:
    """The entry of one file. Raises ValueError, KeyError, TypeError or OSError where it is damaged."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise TypeError("not an object")
    for field, kind in (("name", str), ("hub_id", str), ("family", str), ("parameter_count", int), ("source", str)):
        if not isinstance(values[field], kind) or not values[field]:
            raise TypeError(f"{field} must be a {kind.__name__} that is not empty")
    config = values["config"]
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise TypeError("config must be an object with a model_type")
    unknown = sorted(set(values) - _MEMBERS)
    if unknown:
        raise TypeError(f"unknown members: {', '.join(unknown)}")
    variants, quantized = _several(values, "variants"), _several(values, "quantized")
    siblings = values.get("siblings", [])
    if not isinstance(siblings, list) or not all(isinstance(each, str) and each for each in siblings):
        raise TypeError("siblings must be a list of hub ids")
    for hub_id, fields in variants.items():
        _check_variant(hub_id, fields)
    return Entry(
        name=values["name"],
        hub_id=values["hub_id"],
        family=values["family"],
        parameter_count=values["parameter_count"],
        source=values["source"],
        config=config,
        siblings=tuple(siblings),
        variants=variants or None,
        quantized=quantized or None,
    )


def read_library(folder: Path) -> Library:
    """Every file of a folder; what cannot be read, or has a name that is taken, becomes a problem."""
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    if not folder.is_dir():
        problems.append(f"{folder} is not a folder: no models are bundled")
    for path in sorted(folder.glob("*.json")):
        try:
            entry = read_entry(path)
        except KeyError as error:
            problems.append(f"{path.name} lacks {error}")
        except (ValueError, TypeError, OSError, RecursionError) as error:
            problems.append(f"{path.name} cannot be read: {error}")
        else:
            if entry.name.lower() in entries:
                problems.append(f"{path.name} has the name {entry.name}, which another file has")
            else:
                entries[entry.name.lower()] = entry
    return Library(entries.values(), problems)


@lru_cache(maxsize=1)
def library() -> Library:
    """The models of this installation, read once."""
    return read_library(MODELS)
