"""GET /api/models and /api/models/{name}."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from flask import Blueprint, request

from calculator.errors import CalculatorError
from calculator.library import Entry, library

from .errors import Fault, Refused
from .reading import did_you_mean

models = Blueprint("models", __name__, url_prefix="/api/models")

FILTERS = ("family", "q")

log = logging.getLogger(__name__)


def summary(entry: Entry) -> dict[str, Any]:
    """One line of the list."""
    model = entry.model
    return {
        "name": entry.name,
        "hub_id": entry.hub_id,
        "family": entry.family,
        "model_type": model.model_type,
        "parameter_count": model.parameters,
        "active_parameter_count": model.active_parameters,
        "max_context": model.max_context,
        "default_precision": model.default_precision,
    }


@cache
def summaries() -> tuple[dict[str, Any], ...]:
    """All bundled models, by family, then size. Those whose configuration cannot be read are named in the log."""
    found, unread = [], []
    for entry in library().entries:
        try:
            found.append(summary(entry))
        except CalculatorError:
            unread.append(entry.name)
    if unread:
        log.warning("%d models are left out, their configuration cannot be read: %s", len(unread), ", ".join(unread))
    return tuple(found)


@models.get("")
def listed() -> dict[str, Any]:
    """The bundled models, filtered by ?family= and ?q=."""
    faults = [
        Fault(name, f"unknown parameter{did_you_mean(name, list(FILTERS))}; known: {', '.join(FILTERS)}")
        for name in request.args
        if name not in FILTERS
    ]
    if faults:
        raise Refused(faults)
    family = request.args.get("family", "").lower()
    words = request.args.get("q", "").lower().split()
    found = [
        each
        for each in summaries()
        if (not family or each["family"].lower() == family)
        and all(word in f"{each['name']} {each['hub_id']} {each['family']}".lower() for word in words)
    ]
    return {"models": found, "count": len(found)}


@models.get("/<path:name>")
def shown(name: str) -> dict[str, Any]:
    """One model: its summary, its architecture fields, what it is made of and what it keeps."""
    entry, _ = library().get(name)
    model = entry.model
    return summary(entry) | {
        "config": dict(model.config),
        "parameters_by_component": model.components(),
        "multi_token_prediction_parameters": model.speculative_parameters,
        "kv_cache_bytes_per_token": 2 * model.cache(1),
        "state_bytes_per_sequence": 2 * model.state(),
        "source": entry.source,
    }
