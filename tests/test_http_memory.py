"""The memory endpoints as a client sees them: shapes, sums, echoes."""

import json

import pytest

from server import create_app

SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
}
INFERENCE, TRAINING, COMPARE = (f"/api/memory/{kind}" for kind in ("inference", "training", "compare"))


@pytest.fixture(scope="module")
def client():
    return create_app().test_client()


def post(client, endpoint, body):
    reply = client.post(endpoint, data=body if isinstance(body, bytes | str) else json.dumps(body))
    return reply.status_code, reply.get_json()


def test_seven_billion_float16_parameters_are_fourteen_gigabytes(client):
    status, reply = post(client, INFERENCE, SIZES | {"precision": "float16", "batch_size": 1, "sequence_length": 2048})
    assert status == 200
    assert reply["memory_bytes"]["model_weights"] == 14_000_000_000
    assert reply["memory_requirements"]["model_weights"] == "14.00 GB"
    assert reply["memory_bytes"]["kv_cache"] == 2 * 32 * 4096 * 2048 * 2  # a key and a value of 4096 a layer and token
    assert reply["memory_requirements"]["kv_cache"] == "1.07 GB"
    assert reply["model"] == {"name": None, "parameter_count": 7 * 10**9, "active_parameter_count": 7 * 10**9}
    assert reply["cache"]["needed_bytes"] == 2**30


@pytest.mark.parametrize(
    ("endpoint", "total", "body"),
    [
        (INFERENCE, "inference_memory", SIZES),
        (INFERENCE, "inference_memory", {"config": TINY, "batch_size": 3, "logits": "all", "attention": "eager"}),
        (TRAINING, "training_memory", SIZES),
        (
            TRAINING,
            "training_memory",
            {"config": TINY, "mixed_precision": "autocast", "gradient_checkpointing": "full"},
        ),
        (TRAINING, "training_memory", {"config": TINY, "method": "lora", "lora": {"rank": 4}}),
    ],
)
def test_the_total_is_the_largest_phase_and_the_sum_of_the_others(client, endpoint, total, body):
    status, reply = post(client, endpoint, body)
    assert status == 200
    figures = dict(reply["memory_bytes"])
    whole = figures.pop(total)
    assert whole == sum(figures.values()) == max(reply["phases"].values()) == reply["phases"][reply["peak"]]
    assert set(reply["memory_requirements"]) == set(reply["memory_bytes"])
    assert sum(part["bytes"] for part in reply["explanation"]) == whole
    assert all(part["low"] <= part["bytes"] <= part["high"] for part in reply["explanation"])


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (INFERENCE, SIZES),
        (
            INFERENCE,
            SIZES | {"model_size": 0.6, "num_key_value_heads": 8, "head_dim": 64, "kv_cache_precision": "float32"},
        ),
        (INFERENCE, {"config": TINY, "sequence_length": 100, "prompt_length": 50, "precision": "int4"}),
        (TRAINING, SIZES),
        (TRAINING, {"config": TINY, "trainable_parameters": 12.5, "optimizer": "SGD"}),
        (TRAINING, {"config": TINY, "method": "lora", "lora": {"target_modules": ["q_proj"]}}),
    ],
)
def test_the_echo_sent_back_gives_the_same_answer(client, endpoint, body):
    _, first = post(client, endpoint, body)
    assert body.items() <= (first["parameters"] | {"lora": body.get("lora")}).items()
    status, second = post(client, endpoint, first["parameters"])
    assert status == 200 and second == first


def test_compare_gives_each_configuration_its_own_reply_in_order(client):
    bodies = [SIZES, {"config": TINY, "batch_size": 2}, SIZES | {"precision": "int8"}]
    _, reply = post(client, COMPARE, {"calculation_type": "inference", "configurations": bodies})
    assert reply["results"] == [post(client, INFERENCE, body)[1] for body in bodies]
    totals = [each["memory_bytes"]["inference_memory"] for each in reply["results"]]
    assert reply["summary"] == {
        "smallest": 1,
        "largest": 0,
        "total_bytes": totals,
        "relative_to_first": [total / totals[0] for total in totals],
    }
