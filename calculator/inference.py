"""The memory of inference: weights, cache, and the largest moment of a prefill and of a decode step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

from .checkpoints import read_quantization, recipe_of
from .engines import Engine, find_engine
from .engines.base import Pool, Question, Share
from .engines.holdings import stages_alike
from .errors import InvalidSetup, TooLarge
from .estimate import MAX_BYTES, Estimate, Part, Phase
from .formats import Recipe
from .model import Model
from .parallel import placement_of
from .precisions import BITS
from .quantization import find_recipe
from .setup import InferenceSetup
from .units import gib

LLAMA_CPP_CACHES = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
POOLED = ("vllm", "sglang")  # engines that take their share of a GPU in advance


def settled(model: Model, setup: InferenceSetup) -> InferenceSetup:
    """The setup with every default filled in that follows from the model or other fields.

    Beside a checkpoint format `precision` is what is computed in.
    """
    if setup.precision is not None and setup.quantization is not None:
        raise InvalidSetup("precision stands beside quantization: give one of them", "precision")
    precision = setup.precision or model.default_precision or "float16"
    if setup.kv_cache_precision is not None:
        cache = setup.kv_cache_precision
    elif setup.engine in POOLED and setup.precision is None and _caches_in_fp8(model, setup):
        cache = "fp8"
    else:
        cache = precision if BITS[precision] >= 16 else "float16"
    if cache in LLAMA_CPP_CACHES and setup.engine not in (None, "llama.cpp"):
        raise InvalidSetup(
            f"{setup.engine} keeps no cache in {cache}, which is llama.cpp's: choose float16, bfloat16 or fp8",
            "kv_cache_precision",
        )
    prompt = setup.prompt_length or setup.sequence_length
    if prompt > setup.sequence_length:
        raise InvalidSetup(
            f"prompt_length must be at most sequence_length, {setup.sequence_length:,}: it is part of it",
            "prompt_length",
        )
    return _with(setup, prompt, precision, cache)


_FIELDS = tuple(each.name for each in fields(InferenceSetup))
_EACH = attrgetter(*_FIELDS)
_PROMPT, _PRECISION, _CACHE = (_FIELDS.index(name) for name in ("prompt_length", "precision", "kv_cache_precision"))


def _with(setup: InferenceSetup, prompt: int, precision: str, cache: str) -> InferenceSetup:
    """What `dataclasses.replace` gives, in a quarter of its time: this is done for every question."""
    values = [*_EACH(setup)]
    values[_PROMPT], values[_PRECISION], values[_CACHE] = prompt, precision, cache
    return InferenceSetup(*values)


def _caches_in_fp8(model: Model, setup: InferenceSetup) -> bool:
    """Whether a checkpoint brings scales for an fp8 cache: engines then keep it so."""
    block = model.quantization
    if block is None or setup.quantization is not None:
        return False
    inner = block.get("quantization")
    named = block.get("kv_cache_quant_algo") or (inner.get("kv_cache_quant_algo") if isinstance(inner, dict) else None)
    return bool(block.get("kv_cache_scheme")) or str(named).upper() == "FP8"


@lru_cache(maxsize=1024)
def _own_recipe(model: Model) -> Recipe:
    assert model.quantization is not None
    return recipe_of(model.quantization, model.config)


def recipe_for(model: Model, setup: InferenceSetup) -> Recipe | None:
    """The checkpoint format of a request: what it says, else the configuration's own, None for a plain precision."""
    if setup.quantization is not None:
        return find_recipe(setup.quantization, dict(setup.quantization_options))
    if setup.precision is None and model.quantization is not None:
        return _own_recipe(model)
    return None


