"""The question turned around: the largest n that still fits, the fewest GPUs, and what to change so that it fits.

Everything here asks the function that answers a plain request, so that a solved number is the boundary of those
answers:
with n it fits, with n + 1 it does not. `Estimate.room` (bytes left on the fullest GPU) must not grow with n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from .errors import CalculatorError, InvalidSetup, TooLarge
from .estimate import MAX_BYTES, Brief, Estimate
from .gpus import GPU
from .model import Model
from .precisions import BITS
from .setup import InferenceSetup, Lora, TrainingSetup

Setup = TypeVar("Setup", InferenceSetup, TrainingSetup)


class Calculation(NamedTuple):
    """A function that answers a plain request, and the one that gives its figures alone."""

    whole: Callable[[Model, Any], Estimate]
    brief: Callable[[Model, Any], Brief]


MOST_BATCH = 10**6
MOST_LENGTH = 10**9
MOST_GPUS = 1024  # beyond that a split is a project of its own


@dataclass(frozen=True, slots=True)
class Solved:
    """The largest n (0 where not even the least fits), and what else than memory set the limit, if something did."""

    n: int
    limited_by: str | None = None


def largest(room: Callable[[int], int], most: int, least: int = 1) -> int:
    """The largest n in [least, most] with room(n) ≥ 0, or least - 1 where there is none. room never grows with n.

    Interpolates, since memory is nearly a straight line, and bisects where that gains too little.

    >>> largest(lambda n: 1000 - 7 * n, most=10**6)
    142
    """
    low_room = room(least)
    if low_room < 0:
        return least - 1
    high_room = room(most)
    if high_room >= 0:
        return most
    low, high = least, most
    step = 1
    while high - low > 1 and low + step < high:  # gallop from below: the answer is often far from `most`
        guess = low + step
        here = room(guess)
        if here < 0:
            high, high_room = guess, here
            break
        fall = max(low_room - here, 1)
        low, low_room = guess, here
        step = max(2 * step, min(step * here // fall, 1024 * step))
    turn = 0
    while high - low > 1:
        if turn % 3 == 2:
            guess = (low + high) // 2
        else:
            guess = low + (high - low) * low_room // max(low_room - high_room, 1) + turn % 3
        guess = min(max(guess, low + 1), high - 1)
        here = room(guess)
        if here >= 0:
            low, low_room = guess, here
        else:
            high, high_room = guess, here
        turn += 1
    return low


def room_of(run: Calculation, model: Model, setup: Any) -> int:
    """Bytes left on the fullest GPU; what is too large to be counted does not fit."""
    try:
        room = run.brief(model, setup).room
    except TooLarge:
        return -MAX_BYTES
    if room is None:
        raise InvalidSetup("say which gpu, or its gpu_memory_gib: without one there is nothing to fit into", "gpu")
    return room


def largest_batch(run: Calculation, model: Model, setup: Setup) -> Solved:
    """The most sequences that fit, everything else as it is."""
    n = largest(lambda n: room_of(run, model, setup._replace(batch_size=n)), MOST_BATCH)
    return Solved(n, "limits.batch_size" if n == MOST_BATCH else None)


def largest_length(run: Calculation, model: Model, setup: Setup) -> Solved:
    """The longest sequences that fit, up to what the model was made for."""
    most = min(model.max_context or MOST_LENGTH, MOST_LENGTH)
    least = getattr(setup, "prompt_length", None) or 1
    most = max(most, least)
    n = largest(lambda n: room_of(run, model, setup._replace(sequence_length=n)), most, least)
    if n < least:
        return Solved(0, "prompt_length" if least > 1 else None)
    if n < most:
        return Solved(n)
    return Solved(n, "max_context" if most == model.max_context else "limits.sequence_length")


# ---------------------------------------------------------------------- how many GPUs


@dataclass(frozen=True, slots=True)
class Placement:
    """So many GPUs of a kind, how the work is split over them, and the bytes taken of the fullest."""

    gpu: GPU
    gpu_count: int
    split: Mapping[str, Any]
    used: int

    @property
    def total_memory(self) -> int:
        """Bytes of all of them."""
        return self.gpu.memory * self.gpu_count


_INFERENCE_WAYS = attrgetter("tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel")
_TRAINING_WAYS = attrgetter(
    "tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel", "context_parallel"
)


def is_split(setup: Any) -> bool:
    """Whether the request already says how the work is split."""
    ways = _TRAINING_WAYS if isinstance(setup, TrainingSetup) else _INFERENCE_WAYS
    return set(ways(setup)) != {1}


NODE = 8  # GPUs that share memory fast enough for tensor parallelism


def split_of(setup: Any, tensor: int, others: int) -> dict[str, Any]:
    """The fields of a split: `tensor` ways of tensor parallelism inside a node, `others` of what goes over nodes.

    In inference those are pipeline stages, in training data-parallel ranks that shard everything.
    """
    change: dict[str, Any] = {"tensor_parallel": tensor} if tensor > 1 else {}
    if others > 1 and isinstance(setup, TrainingSetup):
        change |= {"data_parallel": others, "zero_stage": 3}
    elif others > 1:
        change["pipeline_parallel"] = others
    return change


def fewest(
    run: Calculation, model: Model, setup: Setup, gpu: GPU, most: int = MOST_GPUS, before: Placement | None = None
) -> Placement | None:
    """The fewest GPUs of a kind that hold the work, None where `most` do not; `before` is the answer for a larger one.

    For every number of tensor-parallel ways the fewest others are searched, which never need more of a GPU the more
    they are. Of splits over equally many the one with most tensor parallelism wins in inference, the least in
    training.
    """
    if is_split(setup):
        return _placed(run, model, setup._replace(gpu=gpu, gpu_count=None), gpu, {})

    def at(tensor: int, others: int) -> Placement | None:
        split = split_of(setup, tensor, others)
        return _placed(run, model, setup._replace(gpu=gpu, gpu_count=None, **split), gpu, split)

    least = 1
    if before is not None:  # fewer do not do on a smaller card, and what did on the larger one mostly does here
        again = _placed(run, model, setup._replace(gpu=gpu, gpu_count=None, **before.split), gpu, before.split)
        if again is not None:
            return again
        least = before.gpu_count
    if least == 1:
        alone = at(1, 1)
        if alone is not None:
            return alone
    ways = range(1, NODE + 1)
    best: Placement | None = None
    for tensor in ways if isinstance(setup, TrainingSetup) else reversed(ways):
        bound = (best.gpu_count - 1 if best is not None else most) // tensor
        if isinstance(setup, InferenceSetup):
            bound = min(bound, len(model.layers))
        found = _fewest_others(at, tensor, max(-(-least // tensor), 1), bound, likely=best is None)
        best = found or best
    return best


def _fewest_others(
    at: Callable[[int, int], Placement | None], tensor: int, least: int, most: int, likely: bool
) -> Placement | None:
    """The fewest others in [least, most] with which it fits: gallops up, then bisects. Where it is not `likely` that
    any
    do, the most are asked first."""
    if least > most:
        return None
    found = None if likely else at(tensor, most)
    if not likely and found is None:
        return None
    low, high, step = least - 1, most, 1
    while low < high:
        guess = min(low + step, high)
        if guess == high and found is not None:
            break
        here = at(tensor, guess)
        if here is not None:
            found, high = here, guess
            break
        if guess == high:
            return None
        low, step = guess, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        here = at(tensor, middle)
        if here is not None:
            found, high = here, middle
        else:
            low = middle
    return found


def _placed(run: Calculation, model: Model, setup: Any, gpu: GPU, split: Mapping[str, Any]) -> Placement | None:
    try:
        answer = run.brief(model, setup)
    except CalculatorError:
        return None  # heads that do not divide, stages that outnumber layers, an engine that does not split so
    if answer.room is None or answer.used is None or answer.room < 0:
        return None
    return Placement(gpu, answer.gpus, split, answer.used)


def placements(run: Calculation, model: Model, setup: Setup, catalogue: Iterable[GPU]) -> list[Placement]:
    """Every GPU of the catalogue with the fewest needed, the least total memory first.

    Cards are asked from the largest memory down: a smaller one never needs fewer, and where one cannot hold the work
    at all none below it can.
    """
    found: list[Placement] = []
    last: Placement | None = None
    for gpu in sorted(catalogue, key=lambda gpu: -gpu.memory):
        if last is not None and last.gpu.memory == gpu.memory:
            last = replace(last, gpu=gpu)
        else:
            last = fewest(run, model, setup, gpu, before=last)
            if last is None:
                break
        found.append(last)
    return sorted(found, key=lambda placed: (placed.total_memory, placed.gpu_count, placed.gpu.name))


# ---------------------------------------------------------------------- what to change


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One change of the request, what it saves on the fullest GPU, and the answer it gives."""

    change: Mapping[str, Any]
    saves: int
    total: int
    fits: bool
    estimate: Estimate


