"""What the questions turned around cost, in units of a plain request put to the same model, engine and card.

    uv run python benchmarks/questions.py [--rounds 3]

All go through WSGI, in process, and are counted as CPU time; a question and its plain request take turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import count
from typing import Any

import orjson
from requests import Application, call, create_app, timed

from calculator.library import library

FIT, SWEEP, PLAIN = "/api/memory/fit", "/api/memory/sweep", "/api/memory/inference"
MODEL, GPU = "Qwen3-8B", "H100-80GB"
CELLS = 1000


def repeated(**fields: Any) -> Callable[[int], bytes]:
    """The same question each time."""
    body = orjson.dumps({"calculation_type": "inference", **fields})
    return lambda n: body


def plain(**fields: Any) -> Callable[[int], bytes]:
    """A plain request whose length changes from one to the next."""
    return lambda n: orjson.dumps({**fields, "sequence_length": 1024 + n % 4096})


def cells(**fields: Any) -> Callable[[int], bytes]:
    """A sweep over lengths."""
    return repeated(**fields, over="sequence_length", values=[1024 + n for n in range(CELLS)])


def ratios(
    app: Application, question: tuple[str, Callable[[int], bytes]], one: Callable[[int], bytes], units: int, rounds: int
) -> list[float]:
    """Plain requests that a unit of the question costs, round by round."""
    path, body = question
    asked, single = map(body, count()), map(one, count())
    call(app, path, next(asked))
    call(app, PLAIN, next(single))
    return [timed(app, path, asked, 1) / units / timed(app, PLAIN, single, 100) for _ in range(rounds)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Cost of fit and sweep beside plain requests.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    app = create_app()
    models = len(library().entries)
    cases = [
        ("fit of a model over the catalogue", (FIT, repeated(model_name=MODEL)), plain(model_name=MODEL), 1, 60.0),
        (
            "fit of a GPU over the library, a model",
            (FIT, repeated(gpu=GPU)),
            plain(model_name=MODEL, gpu=GPU),
            models,
            10.0,
        ),
        ("sweep, a cell", (SWEEP, cells(model_name=MODEL)), plain(model_name=MODEL), CELLS, 0.3),
    ]
    print(f"{'question':40} {'plain requests':>14} {'at most':>8}")
    for name, question, one, units, most in cases:
        print(f"{name:40} {statistics.median(ratios(app, question, one, units, rounds)):14.2f} {most:8.1f}")


if __name__ == "__main__":
    main()