@lru_cache(maxsize=1024)
def _echoed(model: Model) -> dict[str, Any]:
    """The configuration's own format as request fields, where a request could say it."""
    assert model.quantization is not None
    name, options = read_quantization(model.quantization, model.config)
    if "ignore" in options or "targets" in options or find_recipe(name, options) != _own_recipe(model):
        return {}
    return {"quantization": name, **({"quantization_options": options} if options else {})}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the engine it is put to, and defaults that were applied."""

    question: Question
    engine: Engine
    assumed: dict[str, Any]


def asked(model: Model, said: InferenceSetup) -> Asked:
    """The question with all defaults, and what they were."""
    engine = find_engine(said.engine)
    recipe = recipe_for(model, said)
    setup = settled(model, said)
    placement = placement_of(model, setup)
    assumed: dict[str, Any] = {"kv_cache_precision": setup.kv_cache_precision, "prompt_length": setup.prompt_length}
    if recipe is None:
        assumed["precision"] = setup.precision
    elif said.quantization is None:
        assumed |= _echoed(model)
    if said.engine is None:
        return Asked(Question(model, setup, recipe, placement), engine, assumed)
    # read anew each time: a cache would take true for 1
    options, version = engine.read_options(dict(said.engine_options)), engine.read_version(said.engine_version)
    question = Question(model, setup, recipe, placement, options, version, said.kv_cache_precision)
    if engine.settle is not None:
        question = engine.settle(question)
    if recipe is not None and question.recipe is not None and question.recipe.name != recipe.name:
        assumed["quantization"] = question.recipe.name  # the engine converts the checkpoint
        assumed.pop("quantization_options", None)
    assumed["engine_version"] = engine.versions[0]
    chosen = {name: value for name, value in question.options.items() if value is not None}
    if chosen:
        assumed["engine_options"] = chosen
    if question.setup.kv_cache_precision != setup.kv_cache_precision:
        assumed["kv_cache_precision"] = question.setup.kv_cache_precision
    return Asked(question, engine, assumed)


def inference(model: Model, setup: InferenceSetup) -> Estimate:
    """The peak of serving `setup` on `model`: `phases` prefill and decode."""
    put = asked(model, setup)
    question, engine = put.question, put.engine
    placement = question.placement
    alike = stages_alike(model, question.recipe, placement.pipeline) if placement.pipeline > 1 else (0,)
    made = {stage: engine.share(question, stage) for stage in dict.fromkeys(alike)}
    shares = tuple([made[stage] for stage in alike])
    phases_of = {stage: share.phases for stage, share in made.items()}
    stages = tuple([phases_of[stage] for stage in alike])
    alone = placement.gpus == 1
    phases = fullest = stages[0]
    if not alone:
        phases = _summed(shares, stages)
        fullest = max(stages, key=lambda each: max(phase.total for phase in each))
    if max([phase.total for phase in phases]) > MAX_BYTES:
        raise TooLarge("the memory comes to more than 2**53 bytes", None)
    count = reserved = state = needed = 0
    for share in shares:
        count += share.count
        reserved += share.count * share.cache[1].bytes
        state += share.count * share.state
        needed += share.count * share.needed
    warnings = [] if engine.warn is None else [*engine.warn(question, shares)]
    fit, room = None, None
    report = engine.report(question, shares) if setup.engine is not None else {}
    if setup.gpu is not None:
        fit, room = _fitted(put, shares, fullest)
    return Estimate(
        phases,
        fullest=() if alone else fullest,
        stages=stages if len(made) > 1 and any(stage != stages[0] for stage in stages) else (),
        cache={
            "needed_bytes": needed,
            "reserved_bytes": reserved - state,
            "state_bytes": state,
        },
        engine_report=report,
        assumed=put.assumed,
        warnings=tuple(warnings) + (_idle(setup, count) if setup.gpu_count else ()),
        fit=fit,
        room=room,
    )


def _summed(shares: tuple[Share, ...], stages: tuple[tuple[Phase, ...], ...]) -> tuple[Phase, ...]:
    """The phases over all GPUs, part by part."""
    made = []
    for which, phase in enumerate(stages[0]):
        parts = []
        for place, part in enumerate(phase.parts):
            terms = [(share.count, phases[which].parts[place]) for share, phases in zip(shares, stages, strict=True)]
            formula = " + ".join(f"{count} × ({each.formula})" for count, each in _grouped(terms))
            parts.append(
                Part(
                    part.name,
                    sum(count * each.bytes for count, each in terms),
                    formula,
                    sum(count * each.low for count, each in terms),
                    sum(count * each.high for count, each in terms),
                )
            )
        made.append(Phase(phase.name, tuple(parts)))
    return tuple(made)


def _grouped(terms: list[tuple[int, Part]]) -> list[tuple[int, Part]]:
    """Equal parts counted together."""
    counts: dict[Part, int] = {}
    for count, part in terms:
        counts[part] = counts.get(part, 0) + count
    return [(count, part) for part, count in counts.items()]


def _idle(setup: InferenceSetup, used: int) -> tuple[str, ...]:
    if setup.gpu_count is None or setup.gpu_count <= used:
        return ()
    return (
        f"{setup.gpu_count - used} of {setup.gpu_count} GPUs stay idle: the parallelism asked for uses {used};"
        " raise tensor_parallel, pipeline_parallel or data_parallel",
    )


def _fitted(put: Asked, shares: tuple[Share, ...], phases: tuple[Phase, ...]) -> tuple[dict[str, Any], int]:
    """Whether it fits, and the bytes left: of the fullest GPU, and of the pool where an engine keeps one."""
    setup = put.question.setup
    gpu, used_gpus = setup.gpu, sum(share.count for share in shares)
    assert gpu is not None
    count = setup.gpu_count or used_gpus
    if count < used_gpus:
        raise InvalidSetup(
            f"gpu_count must be at least {used_gpus}: that is what the parallelism asked for takes", "gpu_count"
        )
    used = max(phase.total for phase in phases)
    room = gpu.memory - used
    if put.engine.pool is not None:
        room = min(room, *(_room(put.engine.pool(put.question, share)) for share in shares))
    fit = {
        "fits": room >= 0,
        "gpu": gpu.name,
        "gpu_count": count,
        "gpu_memory_gib": gib(gpu.memory),
        "used_gib": gib(used),
        "free_gib": gib(gpu.memory - used),
    }
    return fit, room


def _room(pool: Pool) -> int:
    """Bytes of the pool beyond what the workload takes; negative where it does not fit."""
    return pool.size - pool.needed


__all__ = ["inference", "recipe_for", "settled"]