def _inference_changes(model: Model, setup: InferenceSetup) -> Iterator[dict[str, Any]]:
    if setup.attention == "eager":
        yield {"attention": "flash"}
    if setup.logits == "all":
        yield {"logits": "last"}
    if setup.kv_cache_precision not in ("fp8", "int8", "q8_0", "int4", "q4_0"):
        yield {"kv_cache_precision": "q8_0" if setup.engine == "llama.cpp" else "fp8"}
    if setup.precision is not None:
        if BITS[setup.precision] > 16:
            yield {"precision": "bfloat16"}
        if BITS[setup.precision] > 8:
            yield {"precision": "int8"}
    elif not setup.quantization and not model.quantization:
        if setup.engine == "llama.cpp":
            yield {"quantization": "gguf-q8_0"}
        else:
            yield {"quantization": "fp8"}
    if not is_split(setup) and setup.gpu_count is None:
        for ways in (2, 4, 8):
            yield {"tensor_parallel": ways}
    if setup.precision is not None:
        if BITS[setup.precision] > 4:
            yield {"precision": "int4"}
    elif not model.quantization and setup.quantization not in ("gguf-q4_k_m", "awq-int4"):
        yield {"quantization": "gguf-q4_k_m" if setup.engine == "llama.cpp" else "awq-int4"}


