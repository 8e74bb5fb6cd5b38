"""transformers as an engine: what it holds beside bare arithmetic, by version and format."""

from __future__ import annotations

import pytest

from calculator import InferenceSetup
from calculator.architectures import read_model
from calculator.architectures.sized import sized_model
from calculator.engines.holdings import block, placed
from calculator.errors import InvalidSetup, UnknownName
from calculator.inference import inference
from calculator.units import MIB

SIZES = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}
UNTIED = read_model({**SIZES, "tie_word_embeddings": False})
TIED = read_model({**SIZES, "tie_word_embeddings": True})
WORKSPACE = 8 * MIB + 128 * 1024


def at(model=UNTIED, **said):
    return inference(model, InferenceSetup(precision=said.pop("precision", "bfloat16"), **said))


def phase(estimate, name):
    return next(each for each in estimate.phases if each.name == name)


@pytest.mark.parametrize(
    ("size", "counted"),
    [
        (1000, 1024),  # rounded to 512
        (43 * MIB, 44 * MIB),  # a segment of 44 MiB; the rest of 1 MiB is too small to split off
        (int(24.5 * MIB), int(24.5 * MIB)),  # the rest of 1.5 MiB is split off
        (9 * MIB, 9 * MIB),  # small ones share segments of 20 MiB
    ],
)
def test_the_allocator_rounds_large_tensors(size, counted):
    assert block(size) == counted


def test_weights_are_blocks_of_the_allocator():
    # gate, up and down are 11008 × 2048 × 2 bytes = 43 MiB each, held as 44; embedding and head of 593.5 MiB as 594
    plain, held = at(), at(engine="transformers", engine_version="4.46")
    grown = held.phases[0].bytes_of("model_weights") - plain.phases[0].bytes_of("model_weights")
    assert grown == 2 * 3 * MIB + 2 * MIB // 2


def test_newer_versions_set_one_block_aside_for_all_weights():
    plain, held = at(), at(engine="transformers")
    assert held.phases[0].bytes_of("model_weights") == plain.phases[0].bytes_of("model_weights")


