"""Hybrids with experts: parameters, caches and states by hand; what layers without a scan need, as counted."""

from typing import Any

import pytest

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.profile import inference_profile, training_profile
from calculator.tape import FLOAT, Adapter, Mode, evaluate

HEADS: dict[str, Any] = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000}
JAMBA: dict[str, Any] = {
    **HEADS,
    "model_type": "jamba",
    "num_hidden_layers": 4,
    "intermediate_size": 384,
    "attn_layer_period": 1,
    "attn_layer_offset": 0,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
GRANITE: dict[str, Any] = {
    **HEADS,
    "model_type": "granitemoehybrid",
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "shared_intermediate_size": 192,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "layer_types": ["attention"] * 4,
    "mamba_n_heads": 8,
    "tie_word_embeddings": True,
}
NEMOTRON: dict[str, Any] = {
    **HEADS,
    "model_type": "nemotron_h",
    "head_dim": 64,
    "intermediate_size": 384,
    "hybrid_override_pattern": "*E*-",
    "moe_intermediate_size": 128,
    "moe_shared_expert_intermediate_size": 192,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "moe_latent_size": 128,
    "mamba_num_heads": 8,
    "mamba_head_dim": 64,
}
QWEN: dict[str, Any] = {
    **HEADS,
    "model_type": "qwen3_next",
    "num_hidden_layers": 4,
    "head_dim": 64,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "layer_types": ["full_attention"] * 4,
}
DENSE_QWEN: dict[str, Any] = {
    **HEADS,
    "model_type": "qwen3_5_text",
    "num_hidden_layers": 4,
    "head_dim": 64,
    "intermediate_size": 384,
    "layer_types": ["full_attention"] * 4,
}
MINIMAX: dict[str, Any] = {
    **HEADS,
    "model_type": "minimax",
    "num_hidden_layers": 4,
    "head_dim": 64,
    "intermediate_size": 384,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "layer_types": ["full_attention"] * 4,
}
KIMI: dict[str, Any] = {
    "model_type": "kimi_linear",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_token": 2,
    "vocab_size": 100,
    "linear_attn_config": {"head_dim": 16, "num_heads": 4, "short_conv_kernel_size": 4, "full_attn_layers": [4]},
}

ATTENTION = 2 * 256 * 256 + 2 * 256 * 128  # of JAMBA, GRANITE, NEMOTRON and MINIMAX
JAMBA_EXPERTS = 8 * 3 * 256 * 384
GATED = 256 * 512 + 2 * 256 * 128 + 256 * 256 + 2 * 64
QWEN_EXPERTS = 16 * 3 * 256 * 128
LATENT = 2 * 256 * 128 + 16 * 256 + 16 * 2 * 128 * 128 + 2 * 256 * 192
KIMI_DELTA = 3 * 64 * 64 + 3 * 64 * 4 + 2 * (64 * 16 + 16 * 64) + 64 * 4 + 64 + 4 + 16 + 64 * 64
KIMI_LATENT = 64 * 4 * 12 + 64 * 20 + 16 + 16 * 4 * 16 + 4 * 8 * 64
KIMI_EXPERTS = 8 * 3 * 64 * 32

COUNTS = [
    # every second layer has experts; two norms a layer, one at the end
    (
        JAMBA,
        2 * 256_000 + 4 * (ATTENTION + 512) + 2 * (3 * 256 * 384 + 8 * 256 + JAMBA_EXPERTS) + 256,
        2 * JAMBA_EXPERTS * 3 // 4,
    ),
    (
        GRANITE,
        256_000 + 4 * (ATTENTION + 512 + 8 * 256 + 8 * 3 * 256 * 128 + 3 * 256 * 192) + 256,
        4 * 8 * 3 * 256 * 128 * 3 // 4,
    ),
    # attention twice, experts in a space of 128, a feed-forward layer without a gate; one norm a layer
    (NEMOTRON, 2 * 256_000 + 2 * ATTENTION + LATENT + 2 * 256 * 384 + 5 * 256, 16 * 2 * 128 * 128 * 3 // 4),
    (
        QWEN,
        2 * 256_000 + 4 * (GATED + 512 + 16 * 256 + QWEN_EXPERTS + 3 * 256 * 128 + 256) + 256,
        4 * QWEN_EXPERTS * 3 // 4,
    ),
    (MINIMAX, 2 * 256_000 + 4 * (ATTENTION + 512 + 8 * 256 + JAMBA_EXPERTS) + 256, 4 * JAMBA_EXPERTS * 3 // 4),
    (
        KIMI,
        2 * 6_400
        + 3 * KIMI_DELTA
        + KIMI_LATENT
        + 3 * 64 * 96
        + 3 * (8 * 64 + KIMI_EXPERTS + 3 * 64 * 32)
        + 4 * 128
        + 64,
        3 * KIMI_EXPERTS * 3 // 4,
    ),
]


@pytest.mark.parametrize(("config", "count", "idle"), COUNTS, ids=[row[0]["model_type"] for row in COUNTS])
def test_parameters_are_those_of_a_hand_count(config: dict[str, Any], count: int, idle: int) -> None:
    model = read_model(config)
    assert model.parameters == sum(model.components().values()) == count
    assert model.active_parameters == count - idle


LIGHTNING = {**MINIMAX, "attn_type_list": [0, 0, 0, 1], "layer_types": None}
KEPT = [
    ({**JAMBA, "attn_layer_period": 4, "attn_layer_offset": 1}, 2 * 128, [3 * 512 * 16, 3 * 512 * 4]),
    ({**GRANITE, "layer_types": ["mamba"] * 3 + ["attention"]}, 2 * 128, [3 * 512 * 256, 3 * (512 + 512) * 4]),
    ({**NEMOTRON, "hybrid_override_pattern": "M*E-"}, 2 * 128, [512 * 128, (512 + 2 * 8 * 128) * 4]),
    (LIGHTNING, 2 * 128, [3 * 4 * 64 * 64]),  # a matrix a head, in the precision of the activations
    (KIMI, 16 + 4, [3 * 4 * 16 * 16, 3 * 3 * 64 * 4]),  # the latent and the one key of the latent attention
]


@pytest.mark.parametrize(("config", "cache", "states"), KEPT, ids=[row[0]["model_type"] for row in KEPT])
def test_caches_and_states_of_mixed_layers(config: dict[str, Any], cache: int, states: list[int]) -> None:
    model = read_model(config)
    assert model.cache(10) == 10 * cache
    assert [state.elements for state in model.states()] == states


# Two sequences of 256 tokens, counted with torch 2.13.0 and transformers 5.23.0 on fake CUDA tensors: what autograd
# keeps of the first layer (the kernels' random seeds, 24 bytes, are left out of ours), peaks of prefill and decode.
ADAPTER, ALL = Adapter(16, ("q_proj", "v_proj"), FLOAT), Adapter(16, ("all-linear",), FLOAT)
SAVED = [
    (JAMBA, Mode(), 4_468_760),
    (JAMBA, Mode(attention="eager"), 7_868_416),
    (JAMBA, Mode(frozen=True, adapter=ADAPTER), 3_614_744),
    (GRANITE, Mode(), 5_818_424),
    (GRANITE, Mode(attention="eager"), 9_218_080),
    (GRANITE, Mode(frozen=True, adapter=ADAPTER), 4_374_584),
    (NEMOTRON, Mode(), 2_108_440),
    (NEMOTRON, Mode(attention="eager"), 5_508_096),
    (NEMOTRON, Mode(frozen=True, adapter=ADAPTER), 1_908_760),
    (QWEN, Mode(), 10_888_792),
    (QWEN, Mode(attention="eager"), 14_026_304),
    (QWEN, Mode(frozen=True, adapter=ADAPTER), 6_883_672),
    (QWEN, Mode(frozen=True, adapter=ALL), 14_531_160),  # its stacks are adapted, and merged anew in each layer
    ({**QWEN, "model_type": "qwen3_5_moe_text"}, Mode(frozen=True, adapter=ALL), 10_230_360),  # these are not
    (JAMBA, Mode(frozen=True, adapter=ALL), 6_662_168),
    (GRANITE, Mode(frozen=True, adapter=ALL), 6_471_736),
    (NEMOTRON, Mode(frozen=True, adapter=ALL), 3_022_872),
    (MINIMAX, Mode(frozen=True, adapter=ALL), 13_475_896),
    (DENSE_QWEN, Mode(), 7_367_192),
    (DENSE_QWEN, Mode(attention="eager"), 10_504_704),
    (DENSE_QWEN, Mode(frozen=True, adapter=ADAPTER), 4_672_792),
    (MINIMAX, Mode(), 7_149_624),
    (MINIMAX, Mode(attention="eager"), 10_549_280),
    (MINIMAX, Mode(frozen=True, adapter=ADAPTER), 5_378_104),
]
PEAKS = [
    (JAMBA, "sdpa", 19_040_848, 14_419_480),
    (JAMBA, "eager", 21_359_120, 14_835_308),
    (GRANITE, "sdpa", 13_834_832, 10_769_944),
    (GRANITE, "eager", 17_709_584, 11_185_772),
    (NEMOTRON, "sdpa", 8_045_232, 4_257_336),
    (NEMOTRON, "eager", 11_199_024, 4_673_164),
    (QWEN, "sdpa", 23_205_584, 17_725_080),
    (QWEN, "eager", 24_942_160, 18_140_908),
    (DENSE_QWEN, "eager", 13_913_680, 7_096_108),
]


@pytest.mark.parametrize(("config", "mode", "counted"), SAVED)
def test_what_the_first_layer_keeps_is_what_was_counted(config: dict[str, Any], mode: Mode, counted: int) -> None:
    saved = training_profile(read_model(config), mode, first_input_grad=not mode.frozen).saved_first
    assert 0 <= counted - evaluate(saved, 2, 256) <= 24


@pytest.mark.parametrize(("config", "attention", "prefill", "decode"), PEAKS)
def test_inference_peaks_are_what_was_counted(
    config: dict[str, Any], attention: str, prefill: int, decode: int
) -> None:
    model = read_model(config)
    for step, length, counted in (("prefill", 256, prefill), ("decode", 257, decode)):
        need = inference_profile(model, Mode(step=step, attention=attention)).need(step, 2, length)
        assert 2 * model.parameters + 8 * 2 * 256 + 8 * 2 + need == pytest.approx(counted, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "change", "field"),
    [
        (NEMOTRON, {"hybrid_override_pattern": ""}, "config.hybrid_override_pattern"),
        (NEMOTRON, {"hybrid_override_pattern": "MX"}, "config.hybrid_override_pattern"),
        (NEMOTRON, {"num_hidden_layers": 9}, "config.hybrid_override_pattern"),
        (NEMOTRON, {"num_experts_per_tok": 17}, "config.num_experts_per_tok"),
        (JAMBA, {"attn_layer_period": 0}, "config.attn_layer_period"),
        (GRANITE, {"layer_types": ["attention"]}, "config.layer_types"),
        (GRANITE, {"layer_types": ["moe"] * 4}, "config.layer_types"),
        (MINIMAX, {"attn_type_list": [0, 1, 2, 3]}, "config.attn_type_list"),
        (KIMI, {"mlp_layer_types": ["none"] * 4}, "config.mlp_layer_types"),
    ],
)
def test_figures_that_make_no_sense_are_refused(config: dict[str, Any], change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_model({**config, **change})
    assert caught.value.field == field