def _training_changes(model: Model, setup: TrainingSetup) -> Iterator[dict[str, Any]]:
    if setup.attention == "eager":
        yield {"attention": "sdpa"}
    if setup.keep_logits:
        yield {"keep_logits": False}
    if setup.optimizer_implementation != "fused" and setup.optimizer in ("AdamW", "Adam"):
        yield {"optimizer_implementation": "fused"}
    if setup.loss == "standard":
        yield {"loss": "fused"}
    if setup.kernels == "standard":
        yield {"kernels": "liger"}
    if setup.gradient_checkpointing != "full":
        yield {"gradient_checkpointing": "full"}
    if not is_split(setup) and setup.gpu_count is None:
        for ways in (2, 4, 8):
            yield {"tensor_parallel": ways}
    if setup.optimizer == "AdamW":
        yield {"optimizer": "Quantized AdamW"}
    if setup.method == "full":
        yield {"method": "lora"}
        yield {"method": "qlora"}
    elif setup.method == "lora":
        yield {"method": "qlora"}


def suggestions(run: Calculation, model: Model, setup: Setup, now: Estimate) -> list[Suggestion]:
    """Single changes that save memory on the fullest GPU, cheapest in quality first; each fits or at least helps.

    Of several that add GPUs only the first that fits is listed.
    """
    changes = _inference_changes(model, setup) if isinstance(setup, InferenceSetup) else _training_changes(model, setup)
    made: list[Suggestion] = []
    for change in changes:
        if "tensor_parallel" in change and any("tensor_parallel" in each.change and each.fits for each in made):
            continue
        suggested = suggestion(run, model, setup, now, change)
        if suggested is not None and suggested.saves > 0:
            made.append(suggested)
    for name, solved in (("sequence_length", largest_length), ("batch_size", largest_batch)):
        if getattr(setup, name) > 1:
            try:
                n = solved(run, model, setup).n
            except CalculatorError:
                continue
            if 0 < n < getattr(setup, name):
                suggested = suggestion(run, model, setup, now, {name: n})
                if suggested is not None:
                    made.append(suggested)
    return made


