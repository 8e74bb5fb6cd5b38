"""Whatever is asked: parts sum to totals, the echo sent back gives the same answer, a comparison the same as alone."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calculator.engines import ENGINES
from calculator.library import library
from calculator.optimizers import OPTIMIZERS
from calculator.quantization import RECIPES
from server import create_app

CLIENT = create_app().test_client()
SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
NAMES = sorted(entry.name for entry in library().entries)
WAYS = st.sampled_from([1, 1, 1, 2, 4])

MODELS = st.one_of(
    st.just(SIZES),
    st.sampled_from(NAMES).map(lambda name: {"model_name": name}),
    st.sampled_from(library().entries).map(lambda entry: {"config": dict(entry.config)}),
)
WORKLOAD = {
    "batch_size": st.integers(1, 64),
    "sequence_length": st.sampled_from([1, 16, 511, 2048, 8192, 131072]),
    "attention": st.sampled_from(["sdpa", "flash", "eager"]),
}
GPU = {"gpu": st.sampled_from(["H100-80GB", "RTX-4090"]), "gpu_count": st.sampled_from([1, 8])}
INFERENCE = {
    **WORKLOAD,
    **GPU,
    "prompt_length": st.sampled_from([1, 16, 511]),
    "logits": st.sampled_from(["last", "all"]),
    "precision": st.sampled_from(["float32", "float16", "bfloat16", "int8", "int4"]),
    "quantization": st.sampled_from(sorted(RECIPES)),
    "kv_cache_precision": st.sampled_from(["float16", "fp8", "q8_0"]),
    "engine": st.sampled_from(sorted(ENGINES)),
    "tensor_parallel": WAYS,
    "pipeline_parallel": WAYS,
    "data_parallel": WAYS,
}
TRAINING = {
    **WORKLOAD,
    **GPU,
    "framework": st.sampled_from(["transformers", "megatron", "torchtitan"]),
    "kernels": st.sampled_from(["standard", "liger"]),
    "precision": st.sampled_from(["float32", "bfloat16"]),
    "mixed_precision": st.sampled_from(["none", "autocast", "master_weights"]),
    "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
    "optimizer_in_backward": st.booleans(),
    "method": st.sampled_from(["full", "lora", "qlora"]),
    "gradient_checkpointing": st.sampled_from(["none", "selective", "full"]),
    "loss": st.sampled_from(["standard", "chunked", "fused"]),
    "gradient_accumulation": st.sampled_from([1, 4]),
    "data_parallel": WAYS,
    "zero_stage": st.integers(0, 3),
    "tensor_parallel": WAYS,
    "sequence_parallel": st.booleans(),
    "pipeline_parallel": WAYS,
    "micro_batches": st.sampled_from([1, 8]),
}


def question(fields, most):
    """A model and a handful of fields: with all of them at once hardly anything can be answered."""
    chosen = st.lists(st.sampled_from(sorted(fields)), max_size=most, unique=True)
    return chosen.flatmap(
        lambda names: st.tuples(MODELS, st.fixed_dictionaries({name: fields[name] for name in names}))
    )


def post(kind, body):
    reply = CLIENT.post(f"/api/memory/{kind}", data=json.dumps(body))
    return reply.status_code, reply.get_json()


def without_limits(reply):
    """A default that is said is a wish: it is not what a limit or a suggestion would have changed."""
    known = ("fits", "gpu", "gpu_count", "gpu_memory_gib", "used_gib", "free_gib")
    return {**reply, "fit": {name: reply["fit"][name] for name in known}} if "fit" in reply else reply


def holds(kind, body):
    status, reply = post(kind, body)
    assert status in (200, 400), (body, reply)
    compared = post("compare", {"calculation_type": kind, "configurations": [body]})
    if status == 400:
        assert reply["error"] and compared[0] == 400
        return
    assert compared[1]["results"] == [reply]
    total = f"{kind}_memory"
    for memory in (reply["memory_bytes"], reply.get("per_gpu", {}).get("memory_bytes")):
        if memory is not None:
            assert memory[total] == sum(value for name, value in memory.items() if name != total)
            assert min(memory.values()) >= 0
    assert reply["memory_bytes"][total] == reply["phases"][reply["peak"]] == max(reply["phases"].values())
    assert set(reply["memory_requirements"]) == set(reply["memory_bytes"])
    assert all(part["low"] <= part["bytes"] <= part["high"] for part in reply["explanation"])
    assert body.items() <= {**reply["parameters"], **{k: v for k, v in body.items() if k == "model_size"}}.items()
    again = post(kind, reply["parameters"])
    assert again[0] == 200, (body, reply["parameters"], again[1])
    assert without_limits(again[1]) == without_limits(reply), body


@settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(question(INFERENCE, 6))
def test_inference_holds_together(asked):
    holds("inference", {**asked[0], **asked[1]})


@settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(question(TRAINING, 6))
def test_training_holds_together(asked):
    holds("training", {**asked[0], **asked[1]})
