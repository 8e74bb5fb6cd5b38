"""What several request classes share: choosing a model, a workload, a GPU; and the limits of every figure.

Defaults are those of the calculator's setups: a request class repeats none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, TypeVar

import orjson
from pydantic import ConfigDict, Field

from calculator.architectures import read_model
from calculator.architectures.sized import DEFAULT_VOCABULARY, sized_model
from calculator.engines import ENGINES as ENGINE_TABLE
from calculator.errors import CalculatorError, InvalidSetup
from calculator.formats import DATA_TYPES
from calculator.formats import KV_CACHE_PRECISIONS as KV_CACHE_FORMATS
from calculator.gpus import GPU, find_gpu
from calculator.library import library
from calculator.model import Model
from calculator.optimizers import IMPLEMENTATIONS
from calculator.optimizers import OPTIMIZERS as OPTIMIZER_TABLE
from calculator.quantization import RECIPES, find_recipe
from calculator.setup import Options
from calculator.units import BILLION, GIB

from .errors import Fault
from .reading import Body, OneOf, Paths, did_you_mean, number, shown

if TYPE_CHECKING:
    Kind = TypeVar("Kind")
    Maybe: TypeAlias = Kind | None
else:

    class Maybe:
        """`Maybe[int]`: an int, or nothing said (None inside). A null in the body is a wrong type."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return kind


LIMITS: dict[str, int] = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 4_096,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "vocab_size": 10**7,
    "experts": 10**5,
    "sequence_length": 10**9,
    "batch_size": 10**6,
    "model_size": 10**6,
    "gpu_count": 10**5,
    "gpu_memory_gib": 10**6,
    "lora_rank": 10**6,
    "configurations": 1000,
    "sweep_values": 1000,
    "sweep_cells": 10_000,
    "total_bytes": 2**53,
    "body_bytes": 2**20,
}

PRECISIONS = tuple(DATA_TYPES)
COMPUTE_PRECISIONS = ("float32", "float16", "bfloat16")
KV_CACHE_PRECISIONS = tuple(KV_CACHE_FORMATS)
QUANTIZATIONS = tuple(RECIPES)
ATTENTION = ("sdpa", "flash", "eager")
LOGITS = ("last", "all")
FRAMEWORKS = ("transformers", "megatron", "torchtitan")
KERNELS = ("standard", "liger")
MIXED_PRECISIONS = ("none", "autocast", "master_weights")
OPTIMIZER_IMPLEMENTATIONS = IMPLEMENTATIONS
METHODS = ("full", "lora", "qlora")
GRADIENT_CHECKPOINTING = ("none", "selective", "full")
LOSSES = ("standard", "chunked", "fused")
PIPELINE_SCHEDULES = ("1f1b", "gpipe", "interleaved")
OPTIMIZERS = tuple(name for row in OPTIMIZER_TABLE.values() for name in (row.name, *row.aliases))
ENGINES = tuple(ENGINE_TABLE)

Heads = Annotated[int, Field(ge=1, le=LIMITS["num_attention_heads"])]
Ways = Annotated[int, Field(ge=1, le=LIMITS["gpu_count"])]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Compute = Annotated[str, OneOf(*COMPUTE_PRECISIONS)]

MODEL_FIELDS = ("model_name", "config", "model_size")
SIZE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)
NEEDED_SIZES = SIZE_FIELDS[:3]


def defaults(setup: Any) -> dict[str, Any]:
    """What a setup takes where nothing is said.

    >>> from calculator.setup import Lora
    >>> defaults(Lora)["rank"]
    16
    """
    said: dict[str, Any] = setup._field_defaults
    return said


