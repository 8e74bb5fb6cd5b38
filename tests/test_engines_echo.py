"""What was assumed, sent back, gives the same answer."""

from __future__ import annotations

import pytest

from calculator import InferenceSetup
from calculator.architectures import read_model
from calculator.gpus import find_gpu
from calculator.inference import inference

SIZES = {
    "model_type": "gemma3_text",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 32000,
    "sliding_window": 512,
    "torch_dtype": "bfloat16",
}
PLAIN = read_model(SIZES)
PACKED = read_model({**SIZES, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}})


@pytest.mark.parametrize("engine", [None, "transformers", "vllm", "sglang", "llama.cpp"])
@pytest.mark.parametrize("model", [PLAIN, PACKED], ids=["plain", "packed"])
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"batch_size": 3, "sequence_length": 5000, "prompt_length": 700},
        {"gpu": find_gpu("L4"), "kv_cache_precision": "fp8", "tensor_parallel": 2},
    ],
)
def test_the_echo_gives_the_same_answer(engine, model, said):
    setup = InferenceSetup(engine=engine, **said)
    first = inference(model, setup)
    assumed = dict(first.assumed)
    for name in ("engine_options", "quantization_options"):
        if name in assumed:
            assumed[name] = tuple(sorted(assumed[name].items()))
    again = inference(model, setup._replace(**assumed))
    assert (again.phases, again.cache, again.engine_report, again.room) == (
        first.phases,
        first.cache,
        first.engine_report,
        first.room,
    )
