"""Reading a configuration: every figure checked once, with the path of the field in the message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ..errors import InvalidConfig

LIMITS: dict[str, int] = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 4_096,
    "hidden_size": 10**6,
    "vocab_size": 10**7,
    "experts": 10**5,
}
MOST = 10**9  # any other size
LARGEST = 1e30  # any number: neither infinity nor what is none


class Fields:
    """A configuration object and the path to it, with readers that raise InvalidConfig.

    Names may have synonyms: the first that is there counts. A value of null is as good as absent.
    """

    __slots__ = ("path", "values")

    def __init__(self, values: Mapping[str, Any], path: str = "config") -> None:
        self.values = values
        self.path = path

    def has(self, *names: str) -> bool:
        """Whether one of the names is there and not null."""
        return any(self.values.get(name) is not None for name in names)

    def _find(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return name, value
        return names[0], None

    def size(self, *names: str, default: int | None = None, least: int = 1, most: int = 0) -> int:
        """A whole number of at least `least`."""
        name, value = self._find(names)
        if value is None:
            if default is None:
                raise InvalidConfig(f"{self.path} lacks {name}, which this model_type needs", f"{self.path}.{name}")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidConfig(f"{self.path}.{name} must be a whole number, not {value!r:.40}", f"{self.path}.{name}")
        most = most or LIMITS.get(names[0], MOST)
        if not least <= value <= most:
            raise InvalidConfig(f"{self.path}.{name} must be from {least} to {most:,}", f"{self.path}.{name}")
        return value

    def optional(self, *names: str) -> int | None:
        """A whole number, or None where it is absent, null or 0."""
        return self.size(*names, least=0) or None if self.has(*names) else None

    def flag(self, *names: str, default: bool = False) -> bool:
        """true or false."""
        name, value = self._find(names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidConfig(f"{self.path}.{name} must be true or false", f"{self.path}.{name}")
        return value

    def number(self, *names: str, default: float) -> float:
        """A number."""
        name, value = self._find(names)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
            raise InvalidConfig(f"{self.path}.{name} must be a number", f"{self.path}.{name}")
        return float(value)

    def text(self, *names: str, default: str) -> str:
        """A string."""
        name, value = self._find(names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InvalidConfig(f"{self.path}.{name} must be a string", f"{self.path}.{name}")
        return value

    def inner(self, *names: str) -> Fields:
        """An object inside: empty where it is absent."""
        name, value = self._find(names)
        if value is None:
            return Fields({}, f"{self.path}.{name}")
        if not isinstance(value, Mapping):
            raise InvalidConfig(f"{self.path}.{name} must be an object", f"{self.path}.{name}")
        return Fields(value, f"{self.path}.{name}")

    def items(self, *names: str, length: int | None = None) -> list[Any] | None:
        """A list (of `length`, where it is given), or None where it is absent."""
        name, value = self._find(names)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InvalidConfig(f"{self.path}.{name} must be a list", f"{self.path}.{name}")
        if length is not None and len(value) != length:
            raise InvalidConfig(
                f"{self.path}.{name} has {len(value)} entries, but there are {length} layers", f"{self.path}.{name}"
            )
        return value

    def refuse(self, name: str, why: str) -> NoReturn:
        """A field that makes no sense."""
        raise InvalidConfig(f"{self.path}.{name} {why}", f"{self.path}.{name}")

    def divides(self, whole: int, by: int, names: tuple[str, str]) -> int:
        """whole / by, which must leave nothing."""
        if whole % by:
            raise InvalidConfig(
                f"{self.path}.{names[0]} ({whole}) must be a multiple of {names[1]} ({by})", f"{self.path}.{names[0]}"
            )
        return whole // by


def with_defaults(fields: Fields, **defaults: Any) -> Fields:
    """The configuration with what its family's configuration class fills in where a field is absent."""
    return Fields({**defaults, **fields.values}, fields.path)