class ModelChoice(Body):
    """Exactly one of: a bundled model's name, a config.json, explicit sizes."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["model_name"]},
                {"required": ["config"]},
                {"required": ["model_size", *NEEDED_SIZES]},
            ]
        }
    )

    model_name: Maybe[Name] = Field(
        None,
        description="A bundled model: its name or its hub id, in any case.",
        examples=["Qwen3-8B", "Qwen/Qwen3-8B"],
    )
    config: Maybe[dict[str, Any]] = Field(
        None, description="A Hugging Face config.json, of any model_type that /api/config/options lists."
    )
    model_size: Maybe[Annotated[float, Field(ge=1e-9, le=LIMITS["model_size"])]] = Field(
        None, description="Billions of parameters, beside hidden_size, num_hidden_layers and num_attention_heads."
    )
    hidden_size: Maybe[Annotated[int, Field(ge=1, le=LIMITS["hidden_size"])]] = Field(
        None, description="Width of the model; beside model_size."
    )
    num_hidden_layers: Maybe[Annotated[int, Field(ge=1, le=LIMITS["num_hidden_layers"])]] = Field(
        None, description="Layers; beside model_size."
    )
    num_attention_heads: Maybe[Heads] = Field(None, description="Query heads of a layer; beside model_size.")
    num_key_value_heads: Maybe[Heads] = Field(
        None, description="Heads that keep a key and a value; num_attention_heads if absent."
    )
    head_dim: Maybe[Annotated[int, Field(ge=1, le=LIMITS["hidden_size"])]] = Field(
        None, description="Width of a head; hidden_size / num_attention_heads if absent."
    )
    intermediate_size: Maybe[Annotated[int, Field(ge=1, le=LIMITS["intermediate_size"])]] = Field(
        None, description="Width of the feed-forward part; solved from model_size if absent."
    )
    vocab_size: Maybe[Annotated[int, Field(ge=1, le=LIMITS["vocab_size"])]] = Field(
        None, description="Tokens of the vocabulary; 32,000 if absent."
    )

    needs_model: ClassVar[bool] = True

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        chosen = [name for name in MODEL_FIELDS if name in sent]
        if not chosen and (cls.needs_model or any(name in sent for name in SIZE_FIELDS)):
            sizes = ", ".join(name for name in SIZE_FIELDS if name in sent)
            if sizes:
                yield Fault("model_size", f"is required beside {sizes}: a number of billions of parameters")
            else:
                yield Fault(
                    "model_name",
                    "no model is chosen: give exactly one of model_name (a bundled model), config (a config.json) "
                    "or model_size with hidden_size, num_hidden_layers and num_attention_heads",
                )
        for name in chosen[1:]:
            yield Fault(name, f"stands beside {chosen[0]}: give exactly one of model_name, config and model_size")
        if chosen == ["model_size"]:
            for name in NEEDED_SIZES:
                if name not in sent:
                    yield Fault(name, "is required beside model_size")
            yield from _head_conflicts(sent, wrong)
        elif chosen and "model_size" not in chosen:
            for name in SIZE_FIELDS:
                if name in sent:
                    yield Fault(name, f"only goes beside model_size; {chosen[0]} already says it")

    @property
    def names_model(self) -> bool:
        """Whether a model is chosen."""
        return self.model_name is not None or self.config is not None or self.model_size is not None

    def chosen(self) -> tuple[Model, tuple[str, ...], dict[str, Any]]:
        """The model, what to warn about, and the sizes that were assumed; raises CalculatorError."""
        if self.model_name is not None:
            entry, warning = library().get(self.model_name)
            return entry.model, (warning,) if warning else (), {}
        if self.config is not None:
            return configured(orjson.dumps(self.config, option=orjson.OPT_SORT_KEYS)), (), {}
        assert self.model_size and self.hidden_size and self.num_hidden_layers and self.num_attention_heads
        model = sized_model(
            round(self.model_size * BILLION),
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.intermediate_size,
            self.vocab_size or DEFAULT_VOCABULARY,
        )
        return model, (), {name: model.config[name] for name in SIZE_FIELDS}


def _head_conflicts(sent: Mapping[str, Any], wrong: Paths) -> Iterator[Fault]:
    """Heads divide what they are heads of."""
    heads, key_value_heads, width = (
        None if (name,) in wrong else sent.get(name)
        for name in ("num_attention_heads", "num_key_value_heads", "hidden_size")
    )
    if heads and key_value_heads and heads % key_value_heads:
        yield Fault(
            "num_key_value_heads", f"must divide num_attention_heads: {heads} is no multiple of {key_value_heads}"
        )
    if heads and width and "head_dim" not in sent and width % heads:
        yield Fault(
            "hidden_size", f"{width} is no multiple of {heads} num_attention_heads; give head_dim where heads differ"
        )


@lru_cache(maxsize=1024)
def configured(written: bytes) -> Model:
    """The model of a configuration, which is known by its bytes before anything of it is looked at."""
    return read_model(orjson.loads(written))


class Device(Body):
    """A GPU of the catalogue, or any by its memory."""

    gpu: Maybe[Name] = Field(None, description="A GPU of /api/config/options.", examples=["H100-80GB"])
    gpu_memory_gib: Maybe[Annotated[float, Field(gt=0, le=LIMITS["gpu_memory_gib"])]] = Field(
        None, description="Memory of a GPU that is not in the catalogue, in GiB."
    )
    gpu_count: Maybe[Ways] = Field(None, description="How many of them; as many as parallelism needs if absent.")

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        yield from super().conflicts(sent, wrong)
        if "gpu" in sent and "gpu_memory_gib" in sent:
            yield Fault("gpu_memory_gib", "stands beside gpu: give one of them")

    def device(self) -> GPU | None:
        """The card that is asked about; raises UnknownName."""
        if self.gpu is not None:
            return find_gpu(self.gpu)
        if self.gpu_memory_gib is not None:
            return GPU(f"{self.gpu_memory_gib:g} GiB", int(self.gpu_memory_gib * GIB), "the request")
        return None


def agreeing_with(*names: str) -> dict[str, frozenset[str]]:
    """These fields beside a bundled model or a config: nothing in them can contradict anything."""
    return {model: frozenset({model, *names}) for model in ("model_name", "config")}


def options(said: Mapping[str, Any] | None) -> Options:
    """Options as a setup holds them: sorted, hashable."""
    return tuple(sorted(said.items())) if said else ()


def option_faults(sent: Mapping[str, Any], wrong: Paths, field: str) -> Iterator[Fault]:
    """Options are words, numbers or flags: nothing with an inside."""
    for name, value in (sent.get(field) or {}).items() if (field,) not in wrong else ():
        if not isinstance(value, str | int | float):
            yield Fault(f"{field}.{name[:100]}", f"must be a string, a number, true or false, not {shown(value)}")


def engine_faults(sent: Mapping[str, Any], wrong: Paths) -> Iterator[Fault]:
    """A version and options go beside the engine that knows them."""
    for name in ("engine_version", "engine_options"):
        if name in sent and "engine" not in sent:
            yield Fault(name, "only goes beside engine")
    if "engine" not in sent or ("engine",) in wrong:
        return
    engine = ENGINE_TABLE[sent["engine"]]
    if "engine_version" in sent and ("engine_version",) not in wrong:
        try:
            engine.read_version(sent["engine_version"])
        except InvalidSetup as fault:
            yield Fault("engine_version", fault.message)
    known = {option.name: option for option in engine.options}
    said = sent.get("engine_options", {}) if ("engine_options",) not in wrong else {}
    for name, value in said.items():
        option = known.get(name)
        path = f"engine_options.{name[:100]}"
        if option is None:
            hint = did_you_mean(name, list(known)) or f"; known: {', '.join(known) or 'none'}"
            yield Fault(path, f"is no option of {engine.name}{hint}")
            continue
        try:
            option.read(value)
        except InvalidSetup as fault:
            yield Fault(path, f"{fault.message}, not {shown(value)}")


def quantization_faults(sent: Mapping[str, Any], wrong: Paths) -> Iterator[Fault]:
    """Options go beside the format that knows them."""
    if "quantization_options" not in sent or ("quantization_options",) in wrong:
        return
    if "quantization" not in sent:
        yield Fault("quantization_options", "only goes beside quantization")
        return
    faults = list(option_faults(sent, wrong, "quantization_options"))
    yield from faults
    if faults or ("quantization",) in wrong:
        return
    name, said = sent["quantization"], sent["quantization_options"]
    known = RECIPES[name][1]
    unknown = [each for each in said if each not in known]
    for each in unknown:
        allowed = f"it knows {', '.join(known)}" if known else "it has none"
        yield Fault(
            f"quantization_options.{each[:100]}", f"is no option of {name}{did_you_mean(each, list(known))}; {allowed}"
        )
    if not unknown:
        try:
            find_recipe(name, said)
        except CalculatorError as fault:
            yield Fault(fault.field or "quantization_options", fault.message)


def too_many_gpus(sent: Mapping[str, Any], wrong: Paths, ways: tuple[str, ...]) -> Iterator[Fault]:
    """Ways of parallelism multiply."""
    said = [name for name in ways if name in sent and (name,) not in wrong]
    count = prod(sent[name] for name in said)
    if count > LIMITS["gpu_count"]:
        yield Fault(said[-1], f"{' × '.join(said)} is {count:,} GPUs; the limit is {number(LIMITS['gpu_count'])}")
