"""Answers as JSON: each reply class says the shape for /openapi.json, the function beside it fills it.

The functions build plain dictionaries, which orjson writes as they are: the classes are never instantiated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from calculator.errors import TooLarge
from calculator.estimate import MAX_BYTES, Estimate, Part, Phase, parts_of
from calculator.model import Model
from calculator.units import gigabytes

INFERENCE_PARTS = ("model_weights", "kv_cache", "activation_memory")
TRAINING_PARTS = ("model_weights", "gradient_memory", "optimizer_memory", "activation_memory")


class Reply(BaseModel):
    """A JSON object with these members."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Open(BaseModel):
    """A JSON object that may hold more than is said here."""

    model_config = ConfigDict(extra="allow", defer_build=True)


class FaultReply(Reply):
    """One thing wrong with a body."""

    field: str = Field(description="The path of the field, such as configurations[1].precision.")
    message: str = Field(description="What is wrong and what is allowed.")


class ErrorReply(Reply):
    """Every failure."""

    error: str = Field(description="One sentence that names the way out.")
    details: list[FaultReply] | None = Field(None, description="Every field at fault.")
    suggestions: list[str] | None = Field(None, description="Names of models like the one that was not found.")


class ModelReply(Reply):
    """The model that was computed."""

    name: str | None
    parameter_count: int
    active_parameter_count: int


class PartReply(Reply):
    """One part of the peak, with the formula in the request's own numbers."""

    part: str
    bytes: int
    low: int = Field(description="Lower bound; equal to bytes where arithmetic decides.")
    high: int = Field(description="Upper bound.")
    formula: str


class CacheReply(Reply):
    """The cache between decode steps."""

    needed_bytes: int = Field(description="What the sequences need.")
    reserved_bytes: int = Field(description="What is set aside for them; with an engine, what that engine allocates.")
    state_bytes: int = Field(description="Recurrent and convolution state, which does not grow with the context.")


class StageReply(Reply):
    """One GPU of a pipeline stage."""

    stage: int
    memory_bytes: dict[str, int]


class PerGpuReply(Reply):
    """The fullest GPU, and one of each pipeline stage where they differ."""

    memory_bytes: dict[str, int]
    stages: list[StageReply] | None = None


class SuggestionReply(Reply):
    """One change and what it brings."""

    change: dict[str, Any]
    saves_bytes: int
    total_bytes: int
    fits: bool


class FitReply(Open):
    """Whether it fits the GPU that was named."""

    fits: bool
    gpu: str | None = None
    gpu_count: int
    gpu_memory_gib: float
    used_gib: float
    free_gib: float
    max_batch_size: int
    max_sequence_length: int
    min_gpu_count: int | None = Field(description="Null where no number of them holds it.")
    suggestions: list[SuggestionReply]


class MemoryReply(Reply):
    """What inference and training answer alike."""

    parameters: dict[str, Any] = Field(description="What was used: the request and every default that applies.")
    model: ModelReply
    memory_requirements: dict[str, str] = Field(description="For people: decimal gigabytes, such as 14.00 GB.")
    memory_bytes: dict[str, int] = Field(description="For programs: the parts alive at the peak, and their sum.")
    phases: dict[str, int] = Field(description="Bytes alive at each moment, over all GPUs.")
    peak: str = Field(description="The moment that needs most.")
    explanation: list[PartReply]
    warnings: list[str]
    per_gpu: PerGpuReply | None = None
    fit: FitReply | None = None


class InferenceReply(MemoryReply):
    """The memory of inference."""

    calculation_type: Literal["inference"]
    cache: CacheReply
    engine_report: dict[str, Any] | None = Field(None, description="What that engine prints at start, per GPU.")


class TrainingReply(MemoryReply):
    """The memory of a training step."""

    calculation_type: Literal["training"]
    states_bytes: dict[str, int] = Field(description="Weights, gradients, master copy and optimizer states in full.")
    saved_bytes_per_layer: int | None = Field(None, description="What autograd keeps of the first layer.")


