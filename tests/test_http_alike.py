"""Configurations of a comparison that differ in the workload alone are answered as each would be by itself."""

import itertools
import json

import pytest

from server import create_app

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 1000,
}
MODELS = [
    {"model_name": "Qwen3-8B"},
    {"model_name": "gemma-3-1b-it", "kv_cache_precision": "fp8"},
    {"model_name": "Qwen3-Next-80B-A3B-Instruct", "attention": "eager"},
    {"model_name": "Llama-3.1-8B", "quantization": "bnb-nf4"},
    {"model_name": "Llama-3.1-8B", "quantization": "gptq-int4", "quantization_options": {"group_size": 64}},
    {"config": CONFIG, "logits": "all"},
    {"model_size": 7.5, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "precision": "int4"},
    {"model_name": "Qwen3-8B", "gpu": "H100-80GB"},
    {"model_name": "Qwen3-8B", "gpu_count": 2},
    {"model_name": "Qwen3-8B", "tensor_parallel": 2},
    {"model_name": "Qwen3-8B", "engine": "vllm"},
]


TRAININGS = [
    {"model_name": "Qwen3-8B"},
    {"model_name": "gemma-3-1b-it", "gradient_checkpointing": "full", "attention": "eager"},
    {"model_name": "Llama-3.1-8B", "method": "qlora", "loss": "fused", "lora": {"rank": 8}},
    {"config": CONFIG, "precision": "float32", "optimizer": "SGD", "trainable_parameters": 50},
    {"model_name": "Qwen3-8B", "gpu": "H100-80GB"},
    {"model_name": "Qwen3-8B", "data_parallel": 2},
]


@pytest.fixture(scope="module")
def client():
    return create_app().test_client()


def ask(client, path, body):
    reply = client.post(f"/api/memory/{path}", data=json.dumps(body))
    return reply.status_code, reply.get_json()


@pytest.mark.parametrize("model", MODELS)
def test_a_comparison_over_workloads_is_the_single_answers(client, model):
    loads = [
        {"batch_size": batch, "sequence_length": length} for batch, length in itertools.product((1, 7), (1, 900, 9000))
    ]
    loads += [{"batch_size": 2}, {"batch_size": 3}, {"sequence_length": 64, "prompt_length": 16}]
    loads += [{"sequence_length": 80, "prompt_length": 80}]
    bodies = [model | load for load in loads]
    status, reply = ask(client, "compare", {"calculation_type": "inference", "configurations": bodies})
    assert status == 200
    assert reply["results"] == [ask(client, "inference", body)[1] for body in bodies]


@pytest.mark.parametrize("model", TRAININGS)
def test_a_comparison_over_training_workloads_is_the_single_answers(client, model):
    loads = [
        {"batch_size": batch, "sequence_length": length} for batch, length in itertools.product((1, 7), (1, 900, 9000))
    ]
    bodies = [model | load for load in loads]
    status, reply = ask(client, "compare", {"calculation_type": "training", "configurations": bodies})
    assert status == 200
    assert reply["results"] == [ask(client, "training", body)[1] for body in bodies]


def test_what_only_compares_equal_is_not_alike(client):
    bodies = [
        {"config": CONFIG | {"tie_word_embeddings": True}},
        {"config": CONFIG | {"tie_word_embeddings": 1}},
    ]
    alone = [ask(client, "inference", body) for body in bodies]
    status, reply = ask(client, "compare", {"calculation_type": "inference", "configurations": bodies})
    if alone[1][0] == 200:
        assert status == 200 and reply["results"] == [each for _, each in alone]
        assert reply["results"][1]["parameters"]["config"]["tie_word_embeddings"] is not True
    else:
        assert status == 400


def test_what_is_too_large_says_so_beside_what_is_not(client):
    bodies = [{"model_name": "Qwen3-8B"}, {"model_name": "Qwen3-8B", "batch_size": 10**6, "sequence_length": 10**9}]
    bodies[0] |= {"batch_size": 1, "sequence_length": 10}
    status, reply = ask(client, "compare", {"calculation_type": "inference", "configurations": bodies})
    assert (status, ask(client, "inference", bodies[1])[0]) == (400, 400)
    assert "configurations[1]" in reply["details"][0]["field"]
