"""Llama's kin and the first large models: what a layer keeps and a step needs, against counted allocations.

`counted_kin.json` was counted with torch 2.13.0, transformers 5.23.0 and peft 0.21.2: allocations on fake CUDA
tensors, unrounded, two sequences of 256 tokens. No published model has these sizes.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.model import Model
from calculator.profile import inference_profile, settled, shared_tables, training_profile
from calculator.tape import FLOAT, Adapter, Mode, evaluate
from calculator.trace import trace

COUNTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "counted_kin.json").read_text())
LENGTH, SEQUENCES = 256, 2
IDS = 8 * LENGTH * SEQUENCES
BESIDE = 8 * LENGTH + 4_096  # bytes: position ids, norms made anew under autocast, states of random generators

MODES = {
    "bf16": Mode(),
    "eager": Mode(attention="eager"),
    "float32": Mode(weights=FLOAT),
    "autocast": Mode(weights=FLOAT, autocast=True),
}
STEPS = {
    "step": Mode(),
    "eager_step": Mode(attention="eager"),
    "checkpointed": Mode(),
    "lora": Mode(frozen=True, adapter=Adapter(8, ("all-linear",), FLOAT)),
}
SAVED = [(name, mode) for name, row in COUNTED.items() for mode in row["saved"]]
PEAKS = [(name, phase) for name, row in COUNTED.items() for phase in row["peaks"]]


def model_of(name: str) -> Model:
    """The small configuration as a model."""
    return read_model(COUNTED[name]["config"])


def mode_of(model: Model, mode: Mode, **changes: Any) -> Mode:
    """The mode with the windows that 256 tokens exceed."""
    exceeded = frozenset(window for window in model.windows if window <= LENGTH)
    return settled(model, replace(mode, exceeded=exceeded, **changes))


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_counted_to_the_last(name: str) -> None:
    assert model_of(name).parameters == COUNTED[name]["parameters"]


@pytest.mark.parametrize(("name", "mode"), SAVED)
def test_a_layer_keeps_what_was_counted(name: str, mode: str) -> None:
    model = model_of(name)
    how = mode_of(model, MODES[mode])
    kept = trace(model.layers[1], how, model.hidden, how.hidden, shared_tables(model, how)).saved
    assert evaluate(kept, SEQUENCES, LENGTH) == pytest.approx(COUNTED[name]["saved"][mode], abs=BESIDE)


@pytest.mark.parametrize(("name", "phase"), PEAKS)
def test_a_step_needs_what_was_counted(name: str, phase: str) -> None:
    model, row = model_of(name), COUNTED[name]
    held = 2 * model.parameters
    step = phase.removeprefix("eager_")
    if step in ("prefill", "decode"):
        how = mode_of(model, Mode(step=step, attention="eager" if step != phase else "sdpa"))
        need = inference_profile(model, how).need(step, SEQUENCES, LENGTH + (step == "decode"))
        held += IDS
    else:
        frozen = phase == "lora"
        how = mode_of(model, STEPS[phase])
        profile = training_profile(model, how, "full" if phase == "checkpointed" else "none", False, not frozen)
        need = max(profile.need(part, SEQUENCES, LENGTH) for part in profile.phases)
        held += 2 * IDS + (4 * row["adapters"] if frozen else 0)
    assert held + need == pytest.approx(row["peaks"][phase], rel=5e-4, abs=BESIDE)


# model type, fields that make no sense, the field the message names
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("exaone4", {"num_key_value_heads": 4, "layer_types": ["full_attention"]}, "layer_types"),
    ("nemotron", {"num_attention_heads": 0}, "num_attention_heads"),
    ("nemotron-nas", {}, "block_configs"),
    ("nemotron-nas", {"block_configs": [{"attention": {"n_heads_in_group": 3}}] * 2}, "n_heads_in_group"),
    ("qwen", {"intermediate_size": 511}, "intermediate_size"),
    ("chatglm", {"multi_query_attention": True, "multi_query_group_num": 3, "ffn_hidden_size": 64}, "multi_query"),
]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}


@pytest.mark.parametrize(("kind", "change", "field"), BAD, ids=[f"{kind}-{field}" for kind, _, field in BAD])
def test_figures_that_make_no_sense_are_refused(kind: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig, match=field):
        read_model({"model_type": kind, **SIZES, **change})


# model type, further fields, parameters by hand, elements a token of the cache
PUBLISHED = [
    # EXAONE 3, tied: 100·64 + 2·(2·64·64 + 2·64·32 + 3·64·96 + 2·64) + 64
    ("exaone", {"num_key_value_heads": 2}, 6_400 + 2 * (12_288 + 18_432 + 128) + 64, 2 * 2 * 32),
    # Qwen 1, untied: 2·100·64 + 2·(64·192 + 192 + 64·64 + 3·64·48 + 2·64) + 64
    ("qwen", {"kv_channels": 16}, 12_800 + 2 * (12_288 + 192 + 4_096 + 9_216 + 128) + 64, 2 * 2 * 64),
    # Baichuan, untied: 2·100·64 + 2·(4·64·64 + 3·64·96 + 2·64) + 64
    ("baichuan", {}, 12_800 + 2 * (16_384 + 18_432 + 128) + 64, 2 * 2 * 64),
    # InternLM 1, a bias on all four: Baichuan's and 2·4·64
    ("internlm", {}, 12_800 + 2 * (16_384 + 256 + 18_432 + 128) + 64, 2 * 2 * 64),
    # InternLM 2, two key-value heads
    ("internlm2", {"num_key_value_heads": 2}, 12_800 + 2 * (12_288 + 18_432 + 128) + 64, 2 * 2 * 32),
    # Orion: norms with a bias
    ("orion", {}, 12_800 + 2 * (16_384 + 18_432 + 256) + 128, 2 * 2 * 64),
    # MiniCPM, tied
    ("minicpm", {}, 6_400 + 2 * (16_384 + 18_432 + 128) + 64, 2 * 2 * 64),
    # ChatGLM: q, k and v of 64 + 2·16 with a bias, one key-value head
    (
        "chatglm",
        {"kv_channels": 16, "multi_query_attention": True, "add_qkv_bias": True, "ffn_hidden_size": 96},
        12_800 + 2 * (64 * 96 + 96 + 4_096 + 18_432 + 128) + 64,
        2 * 2 * 16,
    ),
    # Phi-3-small, tied: biases, layer norms
    (
        "phi3small",
        {"ff_intermediate_size": 96},
        6_400 + 2 * (64 * 192 + 192 + 4_096 + 64 + 64 * 192 + 192 + 96 * 64 + 64 + 256) + 128,
        2 * 2 * 64,
    ),
    # MiMo: a bias on q, k and v
    ("mimo", {}, 12_800 + 2 * (16_384 + 192 + 18_432 + 128) + 64, 2 * 2 * 64),
    # DeciLM: attention of 1 key-value head and 2·2·64/3 → 256 wide; then no attention, 4·2·64/3 → 256 wide
    (
        "nemotron-nas",
        {
            "block_configs": [
                {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 2.0}},
                {"attention": {"no_op": True}, "ffn": {"ffn_mult": 4.0}},
            ]
        },
        12_800 + (2 * 4_096 + 2 * 1_024 + 3 * 64 * 256 + 128) + (3 * 64 * 256 + 64) + 64,
        2 * 16,
    ),
]


@pytest.mark.parametrize(("kind", "more", "parameters", "cached"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_families_of_published_modeling_files(kind: str, more: dict[str, Any], parameters: int, cached: int) -> None:
    model = read_model({"model_type": kind, **SIZES, **more})
    assert model.parameters == sum(model.components().values()) == parameters
    assert model.cache(10) == 10 * cached
    for step in ("prefill", "decode"):
        assert inference_profile(model, Mode(step=step)).need(step, 2, 16) > 0
    assert training_profile(model, Mode()).need("backward", 2, 16) > 0


def test_an_encoder_may_come_without_a_head() -> None:
    sizes = {"model_type": "bert", **SIZES, "max_position_embeddings": 32}
    bare, headed = read_model({**sizes, "architectures": ["BertModel"]}), read_model(sizes)
    # 64·64 + 64 of the pooler; 64·64 + 64 + 2·64 + 100 before the tied matrix
    assert bare.components()["other"] == 4_160 and bare.components()["lm_head"] == 0
    assert headed.components()["lm_head"] == 4_160 + 128 + 100
    assert bare.cache(100) == headed.cache(100) == 0


def test_a_decoder_keeps_target_and_source() -> None:
    sizes = {"model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4}
    model = read_model({**sizes, "num_decoder_layers": 2, "vocab_size": 100})
    assert model.cache(10) == 2 * 2 * 2 * 64 * 10  # two layers, keys and values, of target and of source
    for step in ("prefill", "decode"):
        assert inference_profile(model, Mode(step=step)).need(step, 2, 16) > 0


def test_layers_that_predict_further_tokens_are_counted_apart() -> None:
    model = read_model({"model_type": "mimo", **SIZES, "num_nextn_predict_layers": 2})
    layer = 16_384 + 192 + 18_432 + 128
    assert model.speculative_parameters == 2 * (layer + 2 * 64 * 64 + 3 * 64)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("llama", 6_738_415_616), ("mistral", 7_241_732_096)],  # Llama-2-7b and Mistral-7B-v0.1
)
def test_absent_fields_take_the_defaults_of_the_class(kind: str, parameters: int) -> None:
    assert read_model({"model_type": kind}).parameters == parameters
