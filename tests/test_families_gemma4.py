"""Gemma 3n and 4: parameters and caches by hand; what a layer keeps and what a step needs, against counted runs."""

from dataclasses import replace
from typing import Any

import pytest

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.profile import inference_profile, training_profile
from calculator.tape import FLOAT, HALF, Adapter, Mode, evaluate

LOCAL, GLOBAL = "sliding_attention", "full_attention"
SAME: dict[str, Any] = {  # keys serve as values in global layers, which have one head of twice the width
    "model_type": "gemma4_text",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "global_head_dim": 128,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "sliding_window": 64,
    "layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
    "vocab_size": 1000,
    "final_logit_softcapping": 30.0,
}
SHARING: dict[str, Any] = {  # an embedding for every layer; the last four take keys and values of earlier ones
    "model_type": "gemma4_text",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "global_head_dim": 128,
    "hidden_size_per_layer_input": 64,
    "use_double_wide_mlp": True,
    "num_kv_shared_layers": 4,
    "sliding_window": 64,
    "layer_types": [LOCAL, LOCAL, LOCAL, GLOBAL] * 2,
    "vocab_size": 1000,
    "vocab_size_per_layer_input": 1000,
    "final_logit_softcapping": 30.0,
}
MIXED: dict[str, Any] = {  # sixteen experts beside each dense layer
    **SAME,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "layer_types": [LOCAL, LOCAL, LOCAL, GLOBAL],
    "final_logit_softcapping": None,
    "enable_moe_block": True,
    "num_experts": 16,
    "top_k_experts": 4,
    "moe_intermediate_size": 128,
}
STREAMS: dict[str, Any] = {  # Gemma 3n: four hidden states, gates that are sparse in the first two layers
    "model_type": "gemma3n_text",
    "hidden_size": 256,
    "intermediate_size": [384] * 6,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_size_per_layer_input": 64,
    "num_kv_shared_layers": 2,
    "sliding_window": 64,
    "layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
    "vocab_size": 1000,
    "vocab_size_per_layer_input": 1000,
    "laurel_rank": 16,
    "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0, 0.0, 0.0],
}

# local: q and o 256·256, k and v 256·128, norms of 64; global: q and o 256·512, k 256·128, norms of 128
SAME_LAYERS = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 2 * 64) + 2 * (2 * 256 * 512 + 256 * 128 + 2 * 128)
SAME_COUNT = 1000 * 256 + SAME_LAYERS + 6 * (3 * 256 * 768 + 4 * 256) + 256
# own keys and values: one head of 64 or 128; a matrix to 64 and back and a norm in every layer
OWN = 3 * (2 * 256 * 256 + 2 * 256 * 64 + 2 * 64) + 2 * 256 * 512 + 2 * 256 * 128 + 2 * 128
TAKEN = 3 * (2 * 256 * 256 + 64) + 2 * 256 * 512 + 128
WIDE = 4 * 3 * 256 * 768 + 4 * 3 * 256 * 1536 + 8 * (4 * 256 + 2 * 256 * 64 + 256)
SHARING_COUNT = 1000 * 256 + 1000 * 8 * 64 + 256 * 8 * 64 + 64 + OWN + TAKEN + WIDE + 256

# three local layers and a global one; dense 3·256·384, experts 16·3·256·128, router 256·16 + 256 + 16, seven norms
MIXED_ATTENTION = 3 * (2 * 256 * 256 + 2 * 256 * 128 + 2 * 64) + 2 * 256 * 512 + 256 * 128 + 2 * 128
EXPERTS = 16 * 3 * 256 * 128
MIXED_COUNT = 1000 * 256 + MIXED_ATTENTION + 4 * (3 * 256 * 384 + EXPERTS + 256 * 17 + 16 + 7 * 256) + 256

