"""Later decoders: what a layer keeps and a step needs, against counted allocations; counts and refusals.

`counted_text.json` was counted with torch 2.13.0, transformers 5.23.0 and peft 0.21.2: allocations on fake CUDA
tensors, unrounded, two sequences of 128 tokens, adapters of rank 16. No published model has these sizes.
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

COUNTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "counted_text.json").read_text())
LENGTH, SEQUENCES = 128, 2
IDS = 8 * LENGTH * SEQUENCES
SMALL = 64  # bytes: random states of flash attention's dropout
BESIDE = 8 * LENGTH + 4_096  # bytes: position ids, frequencies of rotary tables, corrections of routers

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
    "lora": Mode(frozen=True, adapter=Adapter(16, ("all-linear",), FLOAT)),
}
SAVED = [(name, mode) for name, row in COUNTED.items() for mode in row["saved"]]
PEAKS = [(name, phase) for name, row in COUNTED.items() for phase in row["peaks"]]


def mode_of(model: Model, mode: Mode, **changes: Any) -> Mode:
    """The mode with the windows that the sequences exceed."""
    exceeded = frozenset(window for window in model.windows if window <= LENGTH)
    return settled(model, replace(mode, exceeded=exceeded, **changes))


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_counted_to_the_last(name: str) -> None:
    model = read_model(COUNTED[name]["config"])
    assert model.parameters == COUNTED[name]["parameters"]
    assert sum(model.components().values()) == model.parameters


@pytest.mark.parametrize(("name", "mode"), SAVED)
def test_a_layer_keeps_what_was_counted(name: str, mode: str) -> None:
    model = read_model(COUNTED[name]["config"])
    how = mode_of(model, MODES[mode])
    layer = model.layers[max(1, len(model.layers) // 2)]
    kept = trace(layer, how, model.hidden * model.streams, how.hidden, shared_tables(model, how)).saved
    assert evaluate(kept, SEQUENCES, LENGTH) == pytest.approx(COUNTED[name]["saved"][mode], abs=SMALL)


@pytest.mark.parametrize(("name", "phase"), PEAKS)
def test_a_step_needs_what_was_counted(name: str, phase: str) -> None:
    row = COUNTED[name]
    model = read_model(row["config"])
    held = 2 * model.parameters
    step = phase.removeprefix("eager_")
    if step in ("prefill", "decode"):
        how = mode_of(model, Mode(step=step, attention="sdpa" if step == phase else "eager"))
        need = inference_profile(model, how, all_logits=True).need(step, SEQUENCES, LENGTH + (step == "decode"))
        held += IDS
    else:
        frozen = phase == "lora"
        how = mode_of(model, STEPS[phase])
        profile = training_profile(model, how, "full" if phase == "checkpointed" else "none", False, not frozen)
        need = max(profile.need(part, SEQUENCES, LENGTH) for part in profile.phases)
        held += 2 * IDS + (4 * row["adapters"] if frozen else 0)
    assert held + need == pytest.approx(row["peaks"][phase], rel=5e-4, abs=BESIDE)


# model type, further fields, elements a sequence keeps of a token, and whatever its length
CACHES: list[tuple[str, dict[str, Any], int, int]] = [
    # two attentions a layer, of a latent of 16 and a rotary key of 8
    (
        "longcat_flash",
        {"num_layers": 2, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "n_routed_experts": 4, "moe_topk": 2},
        2 * 2 * 24,
        0,
    ),
    # one full layer; a 6 × 12 matrix for each of 4 heads and the last 4 inputs of 2·24 + 48 channels
    (
        "olmo_hybrid",
        {"linear_key_head_dim": 6, "layer_types": ["linear_attention", "full_attention"]},
        2 * 2 * 16,
        4 * 6 * 12 + 4 * 96,
    ),
    # latent attention in the second layer; four 8 × 8 matrices and the last 4 inputs of 3·32 channels in the first
    (
        "bailing_hybrid",
        {"layer_group_size": 2, "head_dim": 8, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "num_experts": 8},
        24,
        4 * 64 + 4 * 96,
    ),
    # keys and values of two heads of 16, in both layers
    ("jetmoe", {}, 2 * 2 * 2 * 16, 0),
    # a latent of 16 and a rotary key of 8, in both layers
    (
        "mistral4",
        {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2},
        2 * 24,
        0,
    ),
    # the same and the indexer's key of 12, in a layer that rotates and in one that does not
    (
        "mistral_large4_text",
        {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "no_rope_layers": [1, 0], "index_head_dim": 12},
        24 + 16 + 2 * 12,
        0,
    ),
    # the same where the second layer takes the latents of the first
    (
        "mistral_large4_text",
        {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "kv_source_layers": [0, 0], "index_head_dim": 12},
        24 + 2 * 12,
        0,
    ),
    # a latent of 16, a rotary key of 8 and the indexer's of 12; in the window a latent of 20 and a rotary key of 8
    (
        "dots3_note_text",
        {
            **{"kv_lora_rank": 16, "qk_rope_head_dim": 8, "index_head_dim": 12, "swa_kv_lora_rank": 20},
            **{"swa_head_dim": 16, "swa_qk_nope_head_dim": 8},
            "layer_types": ["full_attention", "sliding_attention"],
        },
        36 + 28,
        0,
    ),
    # a latent of 16 and a rotary key of 8, and the indexer's key where a layer has one
    (
        "hy_v4",
        {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "index_head_dim": 12, "indexer_types": ["full", "shared"]},
        2 * 24 + 12,
        0,
    ),
    # two heads' keys and values and the indexer's key in the second layer; in the first eight 4 × 8 matrices, the last
    # 4 inputs of 2·16 + 64 channels, and the last 9 of four streams of 64
    (
        "qwen4_exp_text",
        {
            "layer_types": ["linear_attention", "full_attention"],
            **{"linear_num_key_heads": 4, "linear_num_value_heads": 8},
            **{"linear_key_head_dim": 4, "linear_value_head_dim": 8},
            **{"num_experts": 4, "num_experts_per_tok": 2, "ple_layer_ids": [1], "ngram_vocab_size_base": 50},
            **{"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 24},
            **{"indexer_budget": 32, "indexer_compress_ratio": 8},
        },
        2 * 2 * 16 + 24,
        8 * 32 + 4 * 96 + 9 * 256,
    ),
    # no cache at all
    ("openai-gpt", {"n_embd": 64, "n_head": 4, "n_layer": 2}, 0, 0),
]


@pytest.mark.parametrize(("kind", "change", "token", "state"), CACHES, ids=[each[0] for each in CACHES])
def test_a_sequence_keeps_what_the_layers_say(kind: str, change: dict[str, Any], token: int, state: int) -> None:
    model = read_model({"model_type": kind, **SIZES, **change})
    assert (model.cache(10), model.state()) == (10 * token, state)


SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "head_dim": 16,
    "sliding_window": 32,
}
DELTA: dict[str, Any] = {"layer_types": ["linear_attention"] * 2}
# model type, fields that make no sense, the field the message names
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("afmoe", {"num_key_value_heads": 3}, "num_attention_heads"),
    ("afmoe", {"layer_types": ["sliding_attention", "chunked"]}, "layer_types"),
    ("afmoe", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers"),
    ("cohere2_moe", {"first_k_dense_replace": 1}, "prefix_dense_intermediate_size"),
    ("cohere2_moe", {"expert_selection_fn": "best"}, "expert_selection_fn"),
    ("cohere2_moe", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
    ("dots1", {}, "n_routed_experts"),
    ("dots1", {"n_routed_experts": 8, "num_experts_per_tok": 9, "n_shared_experts": 1}, "num_experts_per_tok"),
    ("dots1", {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 3}, "n_routed"),
    ("exaone_moe", {"mlp_layer_types": ["sparse"]}, "mlp_layer_types"),
    ("flex_olmo", {"num_experts": 0}, "num_experts"),
    ("granite_swa", {"layer_rope_theta": ["a", 0]}, "layer_rope_theta"),
    ("laguna", {"num_key_value_heads": 4, "num_attention_heads_per_layer": [4, 6]}, "num_attention_heads"),
    ("laguna", {"num_key_value_heads": 4, "num_attention_heads_per_layer": [4, 0]}, "num_attention_heads"),
    ("lfm2_moe", {}, "layer_types"),
    ("codegen", {"n_head": 6, "n_embd": 60}, "n_head"),
    ("codegen", {"n_head": 4, "n_embd": 64, "rotary_dim": 32}, "rotary_dim"),
    ("ctrl", {"n_head": 3, "n_embd": 64}, "n_embd"),
    ("gpt_neox_japanese", {"intermediate_multiple_size": 0}, "intermediate_multiple_size"),
    ("openai-gpt", {"n_head": 0, "n_embd": 64}, "n_head"),
    ("persimmon", {"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
    ("xglm", {"attention_heads": 5, "d_model": 64}, "d_model"),
    ("axk2", {"gated_norm_rank": 0, "qk_rope_head_dim": 8}, "gated_norm_rank"),
    ("axk2", {"index_head_dim": 8}, "index_head_dim"),
    ("flint", {"mlp_only_layers": [[1]]}, "mlp_only_layers"),
    ("gpt_neox_japanese", {"intermediate_multiple_size": float("nan")}, "intermediate_multiple_size"),
    ("flint", {"layer_types": ["sliding_attention"]}, "layer_types"),
    ("bailing_hybrid", {"n_group": 7, "num_experts": 8}, "num_experts"),
    ("bailing_hybrid", {"layer_group_size": 0}, "layer_group_size"),
    ("diffllama", {"num_key_value_heads": 1}, "num_key_value_heads"),
    ("jetmoe", {"num_local_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok"),
    ("lfm3", {"layer_types": ["conv", "linear"]}, "layer_types"),
    ("longcat_flash", {"num_hidden_layers": 3}, "num_hidden_layers"),
    ("modernbert-decoder", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers"),
    ("olmo_hybrid", {"linear_num_key_heads": 4, "linear_num_value_heads": 6}, "linear_num_value_heads"),
    ("youtu", {"kv_lora_rank": 0}, "kv_lora_rank"),
    ("axk1", {"q_lora_rank": None}, "q_lora_rank"),
    ("mistral4", {"n_routed_experts": 4, "n_group": 4}, "n_group"),
    ("mistral4", {"n_routed_experts": 4, "n_group": 3}, "n_routed_experts"),
    ("mistral_large4_text", {"kv_source_layers": [0, 2]}, "kv_source_layers"),
    ("mistral_large4_text", {"kv_source_layers": [0, True]}, "kv_source_layers"),
    ("mistral_large4_text", {"no_rope_layers": [1]}, "no_rope_layers"),
    ("mistral_large4_text", {"no_rope_layer_interval": 0}, "no_rope_layer_interval"),
    ("mistral_large4_text", {"indexer_types": ["shared", "full"]}, "indexer_types"),
    ("mistral_large4_text", {"index_head_dim": 8}, "index_head_dim"),
    ("dots3_note_text", {"q_lora_rank": None}, "q_lora_rank"),
    ("dots3_note_text", {"swa_head_dim": 16}, "swa_head_dim"),
    ("dots3_note_text", {"layer_types": ["full_attention", "linear"]}, "layer_types"),
    ("dots3_note_text", {"per_layer_config": {"1": {"v_head_dim": 64}}}, "per_layer_config"),
    ("dots3_note_text", {"use_dsa": False}, "use_dsa"),
    ("hy_v4", {"q_lora_rank": None}, "q_lora_rank"),
    ("hy_v4", {"indexer_types": ["shared", "full"]}, "indexer_types"),
    ("hy_v4", {"hc_mult": 0}, "hc_mult"),
    ("qwen4_exp_text", {"layer_types": ["full_attention"] * 2}, "indexer_kv_heads"),
    ("qwen4_exp_text", {"layer_types": ["full_attention"]}, "layer_types"),
    ("qwen4_exp_text", {**DELTA, "ple_layer_ids": [3]}, "ple_layer_ids"),
    ("qwen4_exp_text", {**DELTA, "ple_layer_ids": [1], "heads_per_ngram": 5}, "ple_embed_dim"),
    ("qwen4_exp_text", {**DELTA, "ple_layer_ids": [1], "ngram_vocab_size_base": 10**15}, "ngram_vocab_size_base"),
    ("qwen4_exp_text", {**DELTA, "ple_layer_ids": [1], "heads_per_ngram": 10**6}, "heads_per_ngram"),
    ("qwen4_exp_text", {**DELTA, "hc_count": 1}, "hc_count"),
    ("qwen4_exp_text", {**DELTA, "output_gate_type": "relu"}, "output_gate_type"),
]


@pytest.mark.parametrize(
    ("kind", "change", "field"), BAD, ids=[f"{kind}-{field}-{index}" for index, (kind, _, field) in enumerate(BAD)]
)
def test_figures_that_make_no_sense_are_refused(kind: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig, match=field):
        read_model({"model_type": kind, **SIZES, **change})


# What three layers of Qwen 4 keep more a layer than those of Qwen 3.5 of the same sizes, whose delta rule torch runs in
# Python without its kernels: bytes, counted as those of `counted_text.json`.
STREAMS = {"bf16": 14_312_672 - 8_705_248, "float32": 19_393_760 - 11_336_928, "autocast": 19_620_576 - 10_392_288}


@pytest.mark.parametrize("mode", STREAMS)
def test_streams_keep_what_was_counted_beside_the_layer(mode: str) -> None:
    config = {key: value for key, value in COUNTED["qwen4_ple"]["config"].items() if key != "ple_layer_ids"}

    def kept(kind: str) -> int:
        model = read_model({**config, "model_type": kind})
        how = mode_of(model, MODES[mode])
        saved = trace(model.layers[1], how, model.hidden, how.hidden, shared_tables(model, how)).saved
        return evaluate(saved, SEQUENCES, LENGTH)

    assert kept("qwen4_exp_text") - kept("qwen3_5_moe_text") == pytest.approx(STREAMS[mode], abs=SMALL)


# The same of a layer with tables of n-grams, beside one without.
GRAMS = {"bf16": 22_969_824 - 14_312_672, "float32": 30_375_392 - 19_393_760, "autocast": 29_115_360 - 19_620_576}


@pytest.mark.parametrize("mode", GRAMS)
def test_tables_of_ngrams_keep_what_was_counted(mode: str) -> None:
    model = read_model(COUNTED["qwen4_ple"]["config"])
    how = mode_of(model, MODES[mode])
    plain, grams = (
        evaluate(trace(layer, how, model.hidden, how.hidden, shared_tables(model, how)).saved, SEQUENCES, LENGTH)
        for layer in model.layers[:2]
    )
    assert grams - plain == pytest.approx(GRAMS[mode], rel=1e-3)
