"""Write validation/README.md: predicted beside measured, by family and method, by engine and quantity.

    uv run python validation/report.py [FILE] [--out FILE]

Reads the rows of validation/measured.jsonl (training), measured_inference.jsonl (engines) and missed.jsonl (rows of
either kind that stay far from what was measured), asks the service for each, and writes what it says beside what was
measured, with the row's own remark on what it lacks. Run it after a change that moves an answer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from compare import answered_request, client

HERE = Path(__file__).resolve().parent

HEAD = """# Predicted beside measured

Made by `uv run python validation/report.py` from `measured.jsonl`, whose rows name their source. An error is predicted
over measured, less one. Torch allocated is what `memory_bytes` predicts; reserved adds what the allocator keeps and
no request fits; the driver's figure adds the process's context, and stands beside `fit.used_gib`. A reserved figure
stands beside the prediction of what is allocated, and so lies above it, furthest where samples differ in length.
"""


def gib(value: float, path: str) -> float:
    """A figure in GiB: bytes are divided, what is GiB stays."""
    return value if path.endswith("_gib") else value / 2**30


def method(row: dict[str, Any]) -> str:
    """How a row trains or serves, in two or three words."""
    request = row["request"]
    if "framework" in request and request["framework"] != "transformers":
        return str(request["framework"])
    if request.get("engine"):
        return str(request["engine"])
    ways = "sharded" if request.get("data_parallel", 1) > 1 and request.get("zero_stage") else "one GPU"
    plain = "inference" if row["endpoint"].endswith("inference") else "full"
    return f"{request.get('method', plain)}, {ways}"


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown of a summary and of every row."""
    ask = client()
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    lines: list[str] = []
    for row in rows:
        made = answered_request(row, ask).figures[0]
        key = (row["family"], method(row), row["metric"])
        if made.error is None or isinstance(made.measured, str) or isinstance(made.predicted, str | None):
            lines.append(f"| {row['id']} | {row['metric']} | | | | {made.refused} |")
            continue
        groups[key].append(abs(made.error))
        predicted, measured = gib(made.predicted, made.quantity), gib(made.measured, made.quantity)
        note = row.get("notes", "")
        error = round(made.error, 3) or 0
        lines.append(f"| {row['id']} | {row['metric']} | {predicted:.2f} | {measured:.2f} | {error:+.1%} | {note} |")
    summary = [
        f"| {family} | {how} | {metric} | {len(errors)} | {median(errors):.1%} | {max(errors):.1%} |"
        for (family, how, metric), errors in sorted(groups.items())
    ]
    return "\n".join(
        [
            HEAD,
            "| family | method | metric | rows | median error | largest |",
            "|---|---|---|---|---|---|",
            *summary,
            "",
            "| row | metric | predicted, GiB | measured, GiB | error | what it is believed to lack |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


ENGINES = """
# By engine and quantity

The rows of `measured_inference.jsonl`: what engines logged, and steps that were counted allocation by allocation.

| engine | quantity | figures | median error | largest |
|---|---|---|---|---|"""

MISSED = """
# Rows that stay far from what was measured

The rows of `missed.jsonl`, outside the tables above: inference beyond 2 %, training beyond 15 %.

| row | metric | quantity | predicted | measured | error | what it is believed to lack |
|---|---|---|---|---|---|---|"""


def by_engine(rows: list[dict[str, Any]]) -> str:
    """The Markdown of the errors of each engine and quantity."""
    ask = client()
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        for made in answered_request(row, ask).figures:
            if made.error is not None and not isinstance(made.measured, str):
                engine = row["request"].get("engine") or row["metric"]
                groups[engine, made.quantity].append(abs(made.error))
    lines = [
        f"| {engine} | {quantity} | {len(errors)} | {median(errors):.2%} | {max(errors):.2%} |"
        for (engine, quantity), errors in sorted(groups.items())
    ]
    return "\n".join([ENGINES, *lines, ""])


def missed(rows: list[dict[str, Any]]) -> str:
    """The Markdown of rows that miss, each figure in its own unit."""
    ask = client()
    lines = []
    for row in rows:
        for made in answered_request(row, ask).figures:
            error = f"{made.error:+.1%}" if made.error is not None else str(made.refused)
            lines.append(
                f"| {row['id']} | {row['metric']} | {made.quantity} | {made.predicted} | {made.measured} | {error} "
                f"| {row['notes']} |"
            )
    return "\n".join([MISSED, *lines, ""])


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, one JSON object a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=HERE / "measured.jsonl")
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    options = parser.parse_args(arguments)
    parts = [
        table(rows_of(options.file)),
        by_engine(rows_of(HERE / "measured_inference.jsonl")),
        missed(rows_of(HERE / "missed.jsonl")),
    ]
    options.out.write_text("\n".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
