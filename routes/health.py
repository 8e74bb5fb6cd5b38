"""GET /health: whether the service answers, and what it serves."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from calculator.library import library

from .version import VERSION

health = Blueprint("health", __name__)


@health.get("/health")
def healthy() -> dict[str, Any]:
    """Alive, in this version, with so many bundled models."""
    return {"status": "healthy", "version": VERSION, "models": len(library().entries)}
