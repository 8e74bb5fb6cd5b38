"""What an engine is: a name, versions, options, and how it fills GPUs. One file an engine describes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from ..errors import InvalidSetup, UnknownName, nearest
from ..estimate import Part, Phase
from ..formats import Recipe
from ..gpus import GPU
from ..model import Model
from ..parallel import Placement
from ..setup import InferenceSetup

Version = tuple[int, ...]
Value = str | int | float | bool | None
Known = TypeVar("Known")
MOST_WORKED = 256  # results of one plan that are kept


@dataclass(frozen=True, slots=True)
class Option:
    """One option, by the engine's own name.

    kind     bool, int, float or str
    default  None where it follows from the model, the GPU or the workload: `meaning` says how
    least, most  bounds of a number
    choices  the values a string may have
    """

    name: str
    kind: type
    default: Value
    meaning: str
    least: float = 0
    most: float = 2**53
    choices: tuple[str, ...] = ()

    def read(self, value: Any) -> Value:
        """The value, checked; raises InvalidSetup that names what is allowed."""
        path = f"engine_options.{self.name}"
        if self.kind is bool:
            if not isinstance(value, bool):
                raise InvalidSetup(f"{self.name} is true or false", path)
            return value
        if self.kind is str:
            if value not in self.choices:
                raise InvalidSetup(f"{self.name} is one of {', '.join(self.choices)}", path)
            return str(value)
        whole = self.kind is int
        if isinstance(value, float) and whole and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise InvalidSetup(f"{self.name} is a {'whole ' if whole else ''}number", path)
        if not self.least <= value <= self.most:
            raise InvalidSetup(f"{self.name} is from {self.least:g} to {self.most:,.12g}", path)
        return value


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure that no arithmetic gives: what to expect, the range that was seen, and where. Bytes."""

    expected: int
    low: int
    high: int
    source: str


NO_OPTIONS: Mapping[str, Value] = MappingProxyType({})


class Question(NamedTuple):
    """One request as an engine sees it.

    setup      with every default of the workload filled in
    recipe     the checkpoint's format, None where every parameter has `setup.precision`
    options    all of the engine's, defaults included; None where one follows from elsewhere
    version    as numbers
    asked_cache  kv_cache_precision as the request said it
    worked     what an engine has worked out of all but the workload; questions that differ in nothing else share it
    """

    model: Model
    setup: InferenceSetup
    recipe: Recipe | None
    placement: Placement
    options: Mapping[str, Value] = NO_OPTIONS
    version: Version = ()
    asked_cache: str | None = None
    worked: dict[Any, Any] | None = None

    @property
    def width(self) -> int:
        """Bytes of an activation's element."""
        return 4 if self.setup.precision == "float32" else 2

    def once(self, key: Any, work: Callable[[], Known]) -> Known:
        """What `work` gives, done once for all questions that share `worked`; `key` says what else it depends on."""
        if self.worked is None:
            return work()
        found: Known | None = self.worked.get(key)
        if found is None:
            if len(self.worked) >= MOST_WORKED:
                self.worked.clear()
            found = self.worked[key] = work()
        return found

    def number(self, name: str, otherwise: int) -> int:
        """A whole-number option, or what follows where it was not said."""
        value = self.options.get(name)
        return otherwise if value is None else int(value)

    def since(self, *version: int) -> bool:
        """Whether the engine is of that version or later."""
        return self.version >= version


