"""What must hold between answers, whatever is asked: drawn at random from the service's own options."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from server import create_app

CLIENT: FlaskClient = create_app().test_client()
OPTIONS: dict[str, Any] = CLIENT.get("/api/config/options").get_json()
MODELS: list[str] = [each["name"] for each in CLIENT.get("/api/models").get_json()["models"]]

# Small enough to draw often, unlike enough to reach every kind of layer.
SPREAD = [
    name
    for name in (
        "Qwen3-0.6B", "Qwen3-8B", "Llama-3.1-8B", "Llama-2-7b-hf", "gemma-2-9b", "gemma-3-1b-it", "Mistral-7B-v0.1",
        "gpt-oss-20b", "DeepSeek-V3", "DeepSeek-V2-Lite", "Mixtral-8x7B-v0.1", "Qwen3-30B-A3B",
        "Qwen3-Next-80B-A3B-Instruct",
        "falcon-7b", "falcon-mamba-7b", "Phi-3-mini-4k-instruct", "OLMo-2-1124-7B", "gpt2", "bloom", "opt-1.3b",
        "Jamba-v0.1", "bert-base-uncased", "t5-base", "NVIDIA-Nemotron-Nano-9B-v2",
    )
    if name in MODELS
]  # fmt: skip


def names(table: Any) -> list[str]:
    """The names of an option, whether it is a list, a list of rows or a table."""
    if isinstance(table, dict):
        return list(table)
    return [each["name"] if isinstance(each, dict) else each for each in table]


MODEL = st.sampled_from(SPREAD)
LENGTH = st.integers(1, 40_000)
BATCH = st.integers(1, 64)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any part of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


INFERENCE = st.builds(
    lambda needed, optional: {**needed, **optional},
    st.fixed_dictionaries({"model_name": MODEL, "batch_size": BATCH, "sequence_length": LENGTH}),
    some(
        precision=st.sampled_from(names(OPTIONS["data_types"])),
        kv_cache_precision=st.sampled_from(names(OPTIONS["kv_cache_precisions"])),
        attention=st.sampled_from(names(OPTIONS["attention"])),
        logits=st.sampled_from(["last", "all"]),
        engine=st.sampled_from(names(OPTIONS["engines"])),
        tensor_parallel=st.sampled_from([1, 2, 4, 8]),
        pipeline_parallel=st.sampled_from([1, 2]),
        gpu=st.sampled_from(names(OPTIONS["gpus"])),
    ),
)
TRAINING = st.builds(
    lambda needed, optional: {**needed, **optional},
    st.fixed_dictionaries({"model_name": MODEL, "batch_size": BATCH, "sequence_length": LENGTH}),
    some(
        optimizer=st.sampled_from(names(OPTIONS["optimizers"])),
        attention=st.sampled_from(names(OPTIONS["attention"])),
        method=st.sampled_from(["full", "lora", "qlora"]),
        gradient_checkpointing=st.sampled_from(names(OPTIONS["gradient_checkpointing"])),
        loss=st.sampled_from(["standard", "chunked", "fused"]),
        kernels=st.sampled_from(["standard", "liger"]),
        mixed_precision=st.sampled_from(names(OPTIONS["mixed_precisions"])),
        data_parallel=st.sampled_from([1, 2, 8]),
        zero_stage=st.sampled_from([0, 1, 2, 3]),
        tensor_parallel=st.sampled_from([1, 2, 4]),
        gradient_accumulation=st.sampled_from([1, 4]),
        gpu=st.sampled_from(names(OPTIONS["gpus"])),
    ),
)
KINDS = {"inference": INFERENCE, "training": TRAINING}
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def ask(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """The reply to a good question; a question that cannot be answered says why with a 400 and is not drawn."""
    reply = CLIENT.post(f"/api/memory/{kind}", json=body)
    said: dict[str, Any] = reply.get_json()
    assert reply.status_code in (200, 400), (body, said)
    if reply.status_code == 400:
        assert said["error"], body
    assume(reply.status_code == 200)
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["sequence_length", "batch_size"])
def test_more_never_takes_less(kind: str, field: str) -> None:
    @RELAXED
    @given(KINDS[kind], st.integers(1, 5000))
    def check(body: dict[str, Any], extra: int) -> None:
        less = ask(kind, body)
        more = ask(kind, {**body, field: body[field] + extra})
        total = f"{kind}_memory"
        assert more["memory_bytes"][total] >= less["memory_bytes"][total], (body, extra)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_compare_is_the_single_answers(kind: str) -> None:
    @settings(RELAXED, max_examples=20)
    @given(st.lists(KINDS[kind], min_size=1, max_size=4))
    def check(bodies: list[dict[str, Any]]) -> None:
        alone = [ask(kind, body) for body in bodies]
        together = CLIENT.post("/api/memory/compare", json={"calculation_type": kind, "configurations": bodies})
        assert together.get_json()["results"] == alone

    check()


@pytest.mark.parametrize("field", ["tensor_parallel", "pipeline_parallel"])
def test_more_gpus_never_take_more_of_the_fullest(field: str) -> None:
    @RELAXED
    @given(INFERENCE)
    def check(body: dict[str, Any]) -> None:
        body = {name: value for name, value in body.items() if not name.endswith("_parallel")}
        one = ask("inference", body)
        two = ask("inference", {**body, field: 2})
        parts = ("model_weights", "kv_cache")
        fullest = two["per_gpu"]["memory_bytes"]
        assert sum(fullest[name] for name in parts) <= sum(one["memory_bytes"][name] for name in parts), body

    check()


@pytest.mark.parametrize("optimizer", names(OPTIONS["optimizers"]))
def test_every_optimizer_is_answered(optimizer: str) -> None:
    reply = CLIENT.post("/api/memory/training", json={"model_name": "Qwen3-0.6B", "optimizer": optimizer})
    assert reply.status_code == 200, reply.get_json()


@pytest.mark.parametrize("quantization", names(OPTIONS["quantizations"]))
def test_every_quantization_is_answered(quantization: str) -> None:
    reply = CLIENT.post("/api/memory/inference", json={"model_name": "Qwen3-8B", "quantization": quantization})
    assert reply.status_code == 200, reply.get_json()


@pytest.mark.parametrize("precision", names(OPTIONS["kv_cache_precisions"]))
def test_every_cache_precision_is_answered(precision: str) -> None:
    reply = CLIENT.post("/api/memory/inference", json={"model_name": "Qwen3-8B", "kv_cache_precision": precision})
    assert reply.status_code == 200, reply.get_json()


def test_every_model_and_every_gpu_is_answered() -> None:
    for model in MODELS:
        for kind in KINDS:
            reply = CLIENT.post(f"/api/memory/{kind}", json={"model_name": model})
            assert reply.status_code == 200, (model, kind, reply.get_json())
    for gpu in names(OPTIONS["gpus"]):
        reply = CLIENT.post("/api/memory/inference", json={"model_name": "Qwen3-0.6B", "gpu": gpu})
        assert reply.status_code == 200, (gpu, reply.get_json())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_of_a_sweep_is_the_plain_answer(kind: str) -> None:
    @RELAXED
    @given(KINDS[kind])
    def check(body: dict[str, Any]) -> None:
        said = ask(kind, body)
        swept = {name: value for name, value in body.items() if name not in ("batch_size", "sequence_length")}
        swept |= {"calculation_type": kind, "over": ["batch_size", "sequence_length"]}
        swept["values"] = [[body["batch_size"]], [body["sequence_length"]]]
        (row,) = CLIENT.post("/api/memory/sweep", json=swept).get_json()["rows"]
        assert row["memory_bytes"] == said["memory_bytes"], body
        assert row["fits"] == said.get("fit", {"fits": None})["fits"], body

    check()