class SummaryReply(Reply):
    """How the configurations compare."""

    smallest: int
    largest: int
    total_bytes: list[int]
    relative_to_first: list[float]


class CompareReply(Reply):
    """Each configuration's own reply, in order, and how they compare."""

    calculation_type: Literal["inference", "training"]
    results: list[InferenceReply | TrainingReply]
    summary: SummaryReply


class GpuRow(Reply):
    """So many of a GPU, and how the work is split over them."""

    gpu: str
    gpu_count: int
    split: dict[str, Any]
    used_gib: float
    free_gib: float


class ModelRow(Reply):
    """A model that runs on the GPU at its best number format, and how far it goes there."""

    name: str
    precision: str | None = None
    quantization: str | None = None
    max_sequence_length: int
    max_batch_size: int
    used_gib: float


class GpusFound(Reply):
    """A model and no GPU: every GPU that holds it, the least total memory first."""

    gpus: list[GpuRow]
    warnings: list[str] | None = None


class ModelsFound(Reply):
    """A GPU and no model: every bundled model that runs on it."""

    models: list[ModelRow]


class Solution(Reply):
    """Both: the largest that fits (0 where not even one does), or the fewest GPUs."""

    solve_for: str
    batch_size: int | None = None
    sequence_length: int | None = None
    gpu_count: int | None = None
    limited_by: str | None = Field(description="What else than memory sets the limit.")
    warnings: list[str] | None = None


class SweepRow(Reply):
    """One cell: what it takes, or why it cannot be."""

    values: list[Any]
    memory_bytes: dict[str, int] | None
    fits: bool | None = Field(description="Null without a GPU.")
    error: str | None = None


class SweepReply(Reply):
    """The same question over many values."""

    over: str | list[str]
    rows: list[SweepRow]


class HealthReply(Reply):
    """Alive."""

    status: str
    version: str
    models: int


class SummaryOfModel(Reply):
    """One line of the list."""

    name: str
    hub_id: str
    family: str
    model_type: str
    parameter_count: int
    active_parameter_count: int
    max_context: int | None
    default_precision: str | None


class ModelsReply(Reply):
    """The bundled models, by family, then size."""

    models: list[SummaryOfModel]
    count: int


class SavedReply(Reply):
    """One tensor that a layer keeps for the backward pass."""

    name: str
    elements_per_token: int
    elements_per_token_pair: int | None = Field(None, description="Attention scores, where a kernel keeps them.")
    precision: str = Field(description="compute (that of the weights), float32, or mask (one byte).")


class LayerReply(Reply):
    """What one layer of a kind keeps for the backward pass, and how many such layers there are."""

    layers: int
    saved: list[SavedReply]


class ModelDetailReply(SummaryOfModel):
    """One model: what it is made of and what it keeps."""

    config: dict[str, Any]
    parameters_by_component: dict[str, int]
    multi_token_prediction_parameters: int
    kv_cache_bytes_per_token: int = Field(description="At 16 bit, inside every window.")
    state_bytes_per_sequence: int
    saved_for_backward: list[LayerReply]
    source: str


class NamedOptions(Open):
    """A name and the options that go with it."""

    name: str
    options: list[Any]


class CatalogueGpu(Reply):
    """A card."""

    name: str
    memory_gib: float
    vendor: str
    source: str


class OptionsReply(Open):
    """Every choice, limit and default."""

    data_types: dict[str, float] = Field(description="Bytes a parameter.")
    optimizers: dict[str, float] = Field(description="Bytes of state a trained parameter.")
    quantizations: list[NamedOptions]
    kv_cache_precisions: list[str]
    engines: list[NamedOptions]
    gpus: list[CatalogueGpu]
    mixed_precisions: list[str]
    gradient_checkpointing: list[str]
    attention: list[str]
    frameworks: list[str]
    model_types: list[str]
    lora_target_modules: list[str]
    limits: dict[str, int]
    defaults: dict[str, Any]


def memory_bytes(phase: Phase, always: tuple[str, ...], total: str) -> dict[str, int]:
    """The parts of a moment and their sum: those of `always` even at zero, others where they are not zero."""
    return figures_of(parts_of(phase), always, total)


