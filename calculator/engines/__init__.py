"""The engines by name. Each file describes one: its versions, its options, and how it fills a GPU."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UnknownName, nearest
from .arithmetic import BARE
from .base import Engine
from .llama_cpp import LLAMA_CPP
from .sglang import SGLANG
from .transformers import TRANSFORMERS
from .vllm import VLLM

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (TRANSFORMERS, VLLM, SGLANG, LLAMA_CPP)}


def find_engine(name: str | None) -> Engine:
    """The engine of that name in any case; bare arithmetic for none.

    >>> find_engine("Transformers").name
    'transformers'
    """
    if name is None:
        return BARE
    found = ENGINES.get(name) or ENGINES.get(name.lower())
    if found is None:
        raise UnknownName(f"unknown engine {name!r}; known: {', '.join(ENGINES)}", "engine", nearest(name, ENGINES))
    return found


__all__ = ["BARE", "ENGINES", "Engine", "find_engine"]
