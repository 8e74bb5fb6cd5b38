"""A sweep is the plain request, over and over: each cell gives what the request with its values gives."""

import json
from itertools import product

import pytest

from server import create_app

SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
SWEEP = "/api/memory/sweep"


@pytest.fixture(scope="module")
def client():
    return create_app().test_client()


def post(client, endpoint, body):
    reply = client.post(endpoint, data=json.dumps(body))
    return reply.status_code, reply.get_json()


@pytest.mark.parametrize(
    ("kind", "over", "values"),
    [
        ("inference", "sequence_length", [1, 2048, 4096.0]),
        ("inference", "kv_cache_precision", ["float32", "float16"]),
        ("inference", "attention", ["sdpa", "flash", "eager"]),
        ("inference", ["precision"], ["float16", "int8", "int4"]),
        ("inference", ["sequence_length", "batch_size"], [[100, 200, 300], [1, 7]]),
        ("training", ["optimizer", "gradient_checkpointing"], [["AdamW", "SGD"], ["none", "full"]]),
        ("training", "compile", [False]),
        ("training", "trainable_parameters", [0.5, 50, 100]),
    ],
)
def test_each_cell_is_the_plain_request_with_its_values(client, kind, over, values):
    status, reply = post(client, SWEEP, SIZES | {"calculation_type": kind, "over": over, "values": values})
    assert status == 200 and reply["over"] == over
    names = [over] if isinstance(over, str) else over
    cells = list(product(*values)) if len(names) == 2 else [(value,) for value in values]
    assert [row["values"] for row in reply["rows"]] == [list(cell) for cell in cells]
    for row in reply["rows"]:
        _, plain = post(client, f"/api/memory/{kind}", SIZES | dict(zip(names, row["values"], strict=True)))
        assert row["memory_bytes"] == plain["memory_bytes"] and row["fits"] is None


def test_models_and_sizes_can_be_swept_too(client):
    body = {"calculation_type": "inference", "over": "model_name", "values": ["Qwen3-0.6B", "Qwen3-8B"]}
    _, reply = post(client, SWEEP, body)
    assert [row["memory_bytes"]["model_weights"] for row in reply["rows"]] == [1_192_099_840, 16_381_470_720]
    sizes = {name: value for name, value in SIZES.items() if name != "model_size"}
    _, reply = post(client, SWEEP, sizes | {"calculation_type": "inference", "over": "model_size", "values": [1, 2.5]})
    assert [row["memory_bytes"]["model_weights"] for row in reply["rows"]] == [2 * 10**9, 5 * 10**9]


def test_a_cell_that_cannot_be_says_why(client):
    body = SIZES | {"calculation_type": "inference", "over": "prompt_length", "values": [2048, 2049]}
    _, reply = post(client, SWEEP, body)
    assert reply["rows"][0]["memory_bytes"] and reply["rows"][1]["memory_bytes"] is None
    assert "must be at most sequence_length" in reply["rows"][1]["error"]


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"over": "batchsize", "values": [1]}, "over", "did you mean batch_size?"),
        ({"over": "config", "values": [1]}, "over", "is no field to sweep over"),
        ({"over": ["batch_size", "batch_size"], "values": [[1], [1]]}, "over", "names the same field twice"),
        ({"over": ["a", "b", "c"], "values": [[1], [1]]}, "over", "must be"),
        ({"over": 1, "values": [1]}, "over", "must be"),
        ({"over": "batch_size", "values": []}, "values", "1 to 1,000 items"),
        ({"over": "batch_size", "values": [1] * 1001}, "values", "1 to 1,000 items"),
        ({"over": ["batch_size", "sequence_length"], "values": [[1]]}, "values", "one list for each field of over"),
        ({"over": ["batch_size", "sequence_length"], "values": [[1] * 101, [1] * 100]}, "values", "10,100 cells"),
        ({"over": "batch_size", "values": [1, True]}, "values[1]", "must be an integer from 1 to 1,000,000, not true"),
        ({"over": ["batch_size", "precision"], "values": [[1], ["int9"]]}, "values[1][0]", "must be one of float32"),
        ({"over": "hidden_size", "values": [64]}, "hidden_size", "is swept over: leave it out"),
        ({"over": "batch_size", "values": [1], "precision": "int9"}, "precision", "must be one of"),
        ({"over": "batch_size", "values": [1], "model_name": "Qwen3-8B"}, "model_size", "stands beside model_name"),
    ],
)
def test_a_faulty_sweep_names_the_fault(client, more, field, message):
    status, reply = post(client, SWEEP, SIZES | {"calculation_type": "inference"} | more)
    assert (status, [each["field"] for each in reply["details"]]) == (400, [field])
    assert message in reply["details"][0]["message"]


def test_an_unknown_model_is_the_404(client):
    body = {"calculation_type": "inference", "over": "model_name", "values": ["Qwen3-8B", "InvalidModel"]}
    assert post(client, SWEEP, body) == (404, {"error": "Model 'InvalidModel' not found", "suggestions": []})
