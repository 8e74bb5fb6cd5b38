"""Whole answers, against hand arithmetic."""

import pytest

from calculator import InferenceSetup, TrainingSetup, inference, sized_model, training
from calculator.library import library

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


# model, tokens, elements of its cache for one sequence, by hand
CACHES = [
    ("Llama-3.1-8B", 1, 65_536),  # 2·32 layers·8 heads·128
    ("DeepSeek-V3", 1, 35_136),  # 61 layers·(512 + 64): one latent for all heads
    ("gemma-2-9b", 32_768, 21 * 2 * 8 * 256 * (32_768 + 4_096)),  # 21 layers see all, 21 a window: 5.906 GiB at 16 bit
    ("gpt-oss-20b", 1000, 12 * 2 * 8 * 64 * (1000 + 128)),  # every second layer has a window of 128
    ("falcon-7b", 1, 32 * 2 * 64),  # one key-value head
    ("falcon-mamba-7b", 1000, 0),  # states only
]


@pytest.mark.parametrize(("name", "tokens", "elements"), CACHES, ids=[row[0] for row in CACHES])
def test_a_cache_keeps_what_its_kind_keeps(name: str, tokens: int, elements: int) -> None:
    assert library().get(name)[0].model.cache(tokens) == elements