def suggestion(
    run: Calculation, model: Model, setup: Any, now: Estimate, change: Mapping[str, Any]
) -> Suggestion | None:
    """What one change gives, None where it cannot be made."""
    applied: dict[str, Any] = dict(change)
    if change.get("method") in ("lora", "qlora"):
        applied |= {"lora": setup.lora or Lora()}
    try:
        then = run.whole(model, setup._replace(**applied))
    except CalculatorError:
        return None
    saves = now.fullest_peak.total - then.fullest_peak.total
    if now.room is not None and then.room is not None and saves <= 0:
        saves = then.room - now.room
    return Suggestion(change, saves, then.peak.total, (then.room or 0) >= 0, then)


# ---------------------------------------------------------------------- whole answers


def fit_report(run: Calculation, model: Model, setup: Setup, now: Estimate) -> dict[str, Any]:
    """What a reply says under `fit`: the estimate's own figures, the limits on these GPUs, and where it does not fit
    what helps.

    `setup` is the question as it was asked, so that each suggestion, sent back with it, gives the promised figure.
    """
    report = dict(now.fit or {})
    report["max_batch_size"] = largest_batch(run, model, setup).n
    report["max_sequence_length"] = largest_length(run, model, setup).n
    found = fewest(run, model, setup, setup.gpu) if setup.gpu is not None else None
    report["min_gpu_count"] = found.gpu_count if found is not None else None
    report["suggestions"] = (
        []
        if report.get("fits")
        else [
            {
                "change": dict(each.change),
                "saves_bytes": each.saves,
                "total_bytes": each.total,
                "fits": each.fits,
            }
            for each in suggestions(run, model, setup, now)
        ]
    )
    return report


SOLVABLE = ("batch_size", "sequence_length", "gpu_count")


def solve(run: Calculation, model: Model, setup: Setup, field: str) -> Solved:
    """The n for which the plain request with it fits and with n + 1 does not; of gpu_count, the fewest."""
    if field == "batch_size":
        return largest_batch(run, model, setup)
    if field == "sequence_length":
        return largest_length(run, model, setup)
    if setup.gpu is None:
        raise InvalidSetup("say which gpu, or its gpu_memory_gib: without one there is nothing to fit into", "gpu")
    found = fewest(run, model, setup, setup.gpu)
    return Solved(0) if found is None else Solved(found.gpu_count)


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model that runs on a card: the setup that does it at the best number format, and how far it goes there."""

    name: str
    setup: InferenceSetup | TrainingSetup
    max_sequence_length: Solved
    max_batch_size: Solved
    estimate: Estimate


def formats_to_try(model: Model, setup: Setup) -> Iterator[Mapping[str, Any]]:
    """Number formats from the best in quality down; only the one that was asked for, if one was."""
    yield {}
    if isinstance(setup, TrainingSetup):
        if setup.method == "full" and setup.precision is None and setup.mixed_precision is None:
            yield {"precision": "bfloat16", "mixed_precision": "none"}
        return
    if setup.precision is not None or setup.quantization is not None or model.quantization:
        return
    if setup.engine == "llama.cpp":
        names: tuple[str, ...] = ("gguf-q8_0", "gguf-q6_k", "gguf-q4_k_m", "gguf-q2_k")
    else:
        names = ("fp8", "awq-int4")
    for name in names:
        yield {"quantization": name}


def runnable(run: Calculation, name: str, model: Model, setup: Setup) -> Runnable | None:
    """How `model` runs on the card of `setup`, None where it does not at any number format."""
    for change in formats_to_try(model, setup):
        changed = setup._replace(**change)
        try:
            estimate = run.whole(model, changed)
            if estimate.room is None or estimate.room < 0:
                continue
            return Runnable(
                name, changed, largest_length(run, model, changed), largest_batch(run, model, changed), estimate
            )
        except CalculatorError:
            continue
    return None
