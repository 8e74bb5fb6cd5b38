"""vLLM and SGLang: weights as they load them, pages, profiled steps and pools, derived by hand from their source."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from calculator import InferenceSetup
from calculator.architectures import read_model
from calculator.engines import find_engine
from calculator.engines.holdings import segments
from calculator.engines.pages import Kind, kinds, paged
from calculator.errors import InvalidSetup, UnknownName
from calculator.formats import KV_CACHE_PRECISIONS
from calculator.gpus import find_gpu
from calculator.inference import inference
from calculator.layers.blocks import Block
from calculator.library import library
from calculator.parallel import ALONE
from calculator.units import GIB, MIB

LLAMA = read_model(
    {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }
)
PARAMETERS = 8030261248


def at(model=LLAMA, engine="vllm", options=(), **said):
    return inference(model, InferenceSetup(engine=engine, engine_options=tuple(sorted(dict(options).items())), **said))


def test_weights_are_parameters_and_one_rotary_table():
    # 8192 positions × 128 × 2 bytes; no tensor of Llama 3 8B is padded by the allocator
    report = at().engine_report
    assert report["model_weights_gib"] == round((PARAMETERS * 2 + 8192 * 128 * 2) / GIB, 4) == 14.9595


def test_the_cache_is_whole_blocks():
    # 100 tokens take 7 blocks of 16; 2 × 32 × 8 × 128 × 2 bytes a token
    estimate = at(sequence_length=100, batch_size=3)
    assert estimate.cache["reserved_bytes"] == 3 * 7 * 16 * 131072
    assert estimate.cache["needed_bytes"] == 3 * 100 * 131072


@pytest.mark.parametrize(
    ("kinds", "block", "page", "groups"),
    [
        # 12 full and 12 window layers: two groups of 12
        ((Kind(12, 2048), Kind(12, 2048, 128)), 16, 12 * 16 * 2048, 2),
        # Gemma 3 27B: 10 full, 52 window layers: groups of 10, the windows' sixth one padded
        ((Kind(10, 8192), Kind(52, 8192, 1024)), 16, 10 * 16 * 8192, 7),
        # a full layer of half the width takes blocks of twice the tokens
        ((Kind(5, 4096), Kind(25, 8192, 1024)), 16, 5 * 16 * 8192, 6),
        # 16 attention layers of 4,096 bytes a token beside 48 states of 3,207,168 bytes: blocks of 784 tokens
        ((Kind(16, 4096), Kind(48, state=3_207_168)), 16, 16 * 784 * 4096, 4),
        # all layers alike: one group whatever they hold
        ((Kind(30, 1152), Kind(2, 4096)), 16, 16 * (30 * 1152 + 2 * 4096), 1),
    ],
)
def test_pages(kinds, block, page, groups):
    made = paged(kinds, block, 1.5)
    assert (made.page, len(made.groups)) == (page, groups)


def test_a_window_keeps_what_a_step_may_need():
    # window 1024, steps of 2048 tokens: ceil((1023 + 2048) / 16) + 1 = 193 pages, and 8,192 of the full layers' group
    pages = paged((Kind(5, 4096), Kind(25, 8192, 1024)), 16, 1.5)
    assert pages.per_sequence(262_144, 2048, 2) == 262_144 // 32 + 5 * 193


def test_states_take_pages_of_their_own():
    # 4,096 tokens are 6 blocks of 784; three groups of states take two pages each
    pages = paged((Kind(16, 4096), Kind(48, state=3_207_168)), 16, 1.5)
    assert pages.per_sequence(4096, 4096, 2) == 6 + 3 * 2


def test_a_profiled_step_is_bound_by_its_tokens():
    # 8,192 tokens × ((3 × 14,336 + 4 × 4,096) × 2 + 24) bytes, against one sequence's sampling
    estimate = at(options={"max_num_batched_tokens": 8192, "max_num_seqs": 1})
    assert estimate.phases[0].bytes_of("activation_memory") == 8192 * ((3 * 14336 + 4 * 4096) * 2 + 24)


def test_or_by_its_sampler():
    # 256 sequences × 128,256 logits × 38 bytes through a sort, beside 2,048 hidden states; 10 bytes since 0.16, and a
    # row of float32 for each of 132 programs
    estimate = at(engine_version="0.13.0")
    new = at(engine_version="0.17.1").phases[0].bytes_of("activation_memory")
    assert new == 128256 * (256 * 10 + 132 * 4) + 2048 * 4096 * 2
    assert estimate.phases[0].bytes_of("activation_memory") == 256 * 128256 * 38 + 2048 * 4096 * 2


def test_the_old_engine_prefills_whole_prompts():
    assert at(engine_version="0.6.6").assumed["engine_options"]["max_num_batched_tokens"] == 8192
    assert at().assumed["engine_options"]["max_num_batched_tokens"] == 2048


def test_large_gpus_get_larger_steps():
    h100, a100 = (at(gpu=find_gpu(name)).assumed["engine_options"] for name in ("H100-80GB", "A100-80GB"))
    assert (h100["max_num_batched_tokens"], h100["max_num_seqs"]) == (8192, 1024)
    assert (a100["max_num_batched_tokens"], a100["max_num_seqs"]) == (2048, 256)


def test_the_pool_is_what_is_left_of_the_share():
    estimate = at(gpu=find_gpu("A100-80GB"), sequence_length=8192, engine_version="0.10.0")
    report = estimate.engine_report
    held = estimate.phases[0]
    pool = (
        0.9 * (80 * GIB - 500 * MIB) - held.bytes_of("model_weights") - held.bytes_of("activation_memory") - 260 * MIB
    )
    assert report["kv_cache_gib"] == pytest.approx(pool / GIB, abs=0.01)
    assert report["kv_cache_tokens"] == int(pool) // (16 * 131072) * 16
    assert report["max_concurrency"] == pytest.approx(report["kv_cache_tokens"] / 8192, abs=0.01)
    assert estimate.fit["fits"] and estimate.room == pytest.approx(pool - 8192 * 131072, abs=1)


def test_fit_is_the_pool_not_the_card():
    # 24 GB hold the weights and this sequence, but not within 65 % of it
    small = at(gpu=find_gpu("RTX-4090"), options={"gpu_memory_utilization": 0.65, "enforce_eager": True})
    assert not small.fit["fits"]
    assert small.room < 0
    assert any("max_model_len" in warning for warning in small.warnings)


def test_graphs_by_sizes_and_layers():
    # up to 2 × 8 sequences: 1, 2, 4, 8, 16; 33 pieces each
    report = at(options={"max_num_seqs": 8}).engine_report
    assert report["cuda_graph_gib"] == round(5 * 33 * 350_000 / GIB, 2)
    assert at(options={"enforce_eager": True}).engine_report["cuda_graph_gib"] == 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gpu_memory_utilisation": 0.9}, "engine_options.gpu_memory_utilisation"),
        ({"gpu_memory_utilization": 1.5}, "engine_options.gpu_memory_utilization"),
        ({"max_num_seqs": True}, "engine_options.max_num_seqs"),
        ({"enforce_eager": 1}, "engine_options.enforce_eager"),
    ],
)
def test_options_are_checked_by_name_and_type(options, field):
    with pytest.raises((InvalidSetup, UnknownName)) as caught:
        at(options=options)
    assert caught.value.field == field


def test_data_parallel_attention_shares_nothing_of_the_cache():
    # each of 4 replicas holds its own sequence whole
    one, four = at(engine="sglang"), at(engine="sglang", data_parallel=4, data_parallel_attention=True)
    assert four.fullest[0].bytes_of("kv_cache") == one.phases[0].bytes_of("kv_cache")
    assert four.cache["needed_bytes"] == 4 * one.cache["needed_bytes"]


def test_a_checkpoint_can_bring_an_fp8_cache():
    block = {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    model = read_model({**LLAMA.config, "quantization_config": block})
    assert at(model).cache["needed_bytes"] == at().cache["needed_bytes"] // 2
    assert at(model, engine="transformers").cache["needed_bytes"] == at().cache["needed_bytes"]


def test_segments_are_shared_below_ten_mebibytes():
    # two of 9 MiB share 20; a third takes 20 more, whose rest 11 MiB fit; 12.5 take 14; 1 MiB and less pools in 2
    assert segments([(9 * MIB, 3), (11 * MIB, 1), (25 * MIB // 2, 1), (MIB, 1)]) == (20 + 20 + 14 + 2) * MIB


def test_every_engine_names_sources():
    for name in ("vllm", "sglang", "transformers"):
        engine = find_engine(name)
        assert engine.sources and engine.versions
        assert all(option.meaning for option in engine.options)


@pytest.mark.parametrize(
    ("precision", "a_token"),
    [
        ("bfloat16", (512 + 64) * 2 + 128 + 4),  # the indexer's key in fp8, with a float32 scale
        ("fp8", 512 + 4 * 4 + 64 * 2 + 128 + 4),  # scales of 128 each, the rotary part in 16 bit
    ],
)
def test_an_indexer_packs_its_key(precision, a_token):
    config = {
        "model_type": "deepseek_v32",
        "num_hidden_layers": 2,
        "first_k_dense_replace": 2,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "vocab_size": 1024,
        "max_position_embeddings": 4096,
    }
    estimate = at(read_model(config), sequence_length=1600, kv_cache_precision=precision)
    assert estimate.cache["reserved_bytes"] == 2 * 1600 * a_token


def test_compressed_entries_grow_beyond_the_window():
    # a layer that keeps a window and one entry for every 4 tokens: both are caches of their own
    @dataclass(frozen=True)
    class Compressed(Block):
        def cache(self, tokens, tensor=1):
            return 512 * (min(tokens, 128) + tokens // 4)

    @dataclass(frozen=True)
    class Mixer:
        heads: int = 8
        window: int = 128

    model = replace(LLAMA, layers=(Compressed(Mixer(), None),) * 2)
    made = kinds(model, ALONE, 0, KV_CACHE_PRECISIONS["bfloat16"], 2)
    assert set(made) == {Kind(2, 1024, 128), Kind(2, 256)}


def test_a_hybrid_takes_pages_as_its_log_says():
    # Qwen3.5-27B: 41.03 GiB hold 71.42 requests of 4,096 tokens: each takes 6 pages of tokens and 3 × 2 of states, of
    # 16 layers × 784 tokens × 4,096 bytes
    model = library().get("Qwen3.5-27B")[0].model
    options = {"max_model_len": 4096, "max_num_batched_tokens": 4096}
    estimate = at(model, options=options, batch_size=71, sequence_length=4096, quantization="fp8")
    reserved = estimate.phases[1].bytes_of("kv_cache")
    assert reserved == 71 * 12 * 16 * 784 * 4096
    assert reserved * 71.42 / 71 / GIB == pytest.approx(41.03, abs=0.05)


def test_a_small_share_that_holds_the_weights_is_of_a_large_gpu():
    # 15 GiB in 20 % of a GPU: it has 75 GiB or more
    assert at(options={"gpu_memory_utilization": 0.2}).engine_report["non_torch_gib"] == 0.25
    assert at().engine_report["non_torch_gib"] == 0.05
