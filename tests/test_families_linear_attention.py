"""Families of linear attention: parameters, caches and states of small configurations, derived by hand."""

from typing import Any

import pytest

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.profile import training_profile
from calculator.tape import Mode, evaluate

QWEN3_5: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "mtp_num_hidden_layers": 1,
    "vocab_size": 100,
}
VISION = {
    "hidden_size": 32,
    "depth": 2,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "patch_size": 4,
}
WHOLE = {"model_type": "qwen3_5", "text_config": QWEN3_5, "vision_config": VISION}

KEYS, VALUES = 2 * 16, 4 * 24
# q, k, v and the gate, beta and decay; convolution; two vectors of value heads; gated norm; out
DELTA = 64 * (2 * KEYS + VALUES) + 64 * VALUES + 2 * 64 * 4 + (2 * KEYS + VALUES) * 4 + 2 * 4 + 24 + VALUES * 64
GATED = 64 * 2 * 128 + 2 * 64 * 64 + 128 * 64 + 2 * 32  # q is twice as wide; norms over a head of q and of k
LAYER = 3 * 64 * 96 + 2 * 64
TEXT = 2 * 100 * 64 + 3 * DELTA + GATED + 4 * LAYER + 64
BLOCK = 4 * 32 + 3 * 32 * 32 + 3 * 32 + 32 * 32 + 32 + 2 * 32 * 48 + 48 + 32
TOWER = 32 * 3 * 2 * 4 * 4 + 32 + 16 * 32 + 2 * BLOCK + 2 * 32 + 128 * 128 + 128 + 128 * 64 + 64


@pytest.mark.parametrize(("config", "parameters"), [(QWEN3_5, TEXT), (WHOLE, TEXT + TOWER)], ids=["text", "whole"])
def test_parameters_are_those_of_a_hand_count(config: dict[str, Any], parameters: int) -> None:
    model = read_model(config)
    assert model.parameters == model.active_parameters == parameters
    assert model.components()["multimodal"] == parameters - TEXT
    assert model.speculative_parameters == GATED + LAYER + 2 * 64 * 64 + 3 * 64


def test_only_full_attention_grows_with_the_context() -> None:
    model = read_model(QWEN3_5)
    assert model.cache(10) == 10 * 2 * 2 * 32
    assert [state.elements for state in model.states()] == [3 * 4 * 16 * 24, 3 * (2 * KEYS + VALUES) * 4]
    assert [state.precision for state in model.states()] == ["float32", "activations"]
    assert model.states(tensor=2)[0].elements == 3 * 2 * 16 * 24


def test_what_a_delta_rule_layer_keeps_for_its_backward_pass() -> None:
    # two norms of 10h (float32 twice, 16-bit once) and a rsqrt each; the convolution's input; of the rule: normalized
    # q and k with a float32 figure a head each, v, the summed gate, beta, a row of 64 a head; of decay and beta: the
    # sum in float32 and its softplus; of the gated norm: float32 x, 16-bit normalized, weighted, the gate and its silu
    # in float32, and a rsqrt a head; then the product that goes into out; the feed-forward layer 8f
    keys, values, heads = KEYS, VALUES, 4
    rule = 4 * keys + 2 * 2 * 4 + 2 * values + 4 * heads + 2 * heads + 128 * heads
    gate = 4 * heads + 4 * heads
    norm = 4 * values + 2 * values + 2 * values + 4 * values + 4 * values + 4 * heads + 2 * values
    per_token = 2 * (10 * 64 + 4) + 2 * (2 * keys + values) + rule + gate + norm + 8 * 96
    saved = evaluate(training_profile(read_model(QWEN3_5), Mode()).saved_first, 1, 1000)
    assert (saved - saved % 1000) // 1000 == per_token


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer_types": ["full_attention"]}, "config.layer_types"),
        ({"layer_types": ["conv"] * 4}, "config.layer_types"),
        ({"linear_num_value_heads": 3}, "config.linear_num_value_heads"),
        ({"partial_rotary_factor": 2.0}, "config.partial_rotary_factor"),
        ({"num_attention_heads": 3}, "config.num_attention_heads"),
        ({"linear_key_head_dim": 0}, "config.linear_key_head_dim"),
    ],
)
def test_figures_that_make_no_sense_are_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_model({**QWEN3_5, **change})
    assert caught.value.field == field
