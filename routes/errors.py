"""Every failure as one JSON shape: {"error": a sentence that names the way out, "details": [{"field", "message"}]}.

400  a body that is malformed, or one or more fields at fault
404  an unknown model (with suggestions) or endpoint
405  a method that an endpoint does not take, with Allow
413  a body over 1 MiB
500  our own fault: it goes to the log, never into the reply
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from calculator.errors import CalculatorError, UnknownModel, UnknownName, nearest

log = logging.getLogger(__name__)

MAX_DETAILS = 1000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a body: the path of the field, and what is allowed there."""

    field: str
    message: str


class Refused(Exception):
    """A body that cannot be answered, with everything that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults


class Malformed(Exception):
    """A body that is no JSON object at all."""


def sentence(faults: Sequence[Fault]) -> str:
    """All faults as one sentence: the first in full, the others counted."""
    first = faults[0]
    said = f"{first.field}: {first.message}" if first.field else first.message
    if len(faults) == 1:
        return said
    return f"{said} ({len(faults):,} faults in all, see details)"


def body(message: str, faults: Sequence[Fault] = (), **more: Any) -> dict[str, Any]:
    """The one shape."""
    shape: dict[str, Any] = {"error": message, **more}
    if faults:
        shape["details"] = [{"field": each.field, "message": each.message} for each in faults[:MAX_DETAILS]]
    return shape


def refused(fault: Refused) -> tuple[Response, int]:
    """A 400 that lists every fault."""
    return jsonify(body(sentence(fault.faults), fault.faults)), 400


def malformed(fault: Malformed) -> tuple[Response, int]:
    """A 400 for what is not JSON."""
    return jsonify(body(str(fault))), 400


def unknown_model(fault: UnknownModel) -> tuple[Response, int]:
    """The 404 of the seed, with the nearest names."""
    return jsonify(body(fault.message, suggestions=list(fault.suggestions))), 404


def uncalculable(fault: CalculatorError) -> tuple[Response, int]:
    """A 400 for what the calculator refuses: settings that contradict each other, a config it cannot read."""
    said = fault.message
    if isinstance(fault, UnknownName) and (fault.field or "").endswith("model_type"):
        said += ": GET /api/config/options lists all under model_types"
    return jsonify(body(said, [Fault(fault.field, said)] if fault.field else [])), 400


def http_error(fault: HTTPException) -> Response:
    """What Flask and Werkzeug raise, keeping their headers (Allow of a 405)."""
    response = jsonify(body(_http_message(fault)))
    response.status_code = fault.code or 500
    for name, value in fault.get_headers():
        if name != "Content-Type":
            response.headers[name] = value
    return response


def _http_message(fault: HTTPException) -> str:
    from flask import current_app

    if fault.code == 404:
        known = sorted({rule.rule for rule in current_app.url_map.iter_rules()})
        near = nearest(request.path[:200], known, most=1)
        return f"No endpoint {request.path[:200]}; " + (f"did you mean {near[0]}?" if near else "see /docs")
    if fault.code == 405:
        allowed = ", ".join(sorted(getattr(fault, "valid_methods", None) or ()))
        return f"{request.method} is not allowed on {request.path[:200]}; use {allowed}"
    if fault.code == 500:
        return "Internal server error"
    if fault.code == 413:
        return "The body is larger than 1 MiB, the most this service reads; split the request"
    return fault.description or fault.name


def internal_error(fault: Exception) -> tuple[Response, int]:
    """Our own fault: into the log with its trace, a bare sentence to the client."""
    log.exception("failed on %s %s", request.method, request.path, exc_info=fault)
    return jsonify(body("Internal server error")), 500


def register(app: Flask) -> None:
    """Every failure of `app` leaves through here."""
    app.register_error_handler(Refused, refused)
    app.register_error_handler(Malformed, malformed)
    app.register_error_handler(UnknownModel, unknown_model)
    app.register_error_handler(CalculatorError, uncalculable)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, internal_error)
