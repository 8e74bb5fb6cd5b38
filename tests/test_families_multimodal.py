"""Families of a text model, encoders and a projector: counts to the last, steps that run, configurations refused.

`counted_multimodal.json` was counted on the model classes of transformers 5.23.0, built on the meta device: unique
parameters of the whole, and those outside the text model and its head. No published model has these sizes.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calculator.architectures import READERS, read_model
from calculator.errors import CalculatorError, InvalidConfig
from calculator.inference import inference
from calculator.profile import Mode, evaluate, training_profile
from calculator.setup import InferenceSetup, Lora, TrainingSetup
from calculator.training import training

COUNTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "counted_multimodal.json").read_text())
TYPES = sorted({row["config"]["model_type"] for row in COUNTED.values()})
FIRST = {kind: next(row["config"] for row in COUNTED.values() if row["config"]["model_type"] == kind) for kind in TYPES}


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_counted_to_the_last(name: str) -> None:
    row = COUNTED[name]
    model = read_model(row["config"])
    assert (model.parameters, model.components()["multimodal"]) == (row["parameters"], row["outside"])
    assert sum(model.components().values()) == model.parameters >= model.active_parameters


@pytest.mark.parametrize("kind", TYPES)
def test_the_text_part_serves_and_trains(kind: str) -> None:
    model = read_model(FIRST[kind])
    for precision, width in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
        setup = InferenceSetup(precision=precision, batch_size=2, attention="eager", logits="all")
        assert inference(model, setup).peak.bytes_of("model_weights") == width * model.parameters
    assert inference(model, InferenceSetup(precision="bfloat16", tensor_parallel=2, engine="vllm")).peak.total > 0
    adapters = Lora(rank=8)
    steps = [
        training(model, TrainingSetup(sequence_length=256, gradient_checkpointing=saved, method=method, lora=lora)).peak
        for saved, method, lora in (("none", "full", None), ("full", "full", None), ("full", "lora", adapters))
    ]
    assert steps[0].total >= steps[1].total > steps[2].total


HOSTILE: list[Any] = [0, -1, 10**30, "12", [], {}, True, 1e300]


def places(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field, those inside parts included."""
    for key, inner in value.items():
        if key != "model_type":
            yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


@pytest.mark.parametrize("kind", TYPES)
def test_hostile_figures_are_refused_and_nothing_else_is_raised(kind: str) -> None:
    for path in places(FIRST[kind]):
        for value in HOSTILE:
            changed = json.loads(json.dumps(FIRST[kind]))
            where = changed
            for key in path[:-1]:
                where = where[key]
            where[path[-1]] = value
            try:
                assert read_model(changed).parameters > 0
            except CalculatorError as error:
                assert isinstance(error, InvalidConfig), (path, value, error)


INNER = [
    (kind, part, field)
    for kind in sorted(set(TYPES) & set(READERS))
    for part in ("text_config", "vision_config")
    for field in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    if field in (FIRST[kind].get(part) or {})
]


@pytest.mark.parametrize(("kind", "part", "field"), INNER)
def test_nothing_and_words_for_sizes_are_refused(kind: str, part: str, field: str) -> None:
    for value in (0, "many", -3, 10**12):
        with pytest.raises(InvalidConfig):
            read_model({**FIRST[kind], part: {**FIRST[kind][part], field: value}})


def test_a_part_of_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(InvalidConfig, match="no text model"):
        read_model({"model_type": "llava", "text_config": {"model_type": "lama"}})
    with pytest.raises(InvalidConfig, match="no vision tower"):
        read_model({"model_type": "llava", "vision_config": {"model_type": "resnet"}})


def test_internvl_counts_the_same_under_its_authors_names() -> None:
    sizes = {"hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "model_type": "qwen2", "vocab_size": 1000, "num_key_value_heads": 2}
    seen = {**sizes, "image_size": 56, "patch_size": 14, "norm_type": "layer_norm"}
    theirs = read_model(
        {
            "model_type": "internvl_chat",
            "llm_config": text,
            "vision_config": {**seen, "qkv_bias": True, "qk_normalization": False},
        }
    )
    here = read_model(
        {
            "model_type": "internvl",
            "text_config": text,
            "vision_config": {**seen, "attention_bias": True},
            "tie_word_embeddings": False,
        }
    )
    assert theirs.components() == here.components()


def test_a_step_of_kosmos_2_keeps_what_was_counted() -> None:
    # Counted with torch 2.13.0 and transformers 5.23.0 on the text model: 2 sequences of 1024 tokens, bfloat16, sdpa.
    text = {
        "vocab_size": 4000,
        "embed_dim": 512,
        "layers": 6,
        "ffn_dim": 2048,
        "attention_heads": 8,
        "max_position_embeddings": 2048,
    }
    model = replace(read_model({"model_type": "kosmos-2", "text_config": text}), towers=())
    assert model.parameters == 20_994_048
    profile = training_profile(model, Mode(weights="half", attention="sdpa"), "none", False, True)
    assert evaluate(profile.saved_first, 2, 1024) == pytest.approx(46_269_440, rel=1e-4)
    held = 3 * 2 * model.parameters + 2 * model.waves + 16 * 2 * 1024  # weights, two moments, sines, tokens and labels
    assert held + profile.need("loss", 2, 1024) == pytest.approx(512_422_912, rel=1e-4)
