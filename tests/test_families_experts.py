"""Families with experts or latent attention: counts by hand, and what a step needs against counted allocations."""

from dataclasses import replace
from typing import Any

import pytest
from counted_experts import ADAPTERS, CONFIGS, PARAMETERS, PEAKS, SAVED

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.model import Model
from calculator.profile import inference_profile, settled, shared_tables, training_profile
from calculator.setup import Lora
from calculator.tape import FLOAT, HALF, Adapter, Mode, evaluate
from calculator.trace import trace
from calculator.training import adapter_tensors

LENGTH, SEQUENCES = 128, 2
SMALL = 64  # bytes: random states of flash attention's dropout
BESIDE = 8 * LENGTH + 4_096  # bytes: position ids, frequencies of rotary tables, corrections of routers
IDS = 8 * LENGTH * SEQUENCES

ALL = Adapter(16, ("all-linear",), FLOAT)
MODES = {
    "bf16": Mode(),
    "eager": Mode(attention="eager"),
    "autocast": Mode(weights=FLOAT, autocast=True),
    "float32": Mode(weights=FLOAT),
    "lora_qv": Mode(frozen=True, adapter=Adapter(16, ("q_proj", "v_proj"), FLOAT)),
    "lora_all": Mode(frozen=True, adapter=ALL),
    "lora_all_bf16": Mode(frozen=True, adapter=replace(ALL, dtype=HALF)),
}