class Share(NamedTuple):
    """What one GPU of a pipeline stage holds, and how many hold as much.

    copies                how many
    weights               in every phase
    cache, activations    in prefill and decode; the cache with its states, as reserved
    loading               beside the weights while they are loaded, where that can be the most
    overhead              what the process takes beside tensors, where an engine runs
    needed, state         cache by arithmetic, in bytes: what grows with tokens, what does not
    """

    copies: int
    weights: Part
    cache: tuple[Part, Part]
    activations: tuple[Part, Part]
    overhead: tuple[Part, ...]
    needed: int
    state: int
    loading: Part | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Its phases with what is alive in each."""
        (first, cache), (prefill, decode) = self.cache, self.activations
        made = (
            Phase("prefill", (self.weights, first, prefill, *self.overhead)),
            Phase("decode", (self.weights, cache, decode, *self.overhead)),
        )
        if self.loading is None:
            return made
        nothing = Part("kv_cache", 0, "not there yet")
        return (*made, Phase("load", (self.weights, nothing, self.loading, *self.overhead)))


@dataclass(frozen=True, slots=True)
class Pool:
    """What is left for an engine's cache on the fullest GPU.

    limit     bytes the engine may use of the GPU
    size      bytes of the pool
    needed    bytes of it that the workload takes
    """

    limit: int
    size: int
    needed: int


@dataclass(frozen=True, eq=False, slots=True)
class Engine:
    """An engine: how it is called, what can be set, and how it fills a GPU.

    versions  whose rules are written down, newest first
    share     what one GPU of a stage holds
    report    what it prints at start, in its own words
    pool      what it leaves for its cache on a GPU, where it takes memory in advance
    settle    fills in options that follow from others, and refuses what it cannot run
    warn      what a user should know of the answer
    sources   what its figures come from, by name
    """

    name: str
    versions: tuple[str, ...]
    options: tuple[Option, ...]
    share: Callable[[Question, int], Share]
    report: Callable[[Question, tuple[Share, ...]], dict[str, Any]]
    sources: Mapping[str, str]
    pool: Callable[[Question, Share], Pool] | None = None
    settle: Callable[[Question], Question] | None = None
    warn: Callable[[Question, tuple[Share, ...]], tuple[str, ...]] | None = None

    def read_options(self, said: Mapping[str, Any]) -> dict[str, Value]:
        """Every option with its value; raises UnknownName or InvalidSetup."""
        known = {option.name: option for option in self.options}
        read: dict[str, Value] = {name: option.default for name, option in known.items()}
        for name, value in said.items():
            option = known.get(name)
            if option is None:
                close = nearest(name, known)
                hint = f"did you mean {close[0]}? " if close else ""
                listed = ", ".join(known) or "none"
                raise UnknownName(
                    f"{self.name} has no option {name}; {hint}known: {listed}", f"engine_options.{name}", close
                )
            read[name] = option.read(value)
        return read

    def read_version(self, said: str | None) -> Version:
        """A version as numbers; the newest known where none is said.

        >>> Engine("e", ("1.2.0",), (), None, None, {}).read_version("0.10.1.1rc2+g0eec")
        (0, 10, 1, 1)
        """
        named = said if said is not None else self.versions[0]
        found = _numbers(named)
        if found is None:
            raise InvalidSetup(
                f"engine_version is a number such as {self.versions[0]}, not {named!r:.40}", "engine_version"
            )
        return found


@lru_cache(maxsize=256)
def _numbers(version: str) -> Version | None:
    """A version as numbers, None where it is none."""
    found = re.match(r"v?b?(\d+(?:\.\d+)*)", version)
    return tuple(int(each) for each in found[1].split(".")) if found else None


RESERVED = Measured(
    500 * 2**20,
    300 * 2**20,
    800 * 2**20,
    "what nvidia-smi counts and a process is not given: torch sees 79.25 GiB of an A100's 80, 79.1 of an H100's 79.65,"
    " 23.53 of an RTX 4090's 23.99",
)


def visible(gpu: GPU) -> int:
    """Bytes of a GPU that a process sees: the driver keeps some of NVIDIA's. A card described by its memory alone is
    taken at its word."""
    return gpu.memory - (RESERVED.expected if gpu.vendor == "NVIDIA" else 0)


def calibrated(name: str, figure: Measured, formula: str) -> Part:
    """A part that was measured, with its range and its source."""
    return Part(name, figure.expected, f"{formula} [{figure.source}]", figure.low, figure.high)
