"""Adapters: as many parameters as peft makes, and what they train with."""

import pytest

from calculator.architectures import read_model
from calculator.errors import InvalidSetup
from calculator.library import library
from calculator.setup import Lora, TrainingSetup
from calculator.training import adapter_tensors, training

FEW = Lora(8, ("q_proj", "v_proj"))
ALL = Lora(16, ("all-linear",))
DORA = Lora(64, ("q_proj", "k_proj", "v_proj", "o_proj"), dora=True)

# Trainable parameters of peft 0.21.2 on the transformers 5.23.0 model class on the meta device.
COUNTS = [
    ("Llama-3.1-8B", 3_407_872, 41_943_040, 54_853_632),  # 32 · (8·(4096+4096) + 8·(4096+1024)) = 3,407,872
    ("Qwen2.5-7B", 2_523_136, 40_370_176, 40_599_552),
    ("Mistral-7B-v0.3", 3_407_872, 41_943_040, 54_853_632),
    ("OLMo-2-1124-7B", 4_194_304, 39_976_960, 67_633_152),
    ("gemma-2-9b", 4_472_832, 54_018_048, 72_059_904),
    ("Qwen3-0.6B", 1_146_880, 10_092_544, 18_493_440),
]


def model(name):
    return library().get(name)[0].model


@pytest.mark.parametrize(("name", "few", "every", "dora"), COUNTS, ids=[row[0] for row in COUNTS])
def test_adapters_are_as_many_as_pefts(name, few, every, dora):
    found = [sum(t.elements for t in adapter_tensors(model(name), lora)) for lora in (FEW, ALL, DORA)]
    assert found == [few, every, dora]


def test_a_frozen_base_has_neither_gradients_nor_states():
    estimate = training(
        model("Llama-3.1-8B"), TrainingSetup(method="lora", lora=ALL, precision="bfloat16", mixed_precision="none")
    )
    # float32 adapters: 4 bytes of gradient and 8 of AdamW for each of 41,943,040 parameters
    assert estimate.states["gradients"] == 4 * 41_943_040
    assert estimate.states["optimizer_states"] == 8 * 41_943_040
    assert estimate.peak.bytes_of("model_weights") == 2 * 8_030_261_248


@pytest.mark.parametrize(
    ("quantization", "low", "high"),
    [
        # 6,979,321,856 parameters of linear layers at 4 + 32/64 bits, and 1,050,939,392 others at 16
        ("bnb-nf4", 6_027_675_000, 6_027_800_000),
        # double quantization: 4 + 8/64 + 32/(64·256) bits
        ("bnb-nf4-dq", 5_702_200_000, 5_703_600_000),
    ],
)
def test_a_packed_base_counts_its_scales(quantization, low, high):
    estimate = training(
        model("Llama-3.1-8B"),
        TrainingSetup(method="qlora", lora=ALL, quantization=quantization, mixed_precision="none"),
    )
    assert low <= estimate.peak.bytes_of("model_weights") <= high


def test_qlora_is_packed_with_double_quantization_unless_said():
    estimate = training(model("Qwen3-0.6B"), TrainingSetup(method="qlora", lora=ALL))
    assert estimate.assumed["quantization"] == "bnb-nf4-dq"


def test_float16_alone_brings_norms_embedding_and_head_to_float32():
    """peft's prepare_model_for_kbit_training: 4 bytes for all that is not packed."""
    half = TrainingSetup(method="qlora", lora=ALL, precision="bfloat16", mixed_precision="none")
    wide = TrainingSetup(method="qlora", lora=ALL, precision="float16", mixed_precision="none")
    name = "Mistral-7B-v0.3"
    less, more = (training(model(name), each).peak.bytes_of("model_weights") for each in (half, wide))
    # embedding and head of 32,768 × 4,096, and 65 norms of 4,096, at two bytes more
    assert more - less == 2 * (2 * 32_768 * 4096 + 65 * 4096)


SMALL = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
}


@pytest.mark.parametrize(
    ("dora", "checkpointing", "peak", "moment"),
    [
        # counted with torch 2.13.0, transformers 5.23.0 and peft 0.21.2: 2 × 512 tokens, fused AdamW
        (False, "none", 427_921_408, "loss"),
        (False, "full", 223_884_288, "backward"),
        (True, "none", 737_262_592, "forward"),
        (True, "full", 366_224_384, "backward"),
    ],
)
def test_a_step_with_adapters_takes_what_was_counted(dora, checkpointing, peak, moment):
    setup = TrainingSetup(
        batch_size=2,
        sequence_length=512,
        method="lora",
        lora=Lora(16, dora=dora),
        precision="bfloat16",
        mixed_precision="none",
        optimizer_implementation="fused",
        gradient_checkpointing=checkpointing,
    )
    estimate = training(read_model(SMALL), setup)
    assert estimate.peak.total == pytest.approx(peak, rel=3e-4)
    assert estimate.peak.name == moment


def test_embedding_and_head_are_adapted_only_by_name():
    named = Lora(8, ("q_proj", "embed_tokens", "lm_head"))
    found = sum(tensor.elements for tensor in adapter_tensors(read_model(SMALL), named))
    assert found == 4 * 8 * (1024 + 1024) + 2 * 8 * (2048 + 1024)
    assert training(read_model(SMALL), TrainingSetup(method="lora", lora=named)).peak.total > 0


def test_a_target_that_no_layer_has_is_refused_with_those_it_has():
    with pytest.raises(InvalidSetup, match="it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):
        training(read_model(SMALL), TrainingSetup(method="lora", lora=Lora(8, ("c_attn",))))


@pytest.mark.parametrize(("batch", "length", "peak"), [(1, 512, 3_418_384_384), (2, 1024, 6_628_059_136)])
def test_below_the_first_adapter_nothing_is_kept(batch, length, peak):
    # LFM2 begins with two convolutions, without q_proj: counted with torch 2.13.0, transformers 5.23.0, peft 0.21.2
    asked = TrainingSetup(
        batch,
        length,
        precision="bfloat16",
        mixed_precision="none",
        method="lora",
        lora=Lora(16, ("q_proj", "v_proj")),
    )
    assert training(model("LFM2-1.2B"), asked).peak.total == pytest.approx(peak, rel=5e-5)