def figures_of(parts: Mapping[str, int], always: tuple[str, ...], total: str) -> dict[str, int]:
    """The same of parts that are summed up by name."""
    figures = dict.fromkeys(always, 0)
    whole = 0
    for name, memory in parts.items():
        if memory or name in figures:
            figures[name] = memory
            whole += memory
    figures[total] = whole
    return figures


def at_peak(peak: Phase, always: tuple[str, ...], total: str) -> dict[str, Any]:
    """What a reply says of the moment that needs most."""
    figures = memory_bytes(peak, always, total)
    return {
        "memory_requirements": {name: gigabytes(memory) for name, memory in figures.items()},
        "memory_bytes": figures,
        "peak": peak.name,
        "explanation": explanation(peak.parts),
    }


def explanation(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Each part with its formula."""
    return [
        {
            "part": name,
            "bytes": size,
            "low": size if least < 0 else least,
            "high": size if most < 0 else most,
            "formula": formula,
        }
        for name, size, formula, least, most in parts
    ]


def inference_reply(
    parameters: Mapping[str, Any], model: Model, estimate: Estimate, warnings: Iterable[str]
) -> dict[str, Any]:
    """The answer of /api/memory/inference."""
    reply: dict[str, Any] = {"calculation_type": "inference", "parameters": parameters}
    reply |= _memory(model, estimate, INFERENCE_PARTS, "inference_memory", warnings)
    reply["cache"] = estimate.cache
    if estimate.engine_report:
        reply["engine_report"] = estimate.engine_report
    return reply


def training_reply(
    parameters: Mapping[str, Any], model: Model, estimate: Estimate, warnings: Iterable[str]
) -> dict[str, Any]:
    """The answer of /api/memory/training."""
    reply: dict[str, Any] = {"calculation_type": "training", "parameters": parameters}
    reply |= _memory(model, estimate, TRAINING_PARTS, "training_memory", warnings)
    reply["states_bytes"] = estimate.states
    if estimate.saved_per_layer is not None:
        reply["saved_bytes_per_layer"] = estimate.saved_per_layer
    return reply


def _memory(
    model: Model, estimate: Estimate, always: tuple[str, ...], total: str, warnings: Iterable[str]
) -> dict[str, Any]:
    """What both say alike."""
    phases = {phase.name: phase.total for phase in estimate.phases}
    most = max(phases.values())
    if most > MAX_BYTES:
        raise TooLarge("the memory comes to more than 2**53 bytes, the most that JavaScript holds exactly")
    peak = next(phase for phase in estimate.phases if phases[phase.name] == most)
    said: dict[str, Any] = {
        "model": {
            "name": model.name,
            "parameter_count": model.parameters,
            "active_parameter_count": model.active_parameters,
        },
        "phases": phases,
        **at_peak(peak, always, total),
        "warnings": [*warnings, *estimate.warnings],
    }
    if estimate.fullest:
        said["per_gpu"] = per_gpu(estimate, always, total)
    if estimate.fit is not None:
        said["fit"] = estimate.fit
    return said


def per_gpu(estimate: Estimate, always: tuple[str, ...], total: str) -> dict[str, Any]:
    """The fullest GPU at its own peak; with stages that differ, one GPU of each at its own."""
    figures: dict[str, Any] = {"memory_bytes": memory_bytes(estimate.fullest_peak, always, total)}
    if estimate.stages:
        figures["stages"] = [
            {
                "stage": stage,
                "memory_bytes": memory_bytes(max(phases, key=lambda phase: phase.total), always, total),
            }
            for stage, phases in enumerate(estimate.stages)
        ]
    return figures


def summary(totals: list[int]) -> dict[str, Any]:
    """Which is smallest, which largest, and each relative to the first.

    >>> summary([4, 2])["relative_to_first"]
    [1.0, 0.5]
    """
    first = totals[0]
    return {
        "smallest": totals.index(min(totals)),
        "largest": totals.index(max(totals)),
        "total_bytes": totals,
        "relative_to_first": [total / first if first else 1.0 for total in totals],
    }
