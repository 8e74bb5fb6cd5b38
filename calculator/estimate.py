"""What a calculation answers: named parts that sum, phases of which the largest is the peak."""

from __future__ import annotations

from typing import Any, NamedTuple

MAX_BYTES = 2**53


class Part(NamedTuple):
    """One named share of memory, with the formula that gave it in this request's own numbers.

    `least` and `most` bound it where a figure is calibrated; below zero where arithmetic decides.
    """

    name: str
    bytes: int
    formula: str
    least: int = -1
    most: int = -1

    @property
    def low(self) -> int:
        """The lower bound; `bytes` where arithmetic decides."""
        return self.bytes if self.least < 0 else self.least

    @property
    def high(self) -> int:
        """The upper bound; `bytes` where arithmetic decides."""
        return self.bytes if self.most < 0 else self.most


class Phase(NamedTuple):
    """A moment and the parts that are alive in it."""

    name: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """Bytes alive in this moment."""
        total = 0
        for part in self.parts:
            total += part.bytes
        return total

    def bytes_of(self, name: str) -> int:
        """Bytes of the part `name`, 0 where this phase has none."""
        return sum(part.bytes for part in self.parts if part.name == name)


NOTHING: dict[str, Any] = {}


class Estimate(NamedTuple):
    """The answer to one request. Memory in bytes, over all GPUs; `fullest` is the same for the fullest one.

    phases         in the order they happen; the largest is the peak
    fullest        phases of the fullest GPU, where there is more than one
    stages         per pipeline stage: phases of one of its GPUs, where stages differ
    cache          needed_bytes, reserved_bytes, state_bytes (inference)
    engine_report  what that engine prints at start, in its own words and units (inference)
    states         weights, gradients, master copy and optimizer states in full (training)
    saved_per_layer  bytes autograd keeps of the first layer (training)
    fit            what the reply says of a GPU: fits, gpu, gpu_count, gpu_memory_gib, used_gib, free_gib, ...
    room           with a GPU, bytes that stay free on the fullest one inside what may be used there (under vllm and
                   sglang: of the pool, beyond batch × length); negative where it does not fit
    used           with a GPU, bytes that are taken of the fullest one
    gpus           how many GPUs it is spread over, or as many as were said
    assumed        defaults that were applied, by request field: they are echoed in `parameters`
    """

    phases: tuple[Phase, ...]
    fullest: tuple[Phase, ...] = ()
    stages: tuple[tuple[Phase, ...], ...] = ()
    cache: dict[str, int] = NOTHING
    engine_report: dict[str, Any] = NOTHING
    states: dict[str, int] = NOTHING
    saved_per_layer: int | None = None
    assumed: dict[str, Any] = NOTHING
    warnings: tuple[str, ...] = ()
    fit: dict[str, Any] | None = None
    room: int | None = None
    used: int | None = None
    gpus: int = 1

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fullest_peak(self) -> Phase:
        """The largest phase of the fullest GPU."""
        return max(self.fullest or self.phases, key=lambda phase: phase.total)


class Brief(NamedTuple):
    """The figures of an estimate without what explains them, for the many answers of which one is looked for.

    parts   bytes of the largest moment over all GPUs, by name
    room, used, gpus   as in the estimate
    """

    parts: dict[str, int]
    room: int | None
    used: int | None
    gpus: int


def parts_of(phase: Phase) -> dict[str, int]:
    """Bytes of a phase by part."""
    parts: dict[str, int] = {}
    for part in phase.parts:
        parts[part.name] = parts.get(part.name, 0) + part.bytes
    return parts


def brief_of(estimate: Estimate) -> Brief:
    """The figures of an estimate."""
    return Brief(parts_of(estimate.peak), estimate.room, estimate.used, estimate.gpus)
