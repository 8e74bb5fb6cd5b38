"""Whole answers, against hand arithmetic."""

import pytest

from calculator import InferenceSetup, TrainingSetup, inference, sized_model, training

SEED = sized_model(7_000_000_000, 4096, 32, 32)


def test_the_seed_s_seven_billion_parameters_are_fourteen_gigabytes() -> None:
    answer = inference(SEED, InferenceSetup(precision="float16"))
    assert answer.peak.bytes_of("model_weights") == 14_000_000_000
    assert answer.cache["needed_bytes"] == 2 * 32 * 4096 * 2048 * 2  # keys and values, layers, width, tokens, bytes


@pytest.mark.parametrize(("optimizer", "width"), [("AdamW", 8), ("Quantized AdamW", 2), ("SGD", 4)])
def test_an_optimizer_keeps_its_bytes_a_parameter(optimizer: str, width: int) -> None:
    answer = training(SEED, TrainingSetup(optimizer=optimizer))
    assert answer.states["optimizer_states"] == width * 7_000_000_000


def test_sixteen_bytes_a_parameter_with_master_weights() -> None:
    states = training(SEED, TrainingSetup()).states
    assert sum(states.values()) == 16 * 7_000_000_000  # 2 weights, 2 gradients, 4 copy, 8 moments


def test_phases_carry_the_same_states_and_the_peak_is_the_largest() -> None:
    answer = training(SEED, TrainingSetup(mixed_precision="none"))
    assert [phase.name for phase in answer.phases] == ["forward", "loss", "backward", "optimizer_step"]
    assert answer.peak.total == max(phase.total for phase in answer.phases)
    assert len({phase.bytes_of("optimizer_memory") for phase in answer.phases}) == 1