@pytest.mark.parametrize(
    ("sizes", "ahead", "counted"),
    [
        ([(1000, 3)], 0, 3 * 1024),
        # 13 of 1.5 MiB in a segment of 20 MiB: its last 0.5 MiB stay with the thirteenth
        ([(3 * MIB // 2, 26)], 0, 26 * 3 * MIB // 2 + 2 * MIB // 2),
        # out of a block that was there before nothing is lost, but 0.5 MiB at its end
        ([(3 * MIB // 2, 26)], 38 * MIB, 26 * 3 * MIB // 2 + MIB // 2),
        # 10.75 MiB leave 1.25 MiB of their 12, which the next one takes whole
        ([(43 * MIB // 4, 1), (5 * MIB // 4, 1)], 0, 12 * MIB),
    ],
)
def test_what_is_left_of_a_block_stays_with_it_up_to_a_mebibyte(sizes, ahead, counted):
    assert placed(sizes, ahead) == counted


def quantized(name, version, model=UNTIED):
    estimate = inference(model, InferenceSetup(engine="transformers", engine_version=version, quantization=name))
    return phase(estimate, "decode")


def test_numbers_scales_and_zeros_are_tensors_of_their_own():
    # gate, up and down: 10.75 MiB of numbers each, whose segments of 12 MiB are split; scales and zeros are small; one
    # block with scales and zeros, 11.2 MiB, would be held as 12. q and o are 2 MiB; embedding and head 0.5 MiB more
    feed_forward, other = 11008 * 2048, 2 * 2048 * 2048 + 2 * 256 * 2048
    packed = 2 * (3 * feed_forward + other)
    groups = packed // 128
    beside = groups * 2 + groups // 2 + 2 * (2 * 2048 * 3 + 256 * 2) + 5 * 2048 * 2
    ends = 2 * 594 * MIB
    found = quantized("awq-int4", "4.46").bytes_of("model_weights")
    assert found == pytest.approx(packed // 2 + beside + ends, abs=64 * 1024)


def test_half_of_quantized_weights_had_a_block_set_aside():
    # without one, each layer's stack of 64 experts of 3 × 1.5 MiB loses 0.5 MiB with every thirteenth
    sizes = {**SIZES, "model_type": "qwen3_moe", "num_experts": 64, "num_experts_per_tok": 8, "head_dim": 128}
    experts = read_model({**sizes, "moe_intermediate_size": 768, "num_hidden_layers": 4, "tie_word_embeddings": False})
    cold, half, whole = (quantized("fp8", each, experts).bytes_of("model_weights") for each in ("4.46", "4.51", "4.52"))
    assert cold - whole == pytest.approx(4 * 64 * 3 / 13 * MIB / 2, rel=0.05)
    assert whole < half < cold


def test_exllama_keeps_room_for_the_largest_matrix_unpacked():
    four, eight = (quantized(each, "4.46").bytes_of("activation_memory") for each in ("gptq-int4", "gptq-int8"))
    assert four - eight == 44 * MIB  # 11008 × 2048 × 2 bytes are 43 MiB, held as 44
    assert quantized("gptq-int4", "4.51").bytes_of("activation_memory") == eight


def test_old_versions_upcast_the_logits_of_the_whole_prompt():
    # 2 bytes and 4 of each of 1024 × 151,936 logits, the hidden states, 2 layers' tables of 32768 × 2 × 128 × 2 bytes
    old = at(engine="transformers", engine_version="4.38.2", sequence_length=1024)
    tables = 2 * 32768 * 256 * 2
    hidden = 1024 * 2048 * 2
    assert phase(old, "prefill").bytes_of("activation_memory") == 1024 * 151936 * 6 + hidden + tables + WORKSPACE


def test_newer_versions_do_not():
    new = at(engine="transformers", engine_version="4.46", sequence_length=1024)
    assert phase(new, "prefill").bytes_of("activation_memory") < 1024 * 151936 * 2


def test_older_versions_keep_the_last_steps_cache_beside_the_new_one():
    # of the layer that is not at work the keys and values of 1,023 tokens: 2 × 2 heads × 128 × 2 bytes a token
    said = {"engine": "transformers", "sequence_length": 1024}
    tuples, objects = (at(engine_version=each, **said) for each in ("4.41", "4.42"))
    assert phase(tuples, "decode").total - phase(objects, "decode").total == 1023 * 2 * 2 * 128 * 2
    assert phase(tuples, "prefill") == phase(objects, "prefill")


def test_a_tied_head_of_an_awq_checkpoint_is_there_twice_while_it_loads():
    estimate = inference(TIED, InferenceSetup(engine="transformers", engine_version="4.46", quantization="awq-int4"))
    assert phase(estimate, "load").bytes_of("activation_memory") == 151936 * 2048 * 2
    untied = inference(UNTIED, InferenceSetup(engine="transformers", engine_version="4.46", quantization="awq-int4"))
    assert [each.name for each in untied.phases] == ["prefill", "decode"]


def test_the_process_around_it_is_a_range():
    part = at(engine="transformers").phases[0].parts[-1]
    assert part.name == "runtime_overhead"
    assert part.low < part.bytes < part.high


def test_parts_add_up_over_stages():
    alone, split = at(), at(pipeline_parallel=2)
    # the head's own stage has no table of tokens: both are there once
    assert split.phases[0].bytes_of("model_weights") == alone.phases[0].bytes_of("model_weights")
    assert split.cache["needed_bytes"] == alone.cache["needed_bytes"]
    assert len(split.stages) == 2


def test_tensor_parallelism_divides_heads_and_keeps_norms():
    # all but 2 × 2 + 1 norms of 2048 are divided; the vocabulary, 151936 = 64 × 2374, needs no padding
    two = at(tensor_parallel=2)
    norms = 5 * 2048
    whole = UNTIED.parameters
    assert two.fullest[0].bytes_of("model_weights") == ((whole - norms) // 2 + norms) * 2
    assert two.cache["needed_bytes"] == at().cache["needed_bytes"]


def test_heads_are_never_split():
    # 2 key-value heads over 4 GPUs: each holds one, half of them twice
    four = at(tensor_parallel=4)
    assert four.cache["needed_bytes"] == 2 * at().cache["needed_bytes"]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel"),
        ({"pipeline_parallel": 3}, "pipeline_parallel"),
        ({"expert_parallel": 2, "tensor_parallel": 2}, "expert_parallel"),
        ({"engine": "transformers", "engine_version": "newest"}, "engine_version"),
        ({"sequence_length": 8, "prompt_length": 9}, "prompt_length"),
        ({"engine": "transformers", "kv_cache_precision": "q8_0"}, "kv_cache_precision"),
    ],
)
def test_what_cannot_be_is_refused(said, field):
    with pytest.raises(InvalidSetup) as caught:
        at(**said)
    assert caught.value.field == field


def test_unknown_options_are_refused_by_name():
    with pytest.raises(UnknownName) as caught:
        at(engine="transformers", engine_options=(("block_size", 16),))
    assert caught.value.field == "engine_options.block_size"


def test_the_peak_over_gpus_is_the_sum_and_the_fullest_is_one_of_them():
    estimate = at(data_parallel=2, tensor_parallel=2)
    assert estimate.phases[0].total == 4 * estimate.fullest[0].total


def test_feed_forward_widths_are_divided_evenly():
    # 16 heads are divided by 4, a width of 1,022 is not
    odd = read_model({**SIZES, "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 1022})
    with pytest.raises(InvalidSetup) as caught:
        at(odd, tensor_parallel=4)
    assert caught.value.message.endswith(": 1, 2, 7, 14")


def test_sizes_stand_for_their_parameters_in_every_format():
    sized = sized_model(7_000_000_000, 4096, 32, 32, intermediate_size=8192)
    half = sized_model(3_500_000_000, 4096, 32, 32, intermediate_size=8192)
    for said in ({"quantization": "fp8"}, {"precision": "bfloat16"}):
        whole, less = (inference(each, InferenceSetup(engine="vllm", **said)) for each in (sized, half))
        assert whole.phases[0].bytes_of("model_weights") == pytest.approx(2 * less.phases[0].bytes_of("model_weights"))


def test_four_bit_weights_are_unpacked_for_more_than_one_row():
    # a decode step needs next to nothing, and with two rows 11008 × 2048 × 2 bytes of one matrix
    one, two = (
        inference(UNTIED, InferenceSetup(quantization="bnb-nf4", batch_size=rows, sequence_length=64)).phases[1]
        for rows in (1, 2)
    )
    grown = two.bytes_of("activation_memory") - one.bytes_of("activation_memory")
    assert grown == pytest.approx(11008 * 2048 * 2, rel=0.01)
