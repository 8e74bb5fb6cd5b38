"""The service as a client sees it.

uv run pytest test_api.py            in process
python test_api.py [URL]             against a running server, http://127.0.0.1:5000 if no URL is given
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

URL = "http://127.0.0.1:5000"

BUNDLED = """{"model_name": "Qwen3-0.6B", "batch_size": 2, "sequence_length": 4096}"""

EXPLICIT = """{"model_size": 7, "precision": "float16", "batch_size": 1, "sequence_length": 2048,
 "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}"""

TRAINING = """{"model_name": "Qwen3-7B", "batch_size": 4, "sequence_length": 2048, "optimizer": "AdamW", "trainable_parameters": 100}"""  # noqa: E501

COMPARISON = """{"calculation_type": "inference", "configurations": [
  {"model_size": 0.6, "precision": "bfloat16", "batch_size": 1, "sequence_length": 2048, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16},
  {"model_size": 0.6, "precision": "float16",  "batch_size": 1, "sequence_length": 2048, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16}]}"""  # noqa: E501


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    body: Any
    headers: dict[str, str]


Client = Callable[..., Reply]
"""Called as client(method, path, body="")."""


def in_process() -> Client:
    """A client of an app in this process."""
    from server import create_app

    app = create_app().test_client()

    def send(method: str, path: str, body: str = "") -> Reply:
        reply = app.open(path, method=method, data=body)
        return Reply(reply.status_code, reply.get_json(), dict(reply.headers))

    return send


def over_network(url: str) -> Client:
    """A client of a running server."""
    import requests

    session = requests.Session()

    def send(method: str, path: str, body: str = "") -> Reply:
        reply = session.request(method, url.rstrip("/") + path, data=body.encode(), timeout=30)
        return Reply(reply.status_code, reply.json(), dict(reply.headers))

    return send


@pytest.fixture(scope="module")
def client() -> Client:
    return in_process()


def sums(memory: dict[str, int], total: str) -> bool:
    """Whether the parts add up to the total."""
    return memory[total] == sum(value for name, value in memory.items() if name != total)


def test_health(client: Client) -> None:
    reply = client("GET", "/health")
    assert reply.status == 200 and reply.body["status"] == "healthy" and reply.body["models"] > 100


def test_models_are_listed(client: Client) -> None:
    reply = client("GET", "/api/models")
    assert reply.status == 200 and reply.body["count"] == len(reply.body["models"])
    assert "Qwen3-0.6B" in [each["name"] for each in reply.body["models"]]


def test_a_model_is_shown(client: Client) -> None:
    for name in ("Qwen3-0.6B", "Qwen/Qwen3-0.6B", "qwen3-0.6b"):
        reply = client("GET", f"/api/models/{name}")
        assert reply.status == 200 and reply.body["parameter_count"] == 596_049_920


def test_options_are_listed(client: Client) -> None:
    options = client("GET", "/api/config/options").body
    assert options["data_types"] == {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 0.5}
    assert (options["optimizers"]["AdamW"], options["optimizers"]["Quantized AdamW"], options["optimizers"]["SGD"]) == (
        8,
        2,
        4,
    )


def test_inference_of_a_bundled_model(client: Client) -> None:
    reply = client("POST", "/api/memory/inference", BUNDLED)
    assert reply.status == 200 and json.loads(BUNDLED).items() <= reply.body["parameters"].items()
    memory = reply.body["memory_bytes"]
    assert memory["model_weights"] == 596_049_920 * 2
    assert memory["kv_cache"] == 2 * 4096 * 28 * 2 * 8 * 128 * 2  # 2 sequences; keys and values of 8 heads in 28 layers
    assert sums(memory, "inference_memory")
    assert reply.body["memory_requirements"]["inference_memory"].endswith(" GB")


def test_inference_of_explicit_sizes(client: Client) -> None:
    reply = client("POST", "/api/memory/inference", EXPLICIT)
    assert reply.status == 200 and reply.body["calculation_type"] == "inference"
    assert json.loads(EXPLICIT).items() <= reply.body["parameters"].items()
    assert reply.body["memory_requirements"]["model_weights"] == "14.00 GB"
    assert reply.body["memory_requirements"]["kv_cache"] == "1.07 GB"
    assert sums(reply.body["memory_bytes"], "inference_memory")


def test_training_of_a_name_in_circulation(client: Client) -> None:
    reply = client("POST", "/api/memory/training", TRAINING)
    assert reply.status == 200 and reply.body["calculation_type"] == "training"
    assert json.loads(TRAINING).items() <= reply.body["parameters"].items()
    assert reply.body["model"]["name"] == "Qwen3-8B"
    assert any("Qwen3-7B" in warning for warning in reply.body["warnings"])
    assert reply.body["states_bytes"]["optimizer_states"] == 8 * reply.body["model"]["parameter_count"]
    assert sums(reply.body["memory_bytes"], "training_memory")


def test_a_comparison(client: Client) -> None:
    reply = client("POST", "/api/memory/compare", COMPARISON)
    assert reply.status == 200 and len(reply.body["results"]) == 2
    for configuration, result in zip(json.loads(COMPARISON)["configurations"], reply.body["results"], strict=True):
        assert result == client("POST", "/api/memory/inference", json.dumps(configuration)).body
    assert reply.body["summary"]["relative_to_first"] == [1.0, 1.0]


def test_an_unknown_model_is_404(client: Client) -> None:
    reply = client("POST", "/api/memory/inference", """{"model_name": "InvalidModel"}""")
    assert (reply.status, reply.body["error"]) == (404, "Model 'InvalidModel' not found")
    assert client("GET", "/api/models/InvalidModel").status == 404


def test_a_missing_or_wrong_parameter_is_400(client: Client) -> None:
    reply = client("POST", "/api/memory/inference", "{}")
    assert reply.status == 400 and reply.body["error"] and reply.body["details"]
    reply = client("POST", "/api/memory/training", """{"model_name": "Qwen3-8B", "batch_size": -1}""")
    assert reply.status == 400 and reply.body["details"][0]["field"] == "batch_size"
    assert client("POST", "/api/memory/inference", "not json").status == 400


def test_an_unknown_endpoint_is_404(client: Client) -> None:
    reply = client("GET", "/api/nothing")
    assert reply.status == 404 and reply.body["error"]


def test_a_wrong_method_is_405(client: Client) -> None:
    reply = client("GET", "/api/memory/inference")
    assert reply.status == 405 and "POST" in reply.headers["Allow"]


def main(arguments: list[str]) -> int:
    """Every check against a running server, a line each."""
    url = arguments[0] if arguments else URL
    import requests

    client = over_network(url)
    try:
        client("GET", "/health")
    except requests.exceptions.RequestException as fault:
        print(
            f"No service answers at {url} ({type(fault).__name__}): start it with `python server.py`, or name its URL"
        )
        return 1
    failed = 0
    for name, check in list(globals().items()):
        if name.startswith("test_"):
            try:
                check(client)
            except Exception as fault:
                failed += 1
                print(f"FAILED  {name}: {type(fault).__name__} {fault}")
            else:
                print(f"ok      {name}")
    print(f"{failed} checks failed" if failed else f"All checks passed at {url}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
