"""Predicted beside measured: how far the program is from figures that others published or counted.

    python validation/compare.py FILE... [--json OUT]

Two kinds of files, told apart by the fields of their rows. A row with `request` and `expect` is sent through the
app in process, and each path under `expect` (`memory_bytes.training_memory`, `phases.decode`) is looked up in the
reply; `expect_peak` is the moment the peak should fall in. A row with `config` and `parameters` is counted from its
config: `parameters`, `active_parameters` and each of `components`. A prediction never reads what is expected of it.

For each file and quantity: how many rows there are and how many were answered; the median and the 95th percentile of
the absolute error in percent; the same within each family and then averaged over families; the five rows that are
furthest off. Then the rows of the file that were refused, by reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calculator.architectures import read_model
from calculator.errors import CalculatorError

Ask = Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one row: what was measured, what the program says, or why it says nothing.

    `error` is relative to the measured figure and signed: 0.02 is two percent too much.
    """

    id: str
    quantity: str
    measured: float | str
    predicted: float | str | None
    error: float | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in its file, and the figures that came of it."""

    family: str
    figures: tuple[Figure, ...]


def relative(predicted: float, measured: float) -> float:
    """Signed error as a share of the measured figure; of a measured zero all of the predicted is error.

    >>> relative(102, 100), relative(0, 0), relative(7, 0)
    (0.02, 0.0, 1.0)
    """
    if measured:
        return (predicted - measured) / abs(measured)
    return 0.0 if not predicted else 1.0


def figure(row: str, quantity: str, measured: Any, predicted: Any, refused: str | None = None) -> Figure:
    """A prediction beside its measurement. A name (the moment of the peak) is right or wrong: error 0 or 1."""
    if refused is not None:
        return Figure(row, quantity, measured, None, None, refused)
    if isinstance(measured, str):
        return Figure(row, quantity, measured, predicted, float(predicted != measured), None)
    return Figure(row, quantity, measured, predicted, relative(predicted, measured), None)


def lookup(reply: Any, path: str) -> Any:
    """The figure at a path of names with points between them, None where the reply has none.

    >>> lookup({"per_gpu": {"memory_bytes": {"kv_cache": 7}}}, "per_gpu.memory_bytes.kv_cache")
    7
    """
    for name in path.split("."):
        if not isinstance(reply, dict) or name not in reply:
            return None
        reply = reply[name]
    return reply


def predicted_figure(reply: dict[str, Any], path: str, metric: str | None) -> Any:
    """What the reply says at `path`, in the terms of the row's metric.

    What torch says it allocated knows nothing of the driver's context, so `runtime_overhead` is taken off there.
    """
    value = lookup(reply, path)
    total = path == "memory_bytes.inference_memory" or path.startswith("phases.")
    if isinstance(value, int) and metric == "torch allocated" and total:
        value -= lookup(reply, "memory_bytes.runtime_overhead") or 0
    return value


def reason(status: int, reply: dict[str, Any]) -> str:
    """Why a request was refused, in words that group like with like."""
    details = "; ".join(f"{each['field']}: {each['message']}" for each in reply.get("details", ()))
    return f"{status} {details or reply.get('error')}"


def answered_request(row: dict[str, Any], ask: Ask) -> Row:
    """A case: its request goes through the app, each expected path is looked up in the reply."""
    status, reply = ask(row["endpoint"], row["request"])
    wanted = dict(row["expect"])
    found = {path: predicted_figure(reply, path, row.get("metric")) for path in wanted} if status == 200 else {}
    if row.get("expect_peak") is not None:
        wanted["peak"] = row["expect_peak"]
        found["peak"] = reply.get("peak")
    figures = []
    for path, measured in wanted.items():
        refused = None
        if status != 200:
            refused = reason(status, reply)
        elif not isinstance(found[path], int | float | str):
            refused = f"the reply has no {path}"
        figures.append(figure(row["id"], path, measured, found.get(path), refused))
    return Row(row.get("family") or "", tuple(figures))


def counted_model(row: dict[str, Any]) -> Row:
    """A model: counted from its config alone."""
    config, refused, found = row["config"], None, {}
    try:
        model = read_model(config)
        found = {"parameters": model.parameters, "active_parameters": model.active_parameters}
        found |= {f"components.{name}": count for name, count in model.components().items()}
    except CalculatorError as fault:
        refused = f"{fault.field}: {fault.message}" if fault.field else fault.message
    except Exception as fault:  # the figures of the other rows are still worth having
        refused = f"crashed: {type(fault).__name__}: {fault}"
    wanted = {name: row[name] for name in ("parameters", "active_parameters")}
    wanted |= {f"components.{name}": count for name, count in (row.get("components") or {}).items()}
    figures = (
        figure(row["hub_id"], name, measured, found.get(name, 0), refused)
        for name, measured in wanted.items()
        if measured is not None
    )
    return Row(str(config.get("model_type")), tuple(figures))


def read(lines: Iterable[str], ask: Ask, skipped: Counter[str]) -> Iterator[Row]:
    """Every row of a file that can be one; the others are counted by their reason."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        if row.get("skip"):
            skipped[row["skip"]] += 1
        elif "request" in row and "expect" in row:
            yield answered_request(row, ask)
        elif "config" in row and "parameters" in row:
            if row["parameters"] is None:
                skipped[f"nobody counted it: {row.get('count_error')}"] += 1
            else:
                yield counted_model(row)
        else:
            skipped[f"line {number}: neither a case (request, expect) nor a model (config, parameters)"] += 1


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie, between neighbours in proportion.

    >>> percentile([1.0, 2.0, 3.0], 0.5), percentile([1.0, 2.0], 0.95)
    (2.0, 1.95)
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(errors: list[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    return percentile(errors, 0.5), percentile(errors, 0.95)


def report(quantity: str, rows: list[tuple[str, Figure]], out: TextIO) -> None:
    """One quantity of one file, for people."""
    answered = [(family, each, abs(each.error)) for family, each in rows if each.error is not None]
    print(f"  {quantity}", file=out)
    print(f"    rows {len(rows)}, answered {len(answered)}", end="", file=out)
    if answered:
        families: dict[str, list[float]] = defaultdict(list)
        for family, _, error in answered:
            families[family].append(error)
        median, most = spread([error for _, _, error in answered])
        spreads = [spread(errors) for errors in families.values()]
        family_median, family_most = (sum(column) / len(spreads) for column in zip(*spreads, strict=True))
        exact = sum(error == 0 for _, _, error in answered)
        print(f", exact {exact}", file=out)
        print(
            f"    error: median {median:.3%}, 95th percentile {most:.3%};"
            f" averaged over {len(families)} families: {family_median:.3%}, {family_most:.3%}",
            file=out,
        )
        for family, each, error in sorted(answered, key=lambda row: -row[2])[:5]:
            if error:
                print(f"    {each.error:+.3%}  {each.id} ({family}): {each.predicted} for {each.measured}", file=out)
    else:
        print(file=out)


def client() -> Ask:
    """The app in process, made at the first request, as a function from endpoint and request to status and reply."""

    @cache
    def app() -> Any:
        from server import create_app

        return create_app().test_client()

    def ask(endpoint: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        response = app().post(endpoint, data=json.dumps(request))
        return response.status_code, response.get_json()

    return ask


def compare(path: Path, ask: Ask, out: TextIO) -> list[Figure]:
    """Work through one file, print what came of it, hand back every figure."""
    skipped: Counter[str] = Counter()
    quantities: dict[str, list[tuple[str, Figure]]] = defaultdict(list)
    with path.open(encoding="utf-8") as lines:
        for row in read(lines, ask, skipped):
            for each in row.figures:
                quantities[each.quantity].append((row.family, each))
    print(path.name, file=out)
    for why, count in skipped.most_common():
        print(f"  skipped {count}: {why}", file=out)
    for quantity, rows in quantities.items():
        report(quantity, rows, out)
    reasons = {(each.id, each.refused) for rows in quantities.values() for _, each in rows if each.refused is not None}
    for why, count in Counter(reason for _, reason in reasons).most_common():
        print(f"  refused {count}: {why}", file=out)
    return [each for rows in quantities.values() for _, each in rows]


def main(arguments: list[str] | None = None, out: TextIO = sys.stdout) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write one line a row and quantity")
    options = parser.parse_args(arguments)
    ask = client()
    figures = [each for path in options.files for each in compare(path, ask, out)]
    if options.json:
        options.json.write_text("".join(json.dumps(asdict(each)) + "\n" for each in figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
