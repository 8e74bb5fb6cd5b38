"""Dense families: what a layer keeps and a step needs, against allocations counted on small configurations."""

from dataclasses import replace
from typing import Any

import pytest
from counted_dense import CONFIGS, PARAMETERS, PEAKS, SAVED

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.model import Model
from calculator.profile import inference_profile, settled, shared_tables, training_profile
from calculator.tape import FLOAT, HALF, Adapter, Mode, evaluate
from calculator.trace import trace

LENGTH, SEQUENCES = 256, 2
SMALL = 64  # bytes: random states of flash attention's dropout
IDS = 8 * LENGTH * SEQUENCES
BESIDE = 4_096  # bytes: frequencies of rotary tables, scalars

MODES = {
    "bf16": Mode(),
    "eager": Mode(attention="eager"),
    "float32": Mode(weights=FLOAT),
    "autocast": Mode(weights=FLOAT, autocast=True),
    "lora": Mode(frozen=True, adapter=Adapter(8, ("all-linear",), FLOAT)),
}


def mode_of(model: Model, mode: Mode, **changes: Any) -> Mode:
    """The mode with the windows that 256 tokens exceed."""
    exceeded = frozenset(window for window in model.windows if window <= LENGTH)
    return settled(model, replace(mode, exceeded=exceeded, **changes))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_to_the_last(name: str) -> None:
    assert read_model(CONFIGS[name]).parameters == PARAMETERS[name]


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, row in SAVED.items() for mode in row])
def test_a_layer_keeps_what_was_counted(name: str, mode: str) -> None:
    model = read_model(CONFIGS[name])
    how = mode_of(model, MODES[mode])
    layer = model.layers[len(model.layers) // 2]
    kept = trace(layer, how, model.hidden, how.hidden, shared_tables(model, how)).saved
    assert evaluate(kept, SEQUENCES, LENGTH) == pytest.approx(SAVED[name][mode], abs=SMALL)


@pytest.mark.parametrize(("name", "phase"), [(name, phase) for name, row in PEAKS.items() for phase in row])
def test_a_step_needs_what_was_counted(name: str, phase: str) -> None:
    model = read_model(CONFIGS[name])
    weights = 2 * model.parameters
    how = mode_of(model, Mode(weights=HALF))
    if phase in ("prefill", "decode"):
        how = mode_of(model, Mode(step=phase))
        tokens = LENGTH + (phase == "decode")
        need = inference_profile(model, how).need(phase, SEQUENCES, tokens) + IDS
    else:
        profile = training_profile(model, how, "full" if phase == "checkpointed" else "none")
        need = max(profile.need(part, SEQUENCES, LENGTH) for part in ("loss", "backward")) + 2 * IDS
    assert weights + need == pytest.approx(PEAKS[name][phase], abs=BESIDE)


# family, sizes that make no sense, the field the message names
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("gemma2", {"layer_types": ["sliding_attention"]}, "layer_types"),
    ("gemma3_text", {"num_key_value_heads": 4}, "num_attention_heads"),
    ("olmo2", {"num_attention_heads": 0}, "num_attention_heads"),
    ("phi3_part", {"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
    ("starcoder2", {"hidden_size": 385}, "hidden_size"),
    ("falcon40", {"num_kv_heads": 4}, "num_attention_heads"),
    ("gpt2", {"n_head": 5}, "n_embd"),
    ("gptj", {"rotary_dim": 65}, "rotary_dim"),
    ("gpt_neox", {"rotary_pct": 0}, "partial_rotary_factor"),
    ("opt", {"num_attention_heads": 7}, "hidden_size"),
    ("glm4", {"partial_rotary_factor": -1}, "partial_rotary_factor"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    ("cohere", {"vocab_size": None}, "vocab_size"),
]


@pytest.mark.parametrize(("name", "change", "field"), BAD, ids=[f"{name}-{field}" for name, _, field in BAD])
def test_figures_that_make_no_sense_are_refused(name: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig, match=field):
        read_model({**CONFIGS[name], **change})


def test_parameters_by_hand() -> None:
    # opt350: table 1200·192, positions 2050·384, matrices 192·384 in and out; a layer: q, k, v and out 384² + 384,
    # 384·1000 + 1000 and 1000·384 + 384, two norms 2·384; four layers; no last norm, a tied head
    layer = 4 * (384**2 + 384) + 2 * 384 * 1000 + 1000 + 384 + 2 * 2 * 384
    assert read_model(CONFIGS["opt350"]).parameters == 1200 * 192 + 2050 * 384 + 2 * 192 * 384 + 4 * layer
    # cohere_norm: a tied table 1200·384; a layer: four 384² matrices, a weight for each of 6·64 of q and of k, three
    # 384·1000 and one norm; four layers and a norm
    layer = 4 * 384**2 + 2 * 6 * 64 + 3 * 384 * 1000 + 384
    assert read_model(CONFIGS["cohere_norm"]).parameters == 1200 * 384 + 4 * layer + 384


def test_ten_thousand_layers_are_cheap() -> None:
    model = read_model({**CONFIGS["smollm3"], "num_hidden_layers": 10_000, "no_rope_layers": None})
    assert len(model.distinct) == 2
    assert training_profile(model, mode_of(model, Mode())).need("backward", SEQUENCES, LENGTH) > 0


# family, tokens, elements of the cache of a sequence
CACHES = [
    ("gemma2", 1_000, 2 * (2 * 96) * 1_000 + 2 * (2 * 96) * 128),  # two layers of all tokens, two of 128; 2 heads of 48
    ("falcon7", 10, 4 * 2 * 64 * 10),  # one head of 64
    ("falcon40", 10, 4 * 2 * 128 * 10),  # two heads of 64, not the six that transformers repeats them to
    ("gemma3_text", 100, 4 * (2 * 96) * 100),  # no window is reached
    ("olmo3", 1_000, (2 * 128) * 1_000 + 3 * (2 * 128) * 128),  # one layer of all tokens, three of 128; 2 heads of 64
]


@pytest.mark.parametrize(("name", "tokens", "elements"), CACHES, ids=[row[0] for row in CACHES])
def test_the_cache_stays_inside_its_windows(name: str, tokens: int, elements: int) -> None:
    assert read_model(CONFIGS[name]).cache(tokens) == elements


def test_flash_attention_with_positions_first_needs_no_copy_before_the_output_matrix() -> None:
    # heads joined from a rotated and a passing part lie heads first: torch's own kernel answers in that layout, whose
    # copy for the output matrix stays; the flash-attn package answers positions first: 2 bytes for 384 a token less
    model = read_model(CONFIGS["phi3"])
    kept = {}
    for attention in ("sdpa", "flash"):
        how = mode_of(model, Mode(attention=attention))
        tables = shared_tables(model, how)
        saved = trace(model.layers[0], how, model.hidden, how.hidden, tables).saved
        kept[attention] = evaluate(saved, SEQUENCES, LENGTH)
    assert kept["sdpa"] - kept["flash"] == 2 * 384 * SEQUENCES * LENGTH


@pytest.mark.parametrize("name", ["gemma", "olmo2", "phi3", "llama"])
def test_fused_kernels_keep_less(name: str) -> None:
    model = read_model(CONFIGS[name])
    needs = [
        training_profile(model, mode_of(model, Mode(kernels=kernels))).need("loss", SEQUENCES, LENGTH)
        for kernels in ("standard", "liger")
    ]
    assert needs[1] < needs[0]