# attention as local above, four layers with k and v; feed-forward; seven norms of the width of a layer; own embedding;
# a narrow residual of 16; of the streams a scale, 4·4, 16·4 and a router of 4 rows; three matrices in, three out
STREAM_LAYER = 2 * 256 * 256 + 64 + 3 * 256 * 384 + 7 * 256 + 2 * 256 * 64 + 2 * 256 * 16 + 256 + 16 + 64 + 4 * 256
STREAMS_COUNT = 1000 * 256 + 1000 * 6 * 64 + 256 * 6 * 64 + 64 + 6 * STREAM_LAYER + 4 * (2 * 256 * 128 + 64)
STREAMS_COUNT += 6 * 256 * 256 + 256


@pytest.mark.parametrize(
    ("config", "count", "idle"),
    [
        (STREAMS, STREAMS_COUNT, 0),
        (SAME, SAME_COUNT, 0),
        (SHARING, SHARING_COUNT, 0),
        (MIXED, MIXED_COUNT, 4 * EXPERTS * 3 // 4),
    ],
    ids=["streams", "same", "sharing", "mixed"],
)
def test_parameters_are_those_of_a_hand_count(config: dict[str, Any], count: int, idle: int) -> None:
    model = read_model(config)
    assert model.parameters == count
    assert model.active_parameters == count - idle  # four experts of sixteen serve a token


def test_a_vision_tower_counts_as_multimodal() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 16, "patch_size": 4, "position_embedding_size": 10}
    model = read_model({"model_type": "gemma4", "text_config": SAME, "vision_config": vision})
    block = 4 * 32 * 32 + 2 * 16 + 3 * 32 * 48 + 4 * 32
    assert model.components()["multimodal"] == 32 * 48 + 2 * 10 * 32 + 2 * block + 32 * 256
    assert model.parameters == SAME_COUNT + model.components()["multimodal"]


@pytest.mark.parametrize(
    ("config", "tokens", "elements"),
    [
        (SAME, 10, 10 * (4 * 2 * 128 + 2 * 2 * 128)),
        (SAME, 100, 64 * 4 * 2 * 128 + 100 * 2 * 2 * 128),  # local layers keep their window
        (STREAMS, 10, 10 * 4 * 2 * 128),  # the last two take theirs from the third and the fourth
        (SHARING, 10, 10 * (3 * 2 * 64 + 2 * 128)),  # four layers of eight make keys and values
    ],
)
def test_caches_are_those_of_layers_with_keys_of_their_own(config: dict[str, Any], tokens: int, elements: int) -> None:
    assert read_model(config).cache(tokens) == elements


# Bytes that autograd keeps of the first layer, two sequences of 256 tokens: counted with torch 2.13.0 and transformers
# 5.23.0 on fake CUDA tensors. Seeds of kernels and constants, up to 100 bytes, are left out of ours.
ALL, QUERY_VALUE = Adapter(16, ("all-linear",), FLOAT), Adapter(16, ("q_proj", "v_proj"), FLOAT)
KEPT = [
    (SAME, Mode(), 11_072_016),
    (SAME, Mode(attention="eager"), 13_947_392),
    (SAME, Mode(weights=FLOAT, autocast=True), 13_426_704),
    (SAME, Mode(weights=FLOAT), 16_048_144),
    (SAME, Mode(frozen=True, adapter=QUERY_VALUE), 7_191_824),
    (SAME, Mode(frozen=True, adapter=ALL), 11_296_272),
    (SHARING, Mode(), 11_789_840),
    (SHARING, Mode(attention="eager"), 15_058_432),
    (SHARING, Mode(weights=FLOAT, autocast=True), 14_340_112),
    (SHARING, Mode(weights=FLOAT), 16_830_480),
    (SHARING, Mode(frozen=True, adapter=QUERY_VALUE), 7_258_384),
    (SHARING, Mode(frozen=True, adapter=ALL), 12_014_096),
    (STREAMS, Mode(), 17_511_986),
    (STREAMS, Mode(attention="eager"), 20_387_362),
    (STREAMS, Mode(weights=FLOAT), 25_725_012),
    (STREAMS, Mode(frozen=True, adapter=ALL), 17_135_154),
    (MIXED, Mode(), 18_036_304),
    (MIXED, Mode(attention="eager"), 20_911_680),
    (MIXED, Mode(frozen=True, adapter=QUERY_VALUE), 10_871_120),
    (MIXED, Mode(frozen=True, adapter=ALL), 14_746_192),
]


