"""The memory of inference: weights, cache, and the largest moment of a prefill and of a decode step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from .checkpoints import read_quantization, recipe_of
from .engines import Engine, find_engine
from .engines.arithmetic import BARE, Stage, stage_of, weights_of
from .engines.base import NO_OPTIONS, Question, Share, Value, Version
from .engines.holdings import stages_alike
from .errors import InvalidSetup, TooLarge
from .estimate import MAX_BYTES, NOTHING, Brief, Estimate, Part, Phase, brief_of, parts_of
from .formats import Recipe
from .gpus import GPU
from .model import Model
from .parallel import ALONE, Placement, placement_of
from .precisions import BITS
from .quantization import find_recipe
from .setup import InferenceSetup
from .units import gib

LLAMA_CPP_CACHES = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
POOLED = ("vllm", "sglang")  # engines that take their share of a GPU in advance


def precisions_of(model: Model, setup: InferenceSetup) -> tuple[str, str]:
    """What a setup computes in and what it caches in; beside a checkpoint format `precision` is what is computed in."""
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
    return precision, cache


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


WORKLOAD = InferenceSetup._fields.index("gpu_count") + 1  # fields that say how much goes through, and on what


class Plan(NamedTuple):
    """All of a question but its workload and the card.

    settings  the rest of the setup, with every default filled in that follows from the model or other fields
    options   of the engine, as the request and its defaults say
    assumed   defaults that were applied, by request field
    worked    what the engine has worked out of this
    """

    engine: Engine
    settings: tuple[Any, ...]
    recipe: Recipe | None
    placement: Placement
    options: Mapping[str, Value]
    version: Version
    asked_cache: str | None
    assumed: dict[str, Any]
    worked: dict[Any, Any]


def planned(model: Model, setup: InferenceSetup) -> Plan:
    """The plan of a setup, made once for all workloads and cards; raises CalculatorError."""
    kinds = None
    if setup.engine_options or setup.quantization_options:  # where a key is compared, true is 1
        kinds = tuple([type(value) for _, value in setup.engine_options + setup.quantization_options])
    return _planned(model, setup[WORKLOAD:], kinds)


@lru_cache(maxsize=2048)
def _planned(model: Model, settings: tuple[Any, ...], kinds: tuple[type, ...] | None) -> Plan:
    setup = InferenceSetup(1, 1, 1, None, None, *settings)
    engine, recipe = find_engine(setup.engine), recipe_for(model, setup)
    precision, cache = precisions_of(model, setup)
    placement = placement_of(model, setup)
    assumed: dict[str, Any] = {"kv_cache_precision": cache, "prompt_length": None}
    if recipe is None:
        assumed["precision"] = precision
    elif setup.quantization is None:
        assumed |= _echoed(model)
    options: Mapping[str, Value] = NO_OPTIONS
    version: Version = ()
    if setup.engine is not None:
        options = engine.read_options(dict(setup.engine_options))
        version = engine.read_version(setup.engine_version)
        assumed["engine_version"] = engine.versions[0]
    settings = setup._replace(precision=precision, kv_cache_precision=cache)[WORKLOAD:]
    return Plan(engine, settings, recipe, placement, options, version, setup.kv_cache_precision, assumed, {})


def question_of(model: Model, plan: Plan, setup: InferenceSetup) -> Question:
    """The question with its workload, settled by the engine."""
    length, prompt = setup.sequence_length, setup.prompt_length
    if prompt is None:
        prompt = length
    elif prompt > length:
        raise InvalidSetup(
            f"prompt_length must be at most sequence_length, {length:,}: it is part of it", "prompt_length"
        )
    whole = InferenceSetup(setup.batch_size, length, prompt, setup.gpu, setup.gpu_count, *plan.settings)
    engine = plan.engine
    question = Question(
        model, whole, plan.recipe, plan.placement, plan.options, plan.version, plan.asked_cache, plan.worked
    )
    return question if engine.settle is None else engine.settle(question)


def assumed_of(plan: Plan, question: Question) -> dict[str, Any]:
    """The defaults that were applied."""
    assumed = {**plan.assumed, "prompt_length": question.setup.prompt_length}
    if plan.engine is BARE:
        return assumed
    if plan.recipe is not None and question.recipe is not None and question.recipe.name != plan.recipe.name:
        assumed["quantization"] = question.recipe.name  # the engine converts the checkpoint
        assumed.pop("quantization_options", None)
    chosen = {name: value for name, value in question.options.items() if value is not None}
    if chosen:
        assumed["engine_options"] = chosen
    assumed["kv_cache_precision"] = question.setup.kv_cache_precision
    return assumed


def shared(question: Question, engine: Engine) -> tuple[tuple[Share, ...], tuple[tuple[Phase, ...], ...]]:
    """What a GPU of each pipeline stage holds, and its phases; stages that hold the same are one object."""
    placement = question.placement
    if placement.pipeline == 1:
        share = engine.share(question, 0)
        return (share,), (share.phases,)
    alike = stages_alike(question.model, question.recipe, placement.pipeline)
    made = {stage: engine.share(question, stage) for stage in dict.fromkeys(alike)}
    phases = {stage: share.phases for stage, share in made.items()}
    return tuple([made[stage] for stage in alike]), tuple([phases[stage] for stage in alike])


def inference(model: Model, setup: InferenceSetup) -> Estimate:
    """The peak of serving `setup` on `model`: `phases` prefill and decode."""
    plan = planned(model, setup)
    engine = plan.engine
    question = question_of(model, plan, setup)
    shares, stages = shared(question, engine)
    alone = plan.placement.gpus == 1
    phases = fullest = stages[0]
    if not alone:
        phases = _summed(shares, stages)
        fullest = max(stages, key=lambda each: max(phase.total for phase in each))
    check_countable(max([phase.total for phase in phases]))
    count = reserved = state = needed = 0
    for share in shares:
        copies = share.copies
        count += copies
        reserved += copies * share.cache[1].bytes
        state += copies * share.state
        needed += copies * share.needed
    warnings = () if engine.warn is None else engine.warn(question, shares)
    fit, room, used = None, None, None
    if setup.gpu is not None:
        used = max([phase.total for phase in fullest])
        room = _room(engine, question, shares, setup.gpu.memory - used)
        fit = _fitted(setup.gpu, counted(setup, count), used, room)
    return Estimate(
        phases,
        () if alone else fullest,
        stages if len(stages) > 1 and any(stage != stages[0] for stage in stages) else (),
        {"needed_bytes": needed, "reserved_bytes": reserved - state, "state_bytes": state},
        engine.report(question, shares) if setup.engine is not None else NOTHING,
        NOTHING,
        None,
        assumed_of(plan, question),
        warnings + _idle(setup, count) if setup.gpu_count else warnings,
        fit,
        room,
        used,
        setup.gpu_count or count,
    )


def standing(model: Model, plan: Plan, setup: InferenceSetup) -> tuple[tuple[Stage, Part, int], ...]:
    """Without an engine, the stages that differ: what a GPU of each runs, its weights, and how many are alike. Raises
    InvalidSetup where the workload is none."""
    stages: tuple[tuple[Stage, Part, int], ...] | None = plan.worked.get("stages")
    if stages is None or (setup.prompt_length or 0) > setup.sequence_length:
        question = question_of(model, plan, setup)
        alike = stages_alike(model, plan.recipe, plan.placement.pipeline)
        stages = plan.worked["stages"] = tuple(
            (stage_of(question, stage), weights_of(question, stage), alike.count(stage))
            for stage in dict.fromkeys(alike)
        )
    return stages


def brief(model: Model, setup: InferenceSetup) -> Brief:
    """The figures of `inference` alone, at a part of the cost."""
    plan = planned(model, setup)
    if plan.engine is not BARE:
        return _engine_brief(model, plan, setup)
    batch, length, prompt, gpu = setup.batch_size, setup.sequence_length, setup.prompt_length, setup.gpu
    if prompt is None:
        prompt = length
    stages = standing(model, plan, setup)
    gpus = plan.placement.gpus
    copies = gpus // plan.placement.pipeline
    used = weights = early = late = prefill = decode = 0  # the last five over all GPUs
    for held, whole, alike in stages:
        one, times = whole.bytes, copies * alike
        sizes = held.sizes(batch, prompt, length)
        used = max(used, one + sizes.early + sizes.prefill, one + sizes.late + sizes.decode)
        weights += times * one
        early += times * sizes.early
        late += times * sizes.late
        prefill += times * sizes.prefill
        decode += times * sizes.decode
    if early + prefill >= late + decode:
        late, decode = early, prefill
    check_countable(weights + late + decode)
    parts = {"model_weights": weights, "kv_cache": late, "activation_memory": decode}
    if gpu is None:
        return Brief(parts, None, None, setup.gpu_count or gpus)
    return Brief(parts, gpu.memory - used, used, counted(setup, gpus))


def _engine_brief(model: Model, plan: Plan, setup: InferenceSetup) -> Brief:
    if plan.placement is not ALONE:
        return brief_of(inference(model, setup))
    question, engine, gpu = question_of(model, plan, setup), plan.engine, setup.gpu
    share = engine.share(question, 0)
    most = -1
    for phase in share.phases:
        total = phase.total
        if total > most:
            most, peak = total, phase
    check_countable(most)
    parts = parts_of(peak)
    if gpu is None:
        return Brief(parts, None, None, setup.gpu_count or 1)
    return Brief(parts, _room(engine, question, (share,), gpu.memory - most), most, counted(setup, 1))


def check_countable(total: int) -> None:
    """Raise TooLarge where a total is more than an answer can hold."""
    if total > MAX_BYTES:
        raise TooLarge("the memory comes to more than 2**53 bytes", None)


def counted(setup: InferenceSetup, used: int) -> int:
    """GPUs that were said, or that are used; raises InvalidSetup where fewer were said."""
    count = setup.gpu_count or used
    if count < used:
        raise InvalidSetup(
            f"gpu_count must be at least {used}: that is what the parallelism asked for takes", "gpu_count"
        )
    return count


def _summed(shares: tuple[Share, ...], stages: tuple[tuple[Phase, ...], ...]) -> tuple[Phase, ...]:
    """The phases over all GPUs, part by part."""
    made = []
    for which, phase in enumerate(stages[0]):
        parts = []
        for place, part in enumerate(phase.parts):
            terms = [(share.copies, phases[which].parts[place]) for share, phases in zip(shares, stages, strict=True)]
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


def _fitted(gpu: GPU, count: int, used: int, room: int) -> dict[str, Any]:
    """Whether it fits the fullest GPU."""
    return {
        "fits": room >= 0,
        "gpu": gpu.name,
        "gpu_count": count,
        "gpu_memory_gib": gib(gpu.memory),
        "used_gib": gib(used),
        "free_gib": gib(gpu.memory - used),
    }


def _room(engine: Engine, question: Question, shares: tuple[Share, ...], free: int) -> int:
    """Bytes left: of the fullest GPU, and of the pool where an engine keeps one; negative where it does not fit."""
    if engine.pool is None:
        return free
    pools = [engine.pool(question, share) for share in shares]
    return min(free, *(pool.size - pool.needed for pool in pools))


__all__ = ["brief", "inference", "planned", "recipe_for"]
