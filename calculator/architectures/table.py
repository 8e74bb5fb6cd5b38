"""The type of a reader."""

from collections.abc import Callable

from ..model import Model
from .fields import Fields

Reader = Callable[[Fields, "str | None"], Model]
