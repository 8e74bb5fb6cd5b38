"""What a request costs beside what Flask itself costs, as ratios in one run.

    uv run python benchmarks/requests.py [--rounds 40] [--requests 100]

Each endpoint is called through WSGI, in process, beside a bare Flask view that parses the same body and returns a
constant of the same size. The two take turns, round by round, so that a machine that slows down slows both; figures
are CPU time.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import orjson

sys.path = [str(Path(__file__).resolve().parent.parent), *(each for each in sys.path if "benchmarks" not in each)]

from flask import Flask, Response, request  # noqa: E402

from server import create_app  # noqa: E402

CONFIG = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


def environment(path: str, body: bytes) -> dict[str, Any]:
    """A WSGI environment as waitress makes it for a POST."""
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "5000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def call(application: Application, path: str, body: bytes) -> bytes:
    """One request, its reply's body; a status other than 200 ends the run."""
    status: list[str] = []

    def start(line: str, headers: list[tuple[str, str]], info: object = None) -> None:
        status.append(line)

    reply = application(environment(path, body), start)
    data = b"".join(reply)
    close = getattr(reply, "close", None)
    if close:
        close()
    if not status[0].startswith("200"):
        sys.exit(f"{path}: {status[0]} {data[:300].decode()}")
    return data


def bare(reply: bytes) -> Application:
    """Flask alone: a view that parses its body and returns `reply`."""
    app = Flask(__name__)

    @app.post("/api/memory/bare")
    def view() -> Response:
        orjson.loads(request.get_data())
        return Response(reply, mimetype="application/json")

    return app


def single(**fields: Any) -> Callable[[int], bytes]:
    """Bodies that differ from one request to the next, as a script in a loop sends them."""

    def body(n: int) -> bytes:
        return orjson.dumps({**fields, "sequence_length": 1024 + n % 4096, "batch_size": 1 + n % 7})

    return body


def compared(size: int, **fields: Any) -> Callable[[int], bytes]:
    """A comparison of `size` configurations."""

    def body(n: int) -> bytes:
        configurations = [{**fields, "sequence_length": 1024 + (n + i) % 4096} for i in range(size)]
        return orjson.dumps({"calculation_type": "inference", "configurations": configurations})

    return body


CASES: list[tuple[str, str, Callable[[int], bytes]]] = [
    ("inference, a bundled model", "/api/memory/inference", single(model_name="Qwen3-8B")),
    ("inference, a config", "/api/memory/inference", single(config=CONFIG)),
    (
        "inference, sizes",
        "/api/memory/inference",
        single(model_size=7, precision="float16", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32),
    ),
    ("inference, vllm", "/api/memory/inference", single(model_name="Qwen3-8B", engine="vllm")),
    ("training, a bundled model", "/api/memory/training", single(model_name="Qwen3-8B")),
    ("training, LoRA", "/api/memory/training", single(model_name="Qwen3-8B", method="lora")),
]


def timed(application: Application, path: str, bodies: Iterator[bytes], requests: int) -> float:
    """CPU seconds a request."""
    made = [next(bodies) for _ in range(requests)]
    start = time.process_time()
    for body in made:
        call(application, path, body)
    return (time.process_time() - start) / requests


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Cost of requests beside bare Flask.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=100)
    chosen = parser.parse_args()
    app = create_app()
    print(f"{'endpoint':28} {'µs':>8} {'bare µs':>8} {'of bare Flask':>14}  5 % … 95 %")
    for name, path, body in CASES:
        bodies = (body(n) for n in count())
        reply = call(app, path, next(bodies))
        other = bare(reply)
        call(other, "/api/memory/bare", body(0))
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(chosen.rounds):
            ours.append(timed(app, path, bodies, chosen.requests))
            theirs.append(timed(other, "/api/memory/bare", bodies, chosen.requests))
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        low, high = ratios[len(ratios) // 20], ratios[-1 - len(ratios) // 20]
        print(
            f"{name:28} {1e6 * statistics.median(ours):8.0f} {1e6 * statistics.median(theirs):8.0f} "
            f"{statistics.median(ratios):14.2f}  {low:.2f} … {high:.2f}"
        )
    body = compared(1000, config=CONFIG)
    shares: list[float] = []
    for n in range(8):
        one = timed(app, CASES[1][1], (CASES[1][2](n + i) for i in count()), chosen.requests)
        many = timed(app, "/api/memory/compare", iter([body(n)]), 1)
        shares.append(many / 1000 / one)
    print(f"compare of 1,000 configurations: {100 * statistics.median(shares):.0f} % of a single request each")


if __name__ == "__main__":
    main()
