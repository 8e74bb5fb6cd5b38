"""Megatron: Transformer Engine's layers over tensor, context, expert and pipeline parallelism."""

import pytest

from calculator.architectures import read_model
from calculator.setup import TrainingSetup
from calculator.training import training
from calculator.units import GIB


def llama(layers, hidden, heads, kv_heads, wide):
    return read_model(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": wide,
            "vocab_size": 128_256,
        }
    )


def deepseek():
    return read_model(
        {
            "model_type": "deepseek_v3",
            "hidden_size": 7168,
            "num_hidden_layers": 4,
            "first_k_dense_replace": 1,
            "num_attention_heads": 128,
            "intermediate_size": 18_432,
            "moe_intermediate_size": 2048,
            "vocab_size": 129_280,
        }
    )


def setup(length=4096, **ways):
    return TrainingSetup(
        sequence_length=length,
        attention="flash",
        framework="megatron",
        optimizer_implementation="fused",
        zero_stage=1,
        micro_batches=8,
        **ways,
    )


SMALL = (12, 8192, 64, 8, 28_672)  # Llama 3 70B with 12 layers
LARGE = (4, 16_384, 128, 16, 53_248)  # Llama 3.1 405B with 4

# Peak of torch's allocator in GiB, the largest of all ranks: Megatron-LM 0.14, Transformer Engine 2.11, B200.
# [MooreThreads/SimuMax, B200 validation v1.2]
MEASURED = [
    ("70B tp4 dp2", SMALL, setup(tensor_parallel=4, data_parallel=2, sequence_parallel=True), 39.07),
    ("405B tp2 dp4", LARGE, setup(tensor_parallel=2, data_parallel=4, sequence_parallel=True), 81.59),
    ("405B tp8", LARGE, setup(tensor_parallel=8, sequence_parallel=True), 38.57),
    ("70B cp8", SMALL, setup(32_768, context_parallel=8), 104.51),
    ("70B cp8, longer", SMALL, setup(131_072, context_parallel=8), 147.99),
    ("405B tp2 cp4", LARGE, setup(32_768, tensor_parallel=2, context_parallel=4, sequence_parallel=True), 87.03),
    ("405B cp8", LARGE, setup(32_768, context_parallel=8), 139.22),
    ("DeepSeek-V3 ep8 dp8", None, setup(expert_parallel=8, data_parallel=8), 104.3),
    ("DeepSeek-V3 ep4 pp2 dp4", None, setup(expert_parallel=4, pipeline_parallel=2, data_parallel=4), 114.0),
]


@pytest.mark.parametrize(("sizes", "asked", "gib"), [row[1:] for row in MEASURED], ids=[row[0] for row in MEASURED])
def test_answers_are_near_measured_peaks(sizes, asked, gib):
    estimate = training(llama(*sizes) if sizes else deepseek(), asked)
    assert estimate.fullest_peak.total == pytest.approx(gib * GIB, rel=0.02)


def test_a_layer_keeps_what_its_kernels_save():
    estimate = training(llama(*SMALL), setup(tensor_parallel=4, sequence_parallel=True))
    hidden, queries, keys, wide, ways = 8192, 8192, 1024, 28_672, 4
    # both norms' inputs and outputs; q, k, v and the attention's output; gate, up and their product; figures
    bytes_ = (8 * hidden + 4 * queries + 4 * keys + 6 * wide + 4 * 64) // ways + 2 * 4
    assert estimate.saved_per_layer == bytes_ * 4096


def test_gradients_are_kept_in_float32():
    estimate = training(llama(*SMALL), setup())
    assert estimate.states["gradients"] == 4 * estimate.states["model_weights"] // 2


def test_more_micro_batches_than_stages_change_nothing():
    few, many = (
        training(llama(*SMALL), setup(pipeline_parallel=2)),
        training(llama(*SMALL), TrainingSetup(**{**_said(setup(pipeline_parallel=2)), "micro_batches": 32})),
    )
    assert few.fullest_peak.total == many.fullest_peak.total


def _said(asked):
    return asked._asdict()
