"""Encoders, encoder-decoders and recurrent decoders: what they hold and what a step needs, against counted allocations.

`counted_encoders.json` was counted with torch 2.13.0 and transformers 5.23.0: allocations on fake CUDA tensors,
unrounded, of small configurations that were never published, at sequences of 256 source and 256 target tokens.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calculator.architectures import read_model
from calculator.errors import InvalidConfig
from calculator.profile import inference_profile, settled, shared_tables, training_profile
from calculator.tape import FLOAT, Mode, evaluate
from calculator.trace import trace

COUNTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "counted_encoders.json").read_text())
LENGTH = 256
MODES = {
    "step": Mode(),
    "eager_step": Mode(attention="eager"),
    "autocast": Mode(weights=FLOAT, autocast=True),
    "float32": Mode(weights=FLOAT),
    "checkpointed": Mode(),
    "single": Mode(one=True),
    "prefill": Mode(step="prefill"),
    "decode": Mode(step="decode"),
}
PEAKS = [(name, phase) for name, row in COUNTED.items() for phase in row["peaks"]]
SAVED = [(name, mode) for name, row in COUNTED.items() for mode in row["saved"]]
# Where the program is not the modeling file's to the last operator: what it may differ by.
WIDER: dict[tuple[str, str], float] = {
    ("t5", "checkpointed"): 0.02,
    ("mt5", "checkpointed"): 0.045,
    ("umt5", "checkpointed"): 0.025,
}


@pytest.mark.parametrize("name", COUNTED)
def test_small_ones_are_counted_to_the_last(name: str) -> None:
    assert read_model(COUNTED[name]["config"]).parameters == COUNTED[name]["parameters"]


@pytest.mark.parametrize(("name", "mode"), SAVED)
def test_a_layer_keeps_what_was_counted(name: str, mode: str) -> None:
    model = read_model(COUNTED[name]["config"])
    how = settled(model, replace(MODES[mode], exceeded=frozenset(each for each in model.windows if each <= LENGTH)))
    kept = trace(model.layers[1], how, model.hidden, how.hidden, shared_tables(model, how)).saved
    assert evaluate(kept, 2, LENGTH) == pytest.approx(COUNTED[name]["saved"][mode], abs=100)  # states of generators


@pytest.mark.parametrize(("name", "phase"), PEAKS)
def test_a_step_needs_what_was_counted(name: str, phase: str) -> None:
    model, row = read_model(COUNTED[name]["config"]), COUNTED[name]
    mode, sequences = MODES[phase], 1 if phase == "single" else 2
    mode = replace(mode, exceeded=frozenset(each for each in model.windows if each <= LENGTH))
    held = (4 if mode.weights == FLOAT else 2) * model.parameters
    if mode.step == "training":
        profile = training_profile(model, mode, "full" if phase == "checkpointed" else "none")
        held += 16 * LENGTH * sequences
        need = max(profile.need(part, sequences, LENGTH) for part in profile.phases)
    else:
        held += 8 * (LENGTH + 1) * sequences
        need = inference_profile(model, mode, True).need(phase, sequences, LENGTH + (phase == "decode"))
    assert held + need == pytest.approx(row["peaks"][phase], rel=WIDER.get((name, phase), 1.5e-2))


# configuration, parameters as the model class of transformers 5.23.0 has them on the meta device
CLASSES: list[tuple[dict[str, Any], int]] = [
    ({"model_type": "bart"}, 406_291_456),
    ({"model_type": "bigbird_pegasus"}, 576_891_904),
    ({"model_type": "bigbird_pegasus", "use_bias": True}, 577_088_512),
    ({"model_type": "blenderbot"}, 2_696_268_800),
    ({"model_type": "blenderbot-small"}, 85_113_344),
    ({"model_type": "fsmt"}, 483_913_728),
    ({"model_type": "led"}, 459_801_600),
    ({"model_type": "longt5"}, 60_506_624),
    ({"model_type": "longt5", "encoder_attention_type": "transient-global", "num_layers": 3}, 38_480_640),
    ({"model_type": "m2m_100"}, 483_905_536),
    ({"model_type": "marian"}, 414_307_328),
    ({"model_type": "mbart"}, 406_295_552),
    ({"model_type": "mvp"}, 406_293_504),
    ({"model_type": "mt5"}, 172_119_424),
    ({"model_type": "nllb-moe", "num_experts": 4}, 635_017_216),
    ({"model_type": "pegasus"}, 406_287_360),
    ({"model_type": "pegasus_x"}, 568_568_832),
    ({"model_type": "plbart"}, 139_220_736),
    ({"model_type": "speech_to_text"}, 29_536_256),
    ({"model_type": "switch_transformers"}, 317_312_256),
    ({"model_type": "umt5"}, 172_122_112),
    ({"model_type": "whisper"}, 37_760_640),
]


@pytest.mark.parametrize(("config", "parameters"), CLASSES, ids=[json.dumps(config) for config, _ in CLASSES])
def test_the_defaults_are_those_of_the_configuration_class(config: dict[str, Any], parameters: int) -> None:
    model = read_model(config)
    assert (model.parameters, sum(model.components().values())) == (parameters, parameters)


def test_a_token_uses_the_experts_it_is_sent_to() -> None:
    switch = read_model({"model_type": "switch_transformers"})
    idle = 6 * 7 * 2 * 768 * 2048  # 6 layers with 8 experts, of which one is chosen
    assert switch.parameters - switch.active_parameters == idle == switch.components()["experts"] * 7 // 8


# configuration, elements of the cache for a source and a target of 100 tokens
CACHES: list[tuple[dict[str, Any], int]] = [
    ({"model_type": "bart"}, 12 * 2 * 2 * 100 * 1024),  # key and value, of target and source, 12 decoder layers
    ({"model_type": "t5"}, 6 * 2 * 2 * 100 * 512),
    ({"model_type": "whisper"}, 4 * 2 * (100 + 1500) * 384),  # 1,500 positions of sound
    ({"model_type": "bert"}, 0),
]


@pytest.mark.parametrize(("config", "elements"), CACHES, ids=[config["model_type"] for config, _ in CACHES])
def test_a_decoder_keeps_target_and_source(config: dict[str, Any], elements: int) -> None:
    assert read_model(config).cache(100) == elements


# configuration that makes no sense, the field the message names
BAD: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "bart", "d_model": 100}, "d_model"),
    ({"model_type": "bart", "encoder_attention_heads": 0}, "encoder_attention_heads"),
    ({"model_type": "whisper", "max_source_positions": -1}, "max_source_positions"),
    ({"model_type": "speech_to_text", "conv_kernel_sizes": [5]}, "conv_kernel_sizes"),
    ({"model_type": "speech_to_text", "conv_kernel_sizes": [5, "5"]}, "conv_kernel_sizes"),
    ({"model_type": "marian", "decoder_layers": "many"}, "decoder_layers"),
    ({"model_type": "longt5", "encoder_attention_type": "all"}, "encoder_attention_type"),
    ({"model_type": "nllb-moe", "num_experts": 1}, "num_experts"),
]


@pytest.mark.parametrize(("config", "field"), BAD, ids=[f"{config['model_type']}-{field}" for config, field in BAD])
def test_figures_that_make_no_sense_are_refused(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig, match=field):
        read_model(config)
