"""The catalogue: memory as the driver reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GPU:
    """A card: its name, its memory in bytes as the driver reports it, and the source of that figure."""

    name: str
    memory: int
    source: str
