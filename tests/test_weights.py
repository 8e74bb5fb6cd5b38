"""Weights of whole models in checkpoint formats, beside what engines and files reported."""

from typing import Any

import pytest

from calculator.architectures import read_model
from calculator.formats import DATA_TYPES, Plain
from calculator.model import Model
from calculator.quantization import find_recipe
from calculator.units import GIB
from calculator.weights import facts_of, weight_bytes

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
QWEN_14B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
QWEN_3B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


def model(config: dict[str, Any]) -> Model:
    return read_model(config)


@pytest.mark.parametrize(
    ("config", "quantization", "gib", "within"),
    [
        (LLAMA_8B, "gguf-q4_k_m", 4.58, 0.002),  # llama-bench
        (LLAMA_8B, "gguf-iq2_xs", 2.42, 0.002),
        (QWEN_14B, "gguf-q4_k_m", 8.37, 0.002),
        (QWEN_3B, "gguf-q4_k_m", 1.79, 0.002),
        (QWEN_3B, "gguf-iq3_m", 1.38, 0.002),
        (QWEN_14B, "awq-int4", 9.3795, 0.01),  # vLLM: "Model loading took"; some 82 MiB of Qwen2 are unexplained
    ],
)
def test_weights_weigh_what_was_reported(config: dict[str, Any], quantization: str, gib: float, within: float) -> None:
    assert weight_bytes(model(config), find_recipe(quantization)) / GIB == pytest.approx(gib, rel=within)


def test_plain_precisions_count_every_parameter_alike() -> None:
    llama = model(LLAMA_8B)
    assert weight_bytes(llama, Plain("bfloat16", DATA_TYPES["bfloat16"])) == 2 * llama.parameters
    assert weight_bytes(llama, Plain("int4", DATA_TYPES["int4"])) == llama.parameters // 2


def test_facts_are_read_off_the_tensors() -> None:
    facts = facts_of(model(QWEN_3B))
    assert (facts.layers, facts.tied, facts.experts, facts.sharing) == (36, True, 0, 8)
    assert facts.value_layers == facts.down_layers == {}
    assert not facts_of(model(LLAMA_8B)).tied


def test_a_share_of_the_weights_on_each_of_two_gpus() -> None:
    """What is divided halves; norms stay whole on both."""
    llama, recipe = model(LLAMA_8B), find_recipe("fp8")
    norms = 2 * 65 * 4096
    whole, half = weight_bytes(llama, recipe), weight_bytes(llama, recipe, tensor=2)
    assert 2 * half - whole == pytest.approx(norms, abs=8)


def test_a_smaller_group_costs_more_scales() -> None:
    qwen = model(QWEN_14B)
    coarse, fine = (weight_bytes(qwen, find_recipe("gptq-int4", {"group_size": size})) for size in (128, 32))
    assert coarse < fine
