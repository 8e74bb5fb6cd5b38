"""The question turned around: every solved number is the boundary of the plain request."""

import json

import pytest

from calculator.gpus import GPUS
from server import create_app

SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
INFERENCE, FIT = "/api/memory/inference", "/api/memory/fit"


@pytest.fixture(scope="module")
def client():
    return create_app().test_client()


def post(client, endpoint, body):
    reply = client.post(endpoint, data=json.dumps(body))
    return reply.status_code, reply.get_json()


@pytest.mark.parametrize("field", ["batch_size", "sequence_length"])
@pytest.mark.parametrize(
    "body", [SIZES | {"gpu": "RTX 4090"}, {"model_name": "Qwen3-0.6B", "gpu_memory_gib": 4, "engine": "transformers"}]
)
def test_the_solved_number_is_the_boundary(client, field, body):
    status, reply = post(client, FIT, body | {"calculation_type": "inference", "solve_for": field})
    assert status == 200 and reply["solve_for"] == field
    n = reply[field]
    assert n >= 1
    assert post(client, INFERENCE, body | {field: n})[1]["fit"]["fits"]
    assert reply["limited_by"] or not post(client, INFERENCE, body | {field: n + 1})[1]["fit"]["fits"]


def test_where_nothing_fits_n_is_zero(client):
    body = SIZES | {"calculation_type": "inference", "gpu_memory_gib": 1, "solve_for": "batch_size"}
    assert post(client, FIT, body) == (200, {"solve_for": "batch_size", "batch_size": 0, "limited_by": None})


def test_a_model_alone_gives_every_gpu_the_least_memory_first(client):
    status, reply = post(client, FIT, SIZES | {"calculation_type": "inference"})
    assert status == 200 and len(reply["gpus"]) > len(GPUS) // 2
    sizes = {gpu.name: gpu.memory for gpu in GPUS}
    totals = [sizes[row["gpu"]] * row["gpu_count"] for row in reply["gpus"]]
    assert totals == sorted(totals)
    for row in reply["gpus"][:5]:
        _, plain = post(client, INFERENCE, SIZES | {"gpu": row["gpu"], **row["split"]})
        assert plain["fit"]["fits"] and plain["fit"]["gpu_count"] == row["gpu_count"]
        assert plain["fit"]["used_gib"] == row["used_gib"] and plain["fit"]["free_gib"] == row["free_gib"]


def test_a_gpu_alone_gives_the_models_that_run_on_it(client):
    status, reply = post(client, FIT, {"calculation_type": "inference", "gpu": "RTX 4090"})
    assert status == 200
    rows = {row["name"]: row for row in reply["models"]}
    assert rows["Qwen3-8B"]["precision"] == "bfloat16" and "DeepSeek-V3" not in rows
    for name in ("Qwen3-8B", "Qwen3-14B"):
        stored = {key: rows[name][key] for key in ("precision", "quantization") if key in rows[name]}
        body = {"model_name": name, "gpu": "RTX 4090"} | stored
        for field in ("sequence_length", "batch_size"):
            assert post(client, INFERENCE, body | {field: rows[name][f"max_{field}"]})[1]["fit"]["fits"]


def test_where_no_number_of_gpus_does_the_description_allows_for_it(client):
    body = SIZES | {"gpu_memory_gib": 1e-6}
    assert post(client, INFERENCE, body)[1]["fit"]["min_gpu_count"] is None
    kinds = client.get("/openapi.json").get_json()["components"]["schemas"]["FitReply"]["properties"]["min_gpu_count"]
    assert {"type": "null"} in kinds["anyOf"]


def test_a_plain_request_with_a_gpu_says_how_far_it_could_go(client):
    body = SIZES | {"gpu": "RTX 4090", "sequence_length": 32_000}
    fit = post(client, INFERENCE, body)[1]["fit"]
    assert not fit["fits"] and fit["free_gib"] < 0 and fit["gpu"] == "RTX-4090" and fit["min_gpu_count"] == 2
    for each in fit["suggestions"]:
        _, then = post(client, INFERENCE, body | each["change"])
        assert then["memory_bytes"]["inference_memory"] == each["total_bytes"]
        assert then["fit"]["fits"] == each["fits"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({}, "model_name"),
        ({"gpu": "H100", "solve_for": "batch_size"}, "solve_for"),
        (SIZES | {"gpu": "H100"}, "solve_for"),
        (SIZES | {"solve_for": "batch_size"}, "solve_for"),
        (SIZES | {"gpu": "H100", "solve_for": "batch_size", "batch_size": 2}, "batch_size"),
        (SIZES | {"gpu": "H100", "solve_for": "batchsize"}, "solve_for"),
        (SIZES | {"gpu": "H100", "gpu_memory_gib": 80, "solve_for": "gpu_count"}, "gpu_memory_gib"),
        (SIZES | {"gpu_count": 2}, "gpu_count"),
        (SIZES | {"gpu": "H101", "solve_for": "gpu_count"}, "gpu"),
        ({"hidden_size": 64, "gpu": "H100"}, "model_size"),
    ],
)
def test_a_faulty_question_names_the_fault(client, more, field):
    status, reply = post(client, FIT, {"calculation_type": "inference"} | more)
    assert (status, [each["field"] for each in reply["details"]]) == (400, [field])
