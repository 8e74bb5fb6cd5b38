"""What can go wrong in a calculation.

    CalculatorError
    ├── UnknownName            no such model, format, GPU, engine, ...; carries suggestions
    │   └── UnknownModel       the 404 of the service
    ├── InvalidConfig          a config.json that cannot be read as its family
    ├── InvalidSetup           values that exclude each other or do not divide; names the field
    └── TooLarge               beyond 2**53 bytes, which JavaScript cannot hold exactly

Each message is one sentence that names the way out. `field` is the path of the request field at fault, where one is.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CalculatorError(Exception):
    """The root: a reason in words, and the field it is about."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class UnknownName(CalculatorError):
    """A name that is in no table."""

    def __init__(self, message: str, field: str | None = None, suggestions: tuple[str, ...] = ()) -> None:
        super().__init__(message, field)
        self.suggestions = suggestions


class UnknownModel(UnknownName):
    """A model that is not bundled."""


class InvalidConfig(CalculatorError):
    """A configuration that lacks or contradicts what its family needs."""


class InvalidSetup(CalculatorError):
    """Settings that cannot stand together."""


class TooLarge(CalculatorError):
    """A figure above 2**53 bytes."""


def nearest(name: str, known: Iterable[str], most: int = 5) -> tuple[str, ...]:
    """The known names most like `name`, case aside, best first.

    >>> nearest("adamW", ["AdamW", "SGD"])
    ('AdamW',)
    """
    folded = {each.lower(): each for each in known}
    return tuple(folded[each] for each in get_close_matches(name.lower(), folded, n=most, cutoff=0.5))
