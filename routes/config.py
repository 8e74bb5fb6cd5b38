"""GET /api/config/options: every choice a request has, made from the tables the code computes with."""

from __future__ import annotations

from functools import cache
from typing import Any

from flask import Blueprint

from calculator.architectures import READERS
from calculator.architectures.sized import DEFAULT_VOCABULARY
from calculator.engines import ENGINES, Engine
from calculator.engines.base import Option
from calculator.formats import DATA_TYPES
from calculator.gpus import GPUS
from calculator.library import library
from calculator.optimizers import OPTIMIZERS
from calculator.quantization import RECIPES
from calculator.setup import InferenceSetup, Lora, TrainingSetup
from calculator.units import gib

from . import bodies

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}

config = Blueprint("config", __name__, url_prefix="/api/config")


def plain(value: float) -> int | float:
    """8.0 bytes are 8."""
    return int(value) if float(value).is_integer() else value


@cache
def target_modules() -> tuple[str, ...]:
    """What adapters can be put on by name: the linear layers of one bundled model of each family."""
    families = {entry.model_type: entry for entry in library().entries if entry.model_type in READERS}
    found: set[str] = set()
    for entry in families.values():
        model = entry.model
        for layer in model.distinct:
            found |= {tensor.module for tensor in layer.tensors() if tensor.linear and not tensor.experts}
    return tuple(sorted(found))


def setup_defaults(setup: type) -> dict[str, Any]:
    """Defaults that hold whatever else is said."""
    return {name: value for name, value in bodies.defaults(setup).items() if value is not None and value != ()}


def engine_row(engine: Engine) -> dict[str, Any]:
    """An engine with its versions and what can be set; an option without a default follows from elsewhere."""
    return {"name": engine.name, "versions": engine.versions, "options": [option_row(each) for each in engine.options]}


def option_row(option: Option) -> dict[str, Any]:
    """One option by the engine's own name."""
    row = {"name": option.name, "type": TYPES[option.kind], "default": option.default, "meaning": option.meaning}
    if option.kind in (int, float):
        row |= {"minimum": option.least, "maximum": option.most}
    return row | ({"choices": option.choices} if option.choices else {})


@cache
def options() -> dict[str, Any]:
    """All of it, made once."""
    return {
        "data_types": {name: plain(each.block_bytes / each.block_weights) for name, each in DATA_TYPES.items()},
        "optimizers": {name: plain(each.bytes_per_parameter) for name, each in OPTIMIZERS.items()},
        "optimizer_implementations": list(bodies.OPTIMIZER_IMPLEMENTATIONS),
        "quantizations": [{"name": name, "options": list(known)} for name, (_, known) in RECIPES.items()],
        "kv_cache_precisions": list(bodies.KV_CACHE_PRECISIONS),
        "engines": [engine_row(each) for each in ENGINES.values()],
        "gpus": [
            {"name": each.name, "memory_gib": gib(each.memory), "vendor": each.vendor, "source": each.source}
            for each in GPUS
        ],
        "attention": list(bodies.ATTENTION),
        "logits": list(bodies.LOGITS),
        "training_precisions": list(bodies.COMPUTE_PRECISIONS),
        "mixed_precisions": list(bodies.MIXED_PRECISIONS),
        "methods": list(bodies.METHODS),
        "gradient_checkpointing": list(bodies.GRADIENT_CHECKPOINTING),
        "losses": list(bodies.LOSSES),
        "frameworks": list(bodies.FRAMEWORKS),
        "kernels": list(bodies.KERNELS),
        "pipeline_schedules": list(bodies.PIPELINE_SCHEDULES),
        "model_types": sorted(READERS),
        "lora_target_modules": list(target_modules()),
        "limits": dict(bodies.LIMITS),
        "defaults": {
            **setup_defaults(InferenceSetup),
            **setup_defaults(TrainingSetup),
            "lora": setup_defaults(Lora) | {"target_modules": "all-linear"},
            "vocab_size": DEFAULT_VOCABULARY,
        },
    }


@config.get("/options")
def listed() -> dict[str, Any]:
    """Every choice, and the limits and defaults of every figure."""
    return options()
