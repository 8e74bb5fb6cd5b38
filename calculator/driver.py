"""What a driver shows besides what torch's allocator hands out: the context, communication, and cached blocks.

`training_memory` is the allocator's own peak. A card must hold more: the process's context, NCCL's buffers, and blocks
that the allocator keeps because no later request fits them. The last is a range: it depends on the order of sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from .estimate import Part, Phase
from .gpus import GPU
from .units import GIB, MIB, gib

# Driver's figure of an idle process: 0.47 GiB with lazy module loading (torch 2.1 and later, A100), 0.92 without, more
# with old toolkits. [stas00/ml-engineering, training/performance]
CONTEXT = (480 * MIB, 512 * MIB, 940 * MIB)
# 0.55 → 2.00 GiB after the first barrier of a process group [stas00/ml-engineering]; few channels take half of it.
COMMUNICATION = (512 * MIB, 1024 * MIB, 1536 * MIB)
# What nvidia-smi shows beyond allocated memory and the context, as a share of what comes and goes in a step. Middle:
# runs without whole logits, 0.11 to 0.14; bounds: 10 and 90 % of 133 runs. [fms-acceleration, benchmark tables, A100]
CACHED = (Fraction(3, 100), Fraction(12, 100), Fraction(90, 100))
# Whole logits leave behind a float32 block of their size (low: the 16-bit one): the gradients that follow are made
# while both are still in use, so they cannot take its place. [the same runs with the standard loss: 3 to 4 bytes]
CACHED_LOGITS = (2, 4, 6)

STAYING = frozenset({"model_weights", "adapter_memory", "master_weights", "optimizer_memory"})


@dataclass(frozen=True, slots=True)
class Load:
    """What one GPU shows: its allocated peak, and named parts on top of it."""

    allocated: int
    parts: tuple[Part, ...]

    @property
    def used(self) -> int:
        """Bytes the driver reports."""
        return self.allocated + sum(part.bytes for part in self.parts)


def load(phases: Iterable[Phase], logits: int, gpus: int) -> Load:
    """What the driver shows of the GPU that runs these phases.

    logits  elements of the whole logits, 0 where they never exist
    """
    allocated = most = 0
    cached = (0, 0, 0)
    for phase in phases:
        total = phase.total
        passing = sum(part.bytes for part in phase.parts if part.name not in STAYING)
        kept = [passing * share.numerator // share.denominator for share in CACHED]
        if phase.name == "loss":
            kept = [size + width * logits for size, width in zip(kept, CACHED_LOGITS, strict=True)]
        allocated = max(allocated, total)
        if total + kept[1] > most:
            most, cached = total + kept[1], (total + kept[0], total + kept[1], total + kept[2])
    low, middle, high = (max(size - allocated, 0) for size in cached)
    parts = [
        Part("driver_context", CONTEXT[1], "the process's context on the card", CONTEXT[0], CONTEXT[2]),
        Part("fragmentation", middle, "blocks that the allocator keeps and no request fits", low, high),
    ]
    if gpus > 1:
        parts.append(Part("communication", COMMUNICATION[1], "NCCL's buffers", COMMUNICATION[0], COMMUNICATION[2]))
    return Load(allocated, tuple(parts))


def room(seen: Load, gpu: GPU) -> int:
    """Bytes that stay free; below 0 a step fails. An allocator short of memory drops its cache, all but a little."""
    least = sum(part.low if part.name == "fragmentation" else part.bytes for part in seen.parts)
    return gpu.memory - seen.allocated - least


def used(seen: Load, gpu: GPU, free: int) -> int:
    """Bytes taken of a card with so much room: cached blocks stop at its size."""
    return max(min(seen.used, gpu.memory), gpu.memory - free)


def fit(seen: Load, gpu: GPU, gpus: int, taken: int, free: int) -> dict[str, object]:
    """What a reply says of a card of which so much is taken, with so much room."""
    said: dict[str, object] = {
        "fits": free >= 0,
        "gpu": gpu.name,
        "gpu_count": gpus,
        "gpu_memory_gib": gib(gpu.memory),
        "used_gib": gib(taken),
        "free_gib": round((gpu.memory - taken) / GIB, 3),
        "allocated_gib": gib(seen.allocated),
    }
    for part in seen.parts:
        said[f"{part.name}_gib"] = {"low": gib(part.low), "expected": gib(part.bytes), "high": gib(part.high)}
    return said
