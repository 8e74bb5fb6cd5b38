"""Sweeps and comparisons as CSV, for whoever asks with `Accept: text/csv`: one header line that names the units."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response, request

UNITS = {"sequence_length": "tokens", "prompt_length": "tokens", "batch_size": "sequences", "model_size": "billions"}


def wanted() -> bool:
    """Whether the client would rather have CSV."""
    return request.accept_mimetypes.best_match(("application/json", "text/csv")) == "text/csv"


def titled(name: str) -> str:
    """A column's name with its unit.

    >>> titled("sequence_length"), titled("precision")
    ('sequence_length (tokens)', 'precision')
    """
    return f"{name} ({UNITS[name]})" if name in UNITS else name


def written(first: list[str], rows: list[tuple[list[Any], Mapping[str, int]]], last: list[list[Any]]) -> Response:
    """Leading columns, then every part that any row has, in bytes, then trailing ones (their header comes first)."""
    parts = list(dict.fromkeys(name for _, memory in rows for name in memory))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    header, *trailing = last
    writer.writerow([*map(titled, first), *(f"{name} (bytes)" for name in parts), *header])
    for (leading, memory), rest in zip(rows, trailing, strict=True):
        writer.writerow([*map(shown, leading), *(memory.get(name, "") for name in parts), *map(shown, rest)])
    return Response(out.getvalue(), mimetype="text/csv")


def shown(value: Any) -> Any:
    """true and false as JSON has them, nothing for null; no cell that a spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value


def sweep_table(over: str | list[str], rows: Iterable[Mapping[str, Any]]) -> Response:
    """A row for each cell."""
    rows = list(rows)
    names = [over] if isinstance(over, str) else over
    body = [(row["values"], row["memory_bytes"] or {}) for row in rows]
    return written(names, body, [["fits", "error"], *([row["fits"], row.get("error")] for row in rows)])


def comparison_table(reply: Mapping[str, Any]) -> Response:
    """A row for each configuration."""
    results = reply["results"]
    body = [([index, each["model"]["name"]], each["memory_bytes"]) for index, each in enumerate(results)]
    shares = reply["summary"]["relative_to_first"]
    last = [[each["peak"], share] for each, share in zip(results, shares, strict=True)]
    return written(["configuration", "model"], body, [["peak", "relative_to_first"], *last])
