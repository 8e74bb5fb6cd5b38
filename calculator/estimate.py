"""What a calculation answers: named parts that sum, phases of which the largest is the peak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 2**53


@dataclass(frozen=True, slots=True, init=False)
class Part:
    """One named share of memory, with the formula that gave it in this request's own numbers.

    `low` and `high` bound it: equal to `bytes` where arithmetic decides, apart where a figure is calibrated.
    """

    name: str
    bytes: int
    formula: str
    low: int
    high: int

    def __init__(self, name: str, bytes: int, formula: str, low: int = -1, high: int = -1) -> None:
        assign = object.__setattr__
        assign(self, "name", name)
        assign(self, "bytes", bytes)
        assign(self, "formula", formula)
        assign(self, "low", bytes if low < 0 else low)
        assign(self, "high", bytes if high < 0 else high)


@dataclass(frozen=True, slots=True)
class Phase:
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


@dataclass(frozen=True, slots=True)
class Estimate:
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
    assumed        defaults that were applied, by request field: they are echoed in `parameters`
    """

    phases: tuple[Phase, ...]
    fullest: tuple[Phase, ...] = ()
    stages: tuple[tuple[Phase, ...], ...] = ()
    cache: dict[str, int] = field(default_factory=dict)
    engine_report: dict[str, Any] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    saved_per_layer: int | None = None
    assumed: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    fit: dict[str, Any] | None = None
    room: int | None = None

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fullest_peak(self) -> Phase:
        """The largest phase of the fullest GPU."""
        return max(self.fullest or self.phases, key=lambda phase: phase.total)
