"""GET /api/models and /api/models/{name}."""

from __future__ import annotations

import logging
from functools import cache, lru_cache
from typing import Any

from flask import Blueprint, request

from calculator.errors import CalculatorError
from calculator.inference import inference
from calculator.library import Entry, library
from calculator.model import Model
from calculator.saved import kept
from calculator.setup import InferenceSetup

from .errors import Fault, Refused
from .reading import did_you_mean

models = Blueprint("models", __name__, url_prefix="/api/models")

FILTERS = ("family", "q")

STRETCH = 128  # tokens
SHORT = InferenceSetup(sequence_length=1, kv_cache_precision="float16")

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
        "kv_cache_bytes_per_token": cache_of_a_token(model),
        "state_bytes_per_sequence": inference(model, SHORT).cache["state_bytes"],
        "saved_for_backward": saved_for_backward(model),
        "source": entry.source,
    }


def cache_of_a_token(model: Model) -> int:
    """Bytes at 16 bit, inside every window; the mean of a stretch where a cache keeps one entry for several tokens."""
    stretch = min(STRETCH, *model.windows) if model.windows else STRETCH
    return 2 * (model.cache(stretch) - model.cache(0)) // stretch


@lru_cache(maxsize=64)
def saved_for_backward(model: Model) -> list[dict[str, Any]]:
    """What one layer of each kind keeps of a training step, and how many such layers there are."""
    return [
        {
            "layers": count,
            "saved": [
                {
                    "name": each.name,
                    "elements_per_token": each.token,
                    **({"elements_per_token_pair": each.pair} if each.pair else {}),
                    "precision": each.precision,
                }
                for each in kept(layer, model)
            ],
        }
        for layer, count in model.distinct.items()
    ]
