"""Mamba and its hybrids: parameters, caches and states of small configurations, derived by hand."""

from typing import Any

import pytest

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.profile import training_profile
from calculator.tape import Adapter, Mode, evaluate

MAMBA: dict[str, Any] = {
    "model_type": "mamba",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "state_size": 8,
    "conv_kernel": 4,
    "vocab_size": 100,
    "tie_word_embeddings": True,
}
MAMBA2: dict[str, Any] = {
    "model_type": "mamba2",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_heads": 8,
    "head_dim": 16,
    "state_size": 8,
    "n_groups": 2,
    "vocab_size": 100,
}
BAMBA: dict[str, Any] = {
    "model_type": "bamba",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "attn_layer_indices": [1],
    "mamba_n_heads": 8,
    "mamba_d_state": 8,
    "vocab_size": 100,
}
FALCON_H1: dict[str, Any] = {
    "model_type": "falcon_h1",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "mamba_d_ssm": 96,
    "mamba_n_heads": 6,
    "mamba_d_state": 8,
    "vocab_size": 100,
}
ZAMBA: dict[str, Any] = {
    "model_type": "zamba",
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "mamba_d_state": 8,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "hybrid"],
    "vocab_size": 100,
}
ZAMBA2: dict[str, Any] = {
    "model_type": "zamba2",
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "n_mamba_heads": 4,
    "mamba_d_state": 8,
    "mamba_ngroups": 2,
    "num_mem_blocks": 2,
    "adapter_rank": 4,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "hybrid"],
    "vocab_size": 100,
}

# in 64·256, convolution 128·(4+1), x 128·(4+16), time step 4·128+128, A 128·8, D 128, out 128·64
MAMBA_MIXER = 64 * 256 + 128 * 5 + 128 * 20 + 5 * 128 + 128 * 8 + 128 + 128 * 64
# in 64·(128+160+8), convolution over 128+2·2·8, three vectors of 8, gated norm, out
MAMBA2_MIXER = 64 * 296 + 160 * 5 + 3 * 8 + 128 + 128 * 64
BAMBA_MIXER = 64 * (128 + 144 + 8) + 144 * 5 + 3 * 8 + 128 + 128 * 64
BAMBA_ATTENTION = 64 * (64 + 32 + 32) + 64 * 64
FALCON_MIXER = 64 * (96 + 112 + 6) + 112 * 5 + 3 * 6 + 96 * 64  # no gated norm
ZAMBA_MIXER = MAMBA_MIXER
ZAMBA_SHARED = 4 * 128 * 128 - 64 * 128 + 3 * 64 * 96 + 128 + 64  # o is 64 wide, the first norm 128
ZAMBA2_MIXER = 64 * (128 + 160 + 4) + 160 * 5 + 3 * 4 + 128 + 128 * 64

COUNTS = [
    (MAMBA, 100 * 64 + 3 * (MAMBA_MIXER + 64) + 64),
    (MAMBA2, 2 * 100 * 64 + 3 * (MAMBA2_MIXER + 64) + 64),
    (BAMBA, 2 * 100 * 64 + 2 * BAMBA_MIXER + BAMBA_ATTENTION + 3 * (3 * 64 * 96 + 2 * 64) + 64),
    (FALCON_H1, 2 * 100 * 64 + 2 * (FALCON_MIXER + BAMBA_ATTENTION + 3 * 64 * 96 + 2 * 64) + 64),
    # one transformer for three uses, each with its own matrix of 64·64 behind it
    (ZAMBA, 100 * 64 + 5 * (ZAMBA_MIXER + 64) + ZAMBA_SHARED + 3 * 64 * 64 + 64),
    # two transformers in turn, and a low-rank update of gate and up for each of three uses
    (ZAMBA2, 100 * 64 + 5 * (ZAMBA2_MIXER + 64) + 2 * ZAMBA_SHARED + 3 * (64 * 64 + 4 * (64 + 192)) + 64),
]


@pytest.mark.parametrize(("config", "parameters"), COUNTS, ids=[config["model_type"] for config, _ in COUNTS])
def test_parameters_are_those_of_a_hand_count(config: dict[str, Any], parameters: int) -> None:
    model = read_model(config)
    assert model.parameters == model.active_parameters == parameters
    assert sum(model.components().values()) == parameters


