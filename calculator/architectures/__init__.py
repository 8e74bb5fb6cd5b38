"""config.json → layers: one reader a family, one table of readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..errors import InvalidConfig, UnknownName, nearest
from ..model import Model
from .families import READERS
from .fields import Fields


def read_model(config: Mapping[str, Any], name: str | None = None) -> Model:
    """The model that a Hugging Face configuration describes. Equal configurations give the same object.

    Raises InvalidConfig where a field is missing or makes no sense, UnknownName for an unknown `model_type`.
    """
    try:
        key = json.dumps(config, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConfig("the configuration is not plain JSON", "config") from error
    return _read(key, name)


@lru_cache(maxsize=1024)
def _read(key: str, name: str | None) -> Model:
    config = json.loads(key)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InvalidConfig("config lacks model_type, which names the architecture family", "config.model_type")
    if model_type not in READERS:
        close = nearest(model_type[:100], READERS)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        message = f"unknown model_type {model_type!r:.60}{hint} ({len(READERS)} are known)"
        raise UnknownName(message, "config.model_type", close)
    if not isinstance(config.get("quantization_config"), dict | None):
        raise InvalidConfig("config.quantization_config must be an object", "config.quantization_config")
    return READERS[model_type](Fields(config), name)


__all__ = ["READERS", "read_model"]
