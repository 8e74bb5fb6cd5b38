"""POST /api/memory/fit: the question turned around. Which GPUs hold a model, which models a GPU, how much fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from flask import Blueprint
from pydantic import ConfigDict, Field

from calculator.errors import CalculatorError
from calculator.gpus import GPUS
from calculator.library import library
from calculator.solve import SOLVABLE, Placement, Runnable, placements, runnable, solve
from calculator.units import gib

from .application import raw_body
from .bodies import MODEL_FIELDS, Maybe
from .errors import Fault
from .memory import InferenceRequest, MemoryRequest, TrainingRequest
from .reading import OneOf, Paths, TaggedReader

fit = Blueprint("fit", __name__, url_prefix="/api/memory")

SOLVE_FOR = Field(None, description="With a model and a GPU: the field that is asked for, left out of the workload.")


def fit_faults(sent: Mapping[str, Any], wrong: Paths) -> Iterator[Fault]:
    """A model, a GPU, or both and what is asked of them."""
    model = any(name in sent for name in MODEL_FIELDS)
    gpu = "gpu" in sent or "gpu_memory_gib" in sent
    if not model and not gpu:
        yield Fault("model_name", "give a model (which GPUs hold it?), a gpu (which models does it hold?), or both")
    if model and gpu and "solve_for" not in sent:
        yield Fault("solve_for", f"is required beside a model and a gpu: one of {', '.join(SOLVABLE)}")
    if "solve_for" in sent and not (model and gpu):
        yield Fault("solve_for", "only goes beside a model and a gpu")
    if "solve_for" in sent and ("solve_for",) not in wrong and sent["solve_for"] in sent:
        yield Fault(sent["solve_for"], "is what is asked for: leave it out")
    if "gpu_count" in sent and not gpu:
        yield Fault("gpu_count", "only goes beside gpu: the fewest GPUs needed are found")


class InferenceFit(InferenceRequest):
    """A question about what fits, in inference."""

    model_config = ConfigDict(json_schema_extra={})
    needs_model = False

    calculation_type: Literal["inference"]
    solve_for: Maybe[Annotated[str, OneOf(*SOLVABLE)]] = SOLVE_FOR

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        yield from super().conflicts(sent, wrong)
        yield from fit_faults(sent, wrong)

    def reply(self) -> dict[str, Any]:
        return turned_around(self, self.solve_for)


class TrainingFit(TrainingRequest):
    """A question about what fits, in training."""

    model_config = ConfigDict(json_schema_extra={})
    needs_model = False

    calculation_type: Literal["training"]
    solve_for: Maybe[Annotated[str, OneOf(*SOLVABLE)]] = SOLVE_FOR

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        yield from super().conflicts(sent, wrong)
        yield from fit_faults(sent, wrong)

    def reply(self) -> dict[str, Any]:
        return turned_around(self, self.solve_for)


def turned_around(ask: MemoryRequest, solve_for: str | None) -> dict[str, Any]:
    """The answer in the form the question has."""
    setup, run = ask.setup(), type(ask).run
    if not ask.names_model:
        found = (runnable(run, entry.name, entry.model, setup) for entry in readable())
        return {"models": [model_row(each) for each in found if each is not None]}
    model, warnings, _ = ask.chosen()
    if setup.gpu is None:
        rows = [gpu_row(each) for each in placements(run, model, setup, GPUS)]
        return {"gpus": rows, **({"warnings": warnings} if warnings else {})}
    assert solve_for is not None
    solved = solve(run, model, setup, solve_for)
    answer = {"solve_for": solve_for, solve_for: solved.n, "limited_by": solved.limited_by}
    return answer | ({"warnings": warnings} if warnings else {})


def readable() -> Iterator[Any]:
    """Bundled models whose configuration can be read."""
    for entry in library().entries:
        try:
            entry.model  # noqa: B018
        except CalculatorError:
            continue
        yield entry


def gpu_row(placed: Placement) -> dict[str, Any]:
    """So many of a GPU."""
    return {
        "gpu": placed.gpu.name,
        "gpu_count": placed.gpu_count,
        "split": placed.split,
        "used_gib": gib(placed.used),
        "free_gib": gib(placed.gpu.memory - placed.used),
    }


def model_row(found: Runnable) -> dict[str, Any]:
    """A model and how far it goes."""
    assumed = found.estimate.assumed
    stored = found.setup.quantization or assumed.get("quantization")
    kept = {"quantization": stored} if stored else {"precision": found.setup.precision or assumed.get("precision")}
    return {
        "name": found.name,
        **kept,
        "max_sequence_length": found.max_sequence_length.n,
        "max_batch_size": found.max_batch_size.n,
        "used_gib": (found.estimate.fit or {}).get("used_gib"),
    }


read_fit: TaggedReader[Any] = TaggedReader("calculation_type", {"inference": InferenceFit, "training": TrainingFit})


@fit.post("/fit")
def fitting() -> dict[str, Any]:
    """What fits."""
    answer: dict[str, Any] = read_fit(raw_body()).reply()
    return answer