@pytest.mark.parametrize(("config", "mode", "counted"), KEPT)
def test_what_the_first_layer_keeps_is_what_was_counted(config: dict[str, Any], mode: Mode, counted: int) -> None:
    mode = replace(mode, exceeded=frozenset({64}))
    saved = training_profile(read_model(config), mode, first_input_grad=not mode.frozen).saved_first
    assert 0 <= counted - evaluate(saved, 2, 256) <= 100


# Peaks of a prefill of two sequences of 256 tokens in bfloat16 and of the step after it, counted likewise.
PEAKS = [
    (SAME, "sdpa", False, 15_607_102, 12_005_510),
    (SAME, "eager", False, 19_211_582, 12_082_522),
    (SHARING, "sdpa", False, 24_307_004, 20_149_892),  # from the first layer that shares on, the last token alone
    (SHARING, "sdpa", True, 26_666_300, 20_149_892),
    (SHARING, "eager", False, 27_911_484, 20_358_488),
    (STREAMS, "sdpa", False, 18_208_124, 9_568_716),
    (STREAMS, "eager", False, 20_497_788, 9_658_080),
    (MIXED, "sdpa", False, 26_579_762, 18_398_714),
    (MIXED, "eager", False, 27_038_514, 18_399_934),
]


@pytest.mark.parametrize(("config", "attention", "every", "prefill", "decode"), PEAKS)
def test_inference_peaks_are_what_was_counted(
    config: dict[str, Any], attention: str, every: bool, prefill: int, decode: int
) -> None:
    model = read_model(config)
    for step, length, counted in (("prefill", 256, prefill), ("decode", 257, decode)):
        mode = Mode(step=step, weights=HALF, attention=attention, exceeded=frozenset({64}))
        need = inference_profile(model, mode, every).need(step, 2, length)
        ours = 2 * model.parameters + 8 * 2 * 256 + 8 * 2 + need
        assert ours == pytest.approx(counted, rel=3e-4)


# Peaks of a training step of two sequences of 256 tokens with SGD, at the loss, counted likewise.
LOSSES = [
    (SHARING, Mode(), 138_973_612),
    (SHARING, Mode(attention="eager"), 167_088_412),
    (STREAMS, Mode(), 124_099_984),
    (STREAMS, Mode(attention="eager"), 142_662_944),
    (STREAMS, Mode(weights=FLOAT), 190_954_104),
]


@pytest.mark.parametrize(("config", "mode", "counted"), LOSSES)
def test_training_peaks_are_what_was_counted(config: dict[str, Any], mode: Mode, counted: int) -> None:
    model = read_model(config)
    profile = training_profile(model, replace(mode, exceeded=frozenset({64})))
    width = 4 if mode.weights == FLOAT else 2
    assert profile.gradients[6] == width * model.parameters
    ours = width * model.parameters + 16 * 2 * 256 + profile.need("loss", 2, 256)
    assert ours == pytest.approx(counted, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer_types": [LOCAL]}, "config.layer_types"),
        ({"layer_types": ["linear"] * 8}, "config.layer_types"),
        ({"num_kv_shared_layers": 9}, "config.num_kv_shared_layers"),
        ({"num_kv_shared_layers": 7}, "config.num_kv_shared_layers"),
        ({"num_key_value_heads": 3}, "config.num_attention_heads"),
        ({"head_dim": 0}, "config.head_dim"),
    ],
)
def test_figures_that_make_no_sense_are_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_model({**SHARING, **change})
    assert caught.value.field == field
