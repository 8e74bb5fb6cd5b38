"""How cost grows with what is asked: configurations, layers, cells.

    uv run python benchmarks/growth.py [--rounds 5]

Through WSGI, in process, as CPU time; each line is the median of interleaved rounds. The exponent between the first
size and the last is 1 where cost grows as the size does, and 0 where it does not grow at all.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import orjson

sys.path = [str(Path(__file__).resolve().parent.parent), *(each for each in sys.path if "benchmarks" not in each)]

from benchmarks.requests import CONFIG, Application, call  # noqa: E402
from server import create_app  # noqa: E402

WORKLOAD = {"calculation_type": "inference", "config": CONFIG}
Make = Callable[[int, int], tuple[str, bytes]]


def configurations(size: int, turn: int) -> tuple[str, bytes]:
    """A comparison of so many."""
    each = [{"config": CONFIG, "sequence_length": 1024 + (turn + n) % 4096} for n in range(size)]
    return "/api/memory/compare", orjson.dumps({"calculation_type": "inference", "configurations": each})


def models(size: int, turn: int) -> tuple[str, bytes]:
    """A comparison of so many that have no field in common."""
    each = [
        {"config": CONFIG | {"num_hidden_layers": 1 + n % 96, "hidden_size": 128 * (32 + (turn + n) % 500)}}
        for n in range(size)
    ]
    return "/api/memory/compare", orjson.dumps({"calculation_type": "inference", "configurations": each})


def layers(size: int, turn: int) -> tuple[str, bytes]:
    """A model of so many, all alike; a vocabulary of its own each time, so that nothing is remembered of it."""
    config = CONFIG | {"num_hidden_layers": size, "vocab_size": 1000 + turn}
    return "/api/memory/inference", orjson.dumps({"config": config})


def kinds(size: int, turn: int) -> tuple[str, bytes]:
    """A model of so many, of two kinds in turn."""
    kind = ["sliding_attention" if n % 6 else "full_attention" for n in range(size)]
    config = CONFIG | {"model_type": "gemma3_text", "num_hidden_layers": size, "layer_types": kind}
    config |= {"head_dim": 128, "sliding_window": 1024, "vocab_size": 1000 + turn}
    return "/api/memory/inference", orjson.dumps({"config": config})


def cells(size: int, turn: int) -> tuple[str, bytes]:
    """A sweep of so many."""
    values = [1024 + turn + n for n in range(size)]
    return "/api/memory/sweep", orjson.dumps(WORKLOAD | {"over": "sequence_length", "values": values})


def grid(size: int, turn: int) -> tuple[str, bytes]:
    """A sweep of so many by a hundred."""
    values = [[1024 + turn + n for n in range(size // 100)], [*range(1, 101)]]
    return "/api/memory/sweep", orjson.dumps(WORKLOAD | {"over": ["sequence_length", "batch_size"], "values": values})


CASES: Sequence[tuple[str, Make, Sequence[int]]] = (
    ("configurations of one model", configurations, (10, 100, 1000)),
    ("configurations, each another", models, (10, 100, 1000)),
    ("layers, all alike", layers, (10, 100, 1000, 10_000)),
    ("layers, of two kinds", kinds, (10, 100, 1000, 10_000)),
    ("cells of one field", cells, (10, 100, 1000)),
    ("cells of a grid", grid, (100, 1000, 10_000)),
)


def cost(app: Application, make: Make, size: int, turn: int) -> float:
    """CPU seconds of one request."""
    path, body = make(size, turn)
    began = time.process_time()
    call(app, path, body)
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How cost grows with what is asked.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    app, turns = create_app(), count()
    print(f"{'what':30} {'size':>7} {'ms':>9} {'µs each':>9}")
    for name, make, sizes in CASES:
        cost(app, make, sizes[0], next(turns))
        runs = [[cost(app, make, size, next(turns)) for size in sizes] for _ in range(rounds)]
        medians = [statistics.median(each) for each in zip(*runs, strict=True)]
        for size, seconds in zip(sizes, medians, strict=True):
            print(f"{name:30} {size:7,} {1e3 * seconds:9.2f} {1e6 * seconds / size:9.1f}")
        print(f"{'':30} exponent {math.log(medians[-1] / medians[0]) / math.log(sizes[-1] / sizes[0]):.2f}")


if __name__ == "__main__":
    main()
