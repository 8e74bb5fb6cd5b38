"""llama.cpp: cells, states, buffers and what stays with the CPU, derived by hand from its source."""

from __future__ import annotations

import pytest

from calculator import InferenceSetup
from calculator.architectures import read_model
from calculator.errors import InvalidSetup
from calculator.inference import inference
from calculator.library import library
from calculator.units import MIB

SIZES = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}
QWEN = read_model({**SIZES, "tie_word_embeddings": True})
MIXED = read_model(
    {
        "model_type": "gemma3_text",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 32000,
        "sliding_window": 512,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    }
)


def at(model=QWEN, options=(), **said):
    said.setdefault("quantization", "gguf-q4_k_m")
    setup = InferenceSetup(engine="llama.cpp", engine_options=tuple(sorted(dict(options).items())), **said)
    return inference(model, setup)


@pytest.mark.parametrize(
    ("options", "mebibytes"),
    [
        ({"n_ctx": 2048}, 72.0),  # 36 layers × 2 × 256 × 2048 cells × 2 bytes
        ({"n_ctx": 2049}, 81.0),  # padded to 2,304 cells
        ({"n_ctx": 2048, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}, 38.25),  # 34 bytes for 32 elements
        ({"n_ctx": 2048, "cache_type_k": "q8_0"}, 55.12),
        ({"n_ctx": 2048, "n_gpu_layers": 10}, 72.0),  # the report counts those of the CPU too
    ],
)
def test_cells(options, mebibytes):
    assert at(options=options).engine_report["kv_cache_mib"] == mebibytes


def test_windows_keep_one_graph_more():
    # 5 layers keep min(pad(512 + 512), 8192) = 1,024 cells, one all 8,192; 2 × 512 × 2 bytes each
    cells = 5 * 1024 + 8192
    assert at(MIXED, {"n_ctx": 8192}).engine_report["kv_cache_mib"] == cells * 2048 / MIB
    full = at(MIXED, {"n_ctx": 8192, "swa_full": True}).engine_report["kv_cache_mib"]
    assert full == 6 * 8192 * 2048 / MIB


def test_both_figures_stand_side_by_side():
    cache = at(MIXED, {"n_ctx": 8192}, sequence_length=8192).cache
    assert cache["needed_bytes"] == (5 * 512 + 8192) * 2048
    assert cache["reserved_bytes"] == (5 * 1024 + 8192) * 2048


def test_a_tied_table_is_on_both_sides():
    # Q4_K_M keeps the table as Q6_K: 151,936 × 2,048 × 210 / 256 bytes, on the GPU because it is the output too
    norm = 2048 * 4
    output = at(options={"n_gpu_layers": 1}).phases[0].bytes_of("model_weights")
    assert output == 151936 * 2048 * 210 // 256 + norm
    assert at(options={"n_gpu_layers": 0}).phases[0].bytes_of("model_weights") == 0


def test_buffers_as_a_log_of_qwen_printed_them():
    # 35 of 37 layers offloaded: 1740.74 MiB of weights, 68 MiB of 34 layers' cells, 4 MiB of two layers' with the CPU
    estimate = at(options={"n_ctx": 2048, "n_gpu_layers": 35})
    assert estimate.engine_report["model_buffer_mib"] == pytest.approx(1740.74, abs=0.01)
    assert estimate.phases[0].bytes_of("kv_cache") == 68 * MIB


def test_the_last_layers_are_offloaded_first():
    # the output counts as one
    cache = [at(options={"n_gpu_layers": n}).phases[0].bytes_of("kv_cache") for n in (10, 19, 37)]
    assert cache[1] == 2 * cache[0] and cache[2] == 4 * cache[0]


def test_the_graph_is_bound_by_logits():
    # 512 × (151,936 logits + 2,048 of the hidden state) × 4 bytes = 300.75 MiB
    assert at(options={"n_ctx": 2048}).engine_report["compute_buffer_mib"] == 300.75


def test_without_flash_attention_by_scores():
    # 512 × (16 heads + the mask) × 32,768 cells, two hidden states, queries and outputs of 2,048 each, × 4 bytes
    report = at(options={"n_ctx": 32768, "flash_attn": False}).engine_report
    assert report["compute_buffer_mib"] == 512 * (17 * 32768 + 4 * 2048) * 4 / MIB


def test_a_plain_precision_is_that_file_type():
    # all but norms and biases take 2 bytes, those take 4
    norms = (2 * 36 + 1) * 2048
    biases = 36 * (2048 + 2 * 256)
    report = at(quantization=None, precision="float16").engine_report
    assert report["model_size_gib"] == round((QWEN.parameters * 2 + (norms + biases) * 2) / 2**30, 4)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"quantization": "awq-int4"}, "quantization"),
        ({"options": {"flash_attn": False, "cache_type_v": "q8_0"}}, "engine_options.cache_type_v"),
        ({"options": {"cache_type_k": "fp8"}}, "engine_options.cache_type_k"),
        ({"options": {"n_ctx": 0}}, "engine_options.n_ctx"),
    ],
)
def test_what_it_cannot_run_is_refused(said, field):
    with pytest.raises(InvalidSetup) as caught:
        at(**said)
    assert caught.value.field == field


def test_a_context_too_small_is_warned_about():
    assert at(options={"n_ctx": 1024}, sequence_length=4096).warnings
    assert not at(sequence_length=4096).warnings


def test_kv_cache_precision_sets_both_types():
    options = at(kv_cache_precision="q8_0").assumed["engine_options"]
    assert (options["cache_type_k"], options["cache_type_v"]) == ("q8_0", "q8_0")


def test_a_checkpoint_in_another_format_is_converted():
    fp8 = read_model({**SIZES, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})
    assert at(fp8, quantization=None).assumed["quantization"] == "gguf-bf16"
    assert at(fp8, quantization=None).phases == at(fp8, quantization="gguf-bf16").phases


def test_recurrent_states_are_float32_for_every_sequence():
    # 30 layers × (32 heads × 128 × 128 + 3 inputs of 8,192 channels) × 4 bytes × 4 sequences = 251.25 MiB, as logged
    model = library().get("Qwen3.5-35B-A3B")[0].model
    report = at(model, {"n_ctx": 32768, "n_seq_max": 4}, quantization="gguf-q8_0").engine_report
    assert report["recurrent_state_mib"] == 251.25
    assert report["kv_cache_mib"] == 640.0  # 10 layers × 2 × 512 × 32,768 × 2 bytes