KEPT = [
    # config, elements of the cache for 10 tokens, recurrent elements, convolution elements
    (MAMBA, 0, 3 * 128 * 8, 3 * 128 * 4),
    (MAMBA2, 0, 3 * 128 * 8, 3 * 160 * 4),
    (BAMBA, 10 * 2 * 2 * 16, 2 * 128 * 8, 2 * 144 * 4),
    (FALCON_H1, 10 * 2 * 2 * 2 * 16, 2 * 96 * 8, 2 * 112 * 4),
    (ZAMBA, 10 * 3 * 2 * 4 * 32, 5 * 128 * 8, 5 * 128 * 4),  # a cache for every use of the shared attention
    (ZAMBA2, 10 * 3 * 2 * 4 * 32, 5 * 128 * 8, 5 * 160 * 4),
]


@pytest.mark.parametrize(
    ("config", "cache", "recurrent", "convolution"), KEPT, ids=[row[0]["model_type"] for row in KEPT]
)
def test_states_do_not_grow_and_caches_belong_to_attention(
    config: dict[str, Any], cache: int, recurrent: int, convolution: int
) -> None:
    model = read_model(config)
    assert model.cache(10) == cache
    by_name = {"recurrent": 0, "convolution": 0}
    for state in model.states():
        by_name[state.name] += state.elements
    assert by_name == {"recurrent": recurrent, "convolution": convolution}
    assert model.state() == recurrent + convolution
    assert {state.precision for state in model.states() if state.name == "recurrent"} == {"float32"}


def test_what_mamba_keeps_for_its_backward_pass() -> None:
    # norm: x in float32 (4h), normalized (2h), weighted (2h); the input of both halves 4d, time step with B and C
    # (rank + 2n, and B and C apart), the scan's output 2d, a rsqrt; the states written down are 1 element a token
    hidden, inner, size, rank = 64, 128, 8, 4
    per_token = 8 * hidden + 4 * inner + 2 * (rank + 4 * size) + 2 * inner + 4 + 4
    fixed = 4 * (2 * inner * size + 2 * inner)  # the exponential of A and its negative; D and a bias in float32
    saved = training_profile(read_model(MAMBA), Mode()).saved_first
    assert evaluate(saved, 1, 1000) == 1000 * per_token + fixed


def test_what_mamba2_keeps_for_its_backward_pass() -> None:
    # norm 8h and a rsqrt; the projection, the scan's output and a rsqrt a group; vectors of 8 heads: A, exponential
    hidden, inner, projected = 64, 128, 296
    per_token = 8 * hidden + 4 + 2 * projected + 2 * inner + 4 * 2
    saved = training_profile(read_model(MAMBA2), Mode()).saved_first
    assert evaluate(saved, 1, 1000) == 1000 * per_token + 4 * 8 * 2


@pytest.mark.parametrize("config", [row[0] for row in COUNTS], ids=[row[0]["model_type"] for row in COUNTS])
def test_every_parameter_gets_one_gradient(config: dict[str, Any]) -> None:
    model = read_model(config)
    assert training_profile(model, Mode()).gradients[6] == 2 * model.parameters
    adapted = training_profile(model, Mode(frozen=True, adapter=Adapter(4, ("in_proj",), "half")), "none", False, False)
    uses = sum(tensor.module == "in_proj" for tensor in model.tensors())
    shape = next(tensor.shape for tensor in model.tensors() if tensor.module == "in_proj")
    assert adapted.gradients[6] == 2 * uses * 4 * sum(shape)


@pytest.mark.parametrize(
    ("config", "change", "field"),
    [
        (MAMBA2, {"num_heads": 7}, "config.num_heads"),
        (BAMBA, {"mamba_n_heads": 0}, "config.mamba_n_heads"),
        (BAMBA, {"num_attention_heads": 0}, "config.num_attention_heads"),
        (FALCON_H1, {"mamba_d_head": 10}, "config.mamba_n_heads"),
        (ZAMBA, {"layers_block_type": ["mamba"]}, "config.layers_block_type"),
        (ZAMBA, {"layers_block_type": ["mamba"] * 4 + ["conv"]}, "config.layers_block_type"),
        (ZAMBA, {"n_mamba_heads": 3}, "config.hidden_size"),
        (ZAMBA2, {"layers_block_type": None}, "config.layers_block_type"),
        (ZAMBA2, {"n_mamba_heads": 3}, "config.hidden_size"),
    ],
)
def test_figures_that_make_no_sense_are_refused(config: dict[str, Any], change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_model({**config, **change})
    assert caught.value.field == field