def mode_of(model: Model, mode: Mode, **changes: Any) -> Mode:
    """The mode with the windows that the sequences exceed."""
    exceeded = frozenset(window for window in model.windows if window <= LENGTH)
    return settled(model, replace(mode, exceeded=exceeded, **changes))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_to_the_last(name: str) -> None:
    assert read_model(CONFIGS[name]).parameters == PARAMETERS[name]


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, row in SAVED.items() for mode in row])
def test_a_layer_keeps_what_was_counted(name: str, mode: str) -> None:
    model = read_model(CONFIGS[name])
    how = mode_of(model, MODES[mode])
    layer = model.layers[max(1, len(model.layers) // 2)]
    kept = trace(layer, how, model.hidden, how.hidden, shared_tables(model, how)).saved
    assert evaluate(kept, SEQUENCES, LENGTH) == pytest.approx(SAVED[name][mode], abs=SMALL)


@pytest.mark.parametrize(("name", "phase"), [(name, phase) for name, row in PEAKS.items() for phase in row])
def test_a_step_needs_what_was_counted(name: str, phase: str) -> None:
    model = read_model(CONFIGS[name])
    held = 2 * model.parameters
    if phase in ("prefill", "decode"):
        tokens = LENGTH + (phase == "decode")
        profile = inference_profile(model, mode_of(model, Mode(step=phase)), all_logits=True)
        need = profile.need(phase, SEQUENCES, tokens) + IDS
    elif phase == "checkpointed":
        profile = training_profile(model, mode_of(model, Mode()), "full")
        need = max(profile.need(each, SEQUENCES, LENGTH) for each in ("loss", "backward")) + 2 * IDS
    else:
        held += 4 * ADAPTERS[name]
        profile = training_profile(model, mode_of(model, MODES[phase]), first_input_grad=False)
        need = max(profile.need(each, SEQUENCES, LENGTH) for each in ("loss", "backward")) + 2 * IDS
    # relative: two families keep their routers in float32, one hands the indexer's choice from layer to layer
    assert held + need == pytest.approx(PEAKS[name][phase], abs=BESIDE, rel=1e-3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_counted_to_the_last(name: str) -> None:
    tensors = adapter_tensors(read_model(CONFIGS[name]), Lora(rank=16))
    assert sum(tensor.elements for tensor in tensors) == ADAPTERS[name]


# name, elements a token and layer, by hand
CACHE = [
    ("qwen3_moe", 2 * 2 * 64),  # a key and a value of two heads
    ("mixtral", 2 * 2 * 64),
    ("dsv2lite", 192 + 32),  # one latent and one rotated key, whatever the heads
    ("dsv3", 192 + 32),
    ("deepseek_v32", 192 + 32 + 48),  # and a key of the indexer
    ("minimax_m2", 2 * 2 * 64),
]


@pytest.mark.parametrize(("name", "elements"), CACHE)
def test_the_cache_of_a_token(name: str, elements: int) -> None:
    model = read_model(CONFIGS[name])
    assert model.cache(1) == elements * len(model.layers)


def test_only_layers_with_an_indexer_cache_its_key() -> None:
    model = read_model(CONFIGS["glm_moe_dsa"])  # full, shared, full
    assert [layer.cache(1) for layer in model.layers] == [192 + 32 + 48, 192 + 32, 192 + 32 + 48]


def test_one_token_uses_its_share_of_the_experts() -> None:
    model = read_model(CONFIGS["mixtral"])
    routed = 3 * 8 * 3 * 384 * 640  # layers · experts · (gate, up, down)
    assert model.components()["experts"] == routed
    assert model.active_parameters == model.parameters - routed * 6 // 8


def test_prediction_layers_stand_beside_the_count() -> None:
    config = CONFIGS["dsv3"]
    model, more = read_model(config), read_model({**config, "num_nextn_predict_layers": 1})
    assert more.parameters == model.parameters
    layer = sum(tensor.elements for tensor in model.layers[-1].tensors())
    joined = 2 * 384 * 384 + 3 * 384 + 2 * 512 * 384  # eh_proj, three norms, copies of embedding and head
    assert more.speculative_parameters == layer + joined


def test_what_prediction_layers_hold_differs_by_family() -> None:
    layer = (
        2 * 384 * 384 + 2 * 384 * 128 + 3 * 384 * 704 + 2 * 384
    )  # ERNIE's is dense: q, o, k, v, a gated layer, norms
    model = read_model({**CONFIGS["ernie4_5_moe"], "num_nextn_predict_layers": 1})
    assert model.speculative_parameters == layer + 2 * 384 * 384 + 2 * 384

    config = {**STREAMS, "num_nextn_predict_layers": 1}
    ends = 4 * 4 * 384 + 4 + 1  # what adds the streams up
    windowed = sum(tensor.elements for tensor in read_model(config).layers[0].tensors())
    assert read_model(config).speculative_parameters == windowed + 2 * 384 * 384 + 3 * 384 + ends


def test_equal_layers_are_one_object() -> None:
    model = read_model({**CONFIGS["qwen3_moe"], "num_hidden_layers": 10_000})
    assert len({id(layer) for layer in model.layers}) == 1


@pytest.mark.parametrize(
    "change",
    [{"num_experts": 0}, {"num_experts_per_tok": 17}, {"num_experts_per_tok": 0}, {"decoder_sparse_step": 0}],
    ids=str,
)
def test_figures_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        read_model({**CONFIGS["qwen3_moe"], **change})


STREAMS = {
    "model_type": "deepseek_v4",
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "vocab_size": 1000,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "partial_rotary_factor": 0.25,
    "q_lora_rank": 192,
    "moe_intermediate_size": 320,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "hc_mult": 4,
    "sliding_window": 64,
    "o_groups": 4,
    "o_lora_rank": 96,
    "index_n_heads": 8,
    "index_head_dim": 32,
    "index_topk": 16,
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "mlp_layer_types": ["hash_moe", "moe", "moe"],
}


def test_streams_and_compressed_entries() -> None:
    model = read_model(STREAMS)
    # counted as the others, with two sequences of 256 tokens
    assert model.parameters == 21_255_647
    how = settled(model, Mode(exceeded=frozenset({64})))
    kept = trace(model.layers[1], how, model.hidden, how.hidden, shared_tables(model, how)).saved
    assert evaluate(kept, 2, 256) == pytest.approx(46_192_192, rel=1e-3)
    profile = inference_profile(model, replace(how, step="prefill"), all_logits=True)
    need = 2 * model.parameters + profile.need("prefill", 2, 256) + 8 * 2 * 256
    assert need == pytest.approx(60_354_462, rel=3e-3)


def test_the_cache_of_compressed_entries() -> None:
    model = read_model(STREAMS)
    # 64 tokens of the window; one entry for 4 tokens and a key of the indexer; one for 128 tokens
    assert [layer.cache(1024) for layer in model.layers] == [64 * 64, 64 * 64 + 256 * (64 + 32), 64 * 64 + 8 * 64]


def test_a_tied_table_is_summed_in_place_under_autocast() -> None:
    granite = {
        "model_type": "granitemoe",
        "hidden_size": 1536,
        "num_hidden_layers": 5,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 49_152,
        "max_position_embeddings": 131_072,
        "intermediate_size": 512,
        "num_local_experts": 40,
        "num_experts_per_tok": 8,
        "tie_word_embeddings": True,
    }
    model = read_model(granite)
    profile = training_profile(model, settled(model, MODES["autocast"]))
    need = 4 * model.parameters + 16 * 2 * 513 + profile.need("backward", 2, 513)
    assert need == pytest.approx(4_941_414_696, abs=BESIDE)  # two sequences of 513 tokens


def test_the_output_holds_what_a_shrinking_head_scales() -> None:
    minicpm = {
        "model_type": "minicpm3",
        "hidden_size": 2560,
        "num_hidden_layers": 5,
        "intermediate_size": 6400,
        "max_position_embeddings": 32_768,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "vocab_size": 73_448,
        "scale_emb": 12,
        "dim_model_base": 256,
        "scale_depth": 1.4,
    }
    model = read_model(minicpm)
    profile = inference_profile(model, settled(model, Mode(step="prefill")), all_logits=True)
    need = 2 * model.parameters + 8 * 2 * 777 + profile.need("prefill", 2, 777)
    assert need == pytest.approx(1_251_485_768, abs=BESIDE)  # two sequences of 777 tokens


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("deepseek_v32", {"q_lora_rank": None}),
        ("dsv3", {"n_group": 3}),
        ("glm_moe_dsa", {"indexer_types": ["shared", "full", "full"]}),
        ("gpt_oss", {"layer_types": ["full_attention"]}),
        ("hunyuan_v1_moe", {"moe_topk": [4, 2, 4]}),
        ("glm4_moe", {"partial_rotary_factor": 2}),
    ],
)
def test_what_a_family_cannot_be_is_refused(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        read_model({**CONFIGS[name], **change})
