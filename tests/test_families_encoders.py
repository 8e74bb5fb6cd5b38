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
    "eager_prefill": Mode(step="prefill", attention="eager"),
    "eager_decode": Mode(step="decode", attention="eager"),
}
PEAKS = [(name, phase) for name, row in COUNTED.items() for phase in row["peaks"]]
SAVED = [(name, mode) for name, row in COUNTED.items() for mode in row["saved"]]
# Where the program is not the modeling file's to the last operator: what it may differ by.
WIDER: dict[tuple[str, str], float] = {
    ("t5", "checkpointed"): 0.02,
    ("mt5", "checkpointed"): 0.045,
    ("umt5", "checkpointed"): 0.025,
    ("deberta-v2", "eager_prefill"): 0.035,
    ("esm", "autocast"): 0.025,
    ("esm", "checkpointed"): 0.06,
    ("roberta-prelayernorm", "prefill"): 0.035,
}


@pytest.mark.parametrize("name", COUNTED)
def test_small_ones_are_counted_to_the_last(name: str) -> None:
    assert read_model(COUNTED[name]["config"]).parameters == COUNTED[name]["parameters"]


@pytest.mark.parametrize(("name", "mode"), SAVED)
def test_a_layer_keeps_what_was_counted(name: str, mode: str) -> None:
    model = read_model(COUNTED[name]["config"])
    how = settled(model, replace(MODES[mode], exceeded=frozenset(each for each in model.windows if each <= LENGTH)))
    kept = trace(model.layers[1], how, model.hidden, how.hidden, shared_tables(model, how)).saved
    assert evaluate(kept, 2, LENGTH) == pytest.approx(COUNTED[name]["saved"][mode], abs=100, rel=4e-3)


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
        need = inference_profile(model, mode, True).need(mode.step, sequences, LENGTH + (mode.step == "decode"))
    assert held + need == pytest.approx(row["peaks"][phase], rel=WIDER.get((name, phase), 1.5e-2))


# configuration, parameters as the model class of transformers 5.23.0 has them on the meta device
CLASSES: list[tuple[dict[str, Any], int]] = [
    ({"model_type": "bert"}, 109_514_298),
    ({"model_type": "bert", "architectures": ["BertModel"]}, 109_482_240),
    ({"model_type": "roberta"}, 124_696_665),
    ({"model_type": "xlm-roberta"}, 109_514_298),
    ({"model_type": "camembert"}, 109_514_298),
    ({"model_type": "distilbert"}, 66_985_530),
    ({"model_type": "distilbert", "architectures": ["DistilBertModel"]}, 66_362_880),
    ({"model_type": "ibert"}, 109_514_298),
    ({"model_type": "data2vec-text"}, 109_514_298),
    ({"model_type": "albert"}, 206_368_944),
    ({"model_type": "albert", "architectures": ["AlbertModel"]}, 222_595_584),
    (
        {
            "model_type": "albert",
            "num_hidden_groups": 3,
            "inner_group_num": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "embedding_size": 16,
        },
        696_480,
    ),
    ({"model_type": "big_bird"}, 128_111_286),
    ({"model_type": "big_bird", "use_bias": False, "architectures": ["BigBirdModel"]}, 127_441_152),
    ({"model_type": "convbert"}, 106_303_170),
    (
        {
            "model_type": "convbert",
            "architectures": ["ConvBertModel"],
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "head_ratio": 2,
        },
        25_751_256,
    ),
    ({"model_type": "deberta"}, 124_685_913),
    (
        {
            "model_type": "deberta",
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_biased_input": False,
            "max_relative_positions": -1,
        },
        139_244_121,
    ),
    (
        {
            "model_type": "deberta",
            "relative_attention": True,
            "pos_att_type": "c2p|p2c",
            "type_vocab_size": 2,
            "talking_head": True,
            "architectures": ["DebertaModel"],
        },
        138_999_936,
    ),
    ({"model_type": "deberta-v2"}, 879_999_588),
    (
        {
            "model_type": "deberta-v2",
            "relative_attention": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
            "max_relative_positions": -1,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 6,
            "intermediate_size": 3072,
        },
        142_024_548,
    ),
    (
        {
            "model_type": "deberta-v2",
            "relative_attention": True,
            "pos_att_type": "p2c|c2p",
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "conv_kernel_size": 3,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 6,
            "intermediate_size": 3072,
            "architectures": ["DebertaV2Model"],
        },
        150_556_416,
    ),
    ({"model_type": "electra"}, 13_546_682),
    ({"model_type": "electra", "architectures": ["ElectraModel"], "embedding_size": 256}, 17_422_848),
    ({"model_type": "ernie"}, 109_514_298),
    ({"model_type": "ernie", "use_task_id": True, "architectures": ["ErnieModel"]}, 109_484_544),
    ({"model_type": "esm", "vocab_size": 33}, 86_461_618),
    (
        {
            "model_type": "esm",
            "vocab_size": 33,
            "position_embedding_type": "rotary",
            "emb_layer_norm_before": True,
            "architectures": ["EsmModel"],
        },
        85_673_617,
    ),
    ({"model_type": "eurobert"}, 310_266_624),
    (
        {"model_type": "eurobert", "num_key_value_heads": 4, "architectures": ["EuroBertModel"], "mlp_bias": True},
        202_411_776,
    ),
    ({"model_type": "flaubert"}, 667_119_041),
    ({"model_type": "flaubert", "n_langs": 3, "architectures": ["FlaubertModel"]}, 667_095_040),
    ({"model_type": "fnet"}, 83_485_184),
    ({"model_type": "fnet", "architectures": ["FNetModel"]}, 82_861_056),
    ({"model_type": "funnel"}, 131_003_706),
    ({"model_type": "funnel", "block_sizes": [2, 3], "block_repeats": [1, 2], "d_head": 32}, 66_897_594),
    ({"model_type": "gte"}, 306_210_496),
    ({"model_type": "gte", "architectures": ["GteModel"]}, 305_368_320),
    ({"model_type": "jina_embeddings_v3"}, 559_616_146),
    ({"model_type": "layoutlm"}, 113_250_618),
    ({"model_type": "longformer"}, 130_775_610),
    ({"model_type": "longformer", "architectures": ["LongformerModel"]}, 130_743_552),
    ({"model_type": "megatron-bert"}, 333_671_808),
    ({"model_type": "megatron-bert", "architectures": ["MegatronBertModel"]}, 333_640_704),
    ({"model_type": "mobilebert"}, 36_596_538),
    (
        {
            "model_type": "mobilebert",
            "key_query_shared_bottleneck": False,
            "architectures": ["MobileBertModel"],
            "trigram_input": False,
        },
        23_131_392,
    ),
    ({"model_type": "mobilebert", "use_bottleneck_attention": True}, 35_416_890),
    ({"model_type": "modernbert"}, 149_655_232),
    (
        {
            "model_type": "modernbert",
            "attention_bias": True,
            "norm_bias": True,
            "classifier_bias": True,
            "mlp_bias": True,
            "architectures": ["ModernBertModel"],
        },
        149_184_000,
    ),
    ({"model_type": "mpnet"}, 109_516_991),
    ({"model_type": "mpnet", "architectures": ["MPNetModel"]}, 109_484_928),
    ({"model_type": "nomic_bert"}, 137_354_304),
    ({"model_type": "nomic_bert", "architectures": ["NomicBertModel"]}, 136_731_648),
    ({"model_type": "nystromformer"}, 109_122_240),
    ({"model_type": "rembert"}, 993_263_548),
    ({"model_type": "roberta-prelayernorm"}, 124_698_201),
    ({"model_type": "roformer"}, 124_197_968),
    ({"model_type": "roformer", "embedding_size": 128, "architectures": ["RoFormerModel"]}, 91_652_352),
    ({"model_type": "squeezebert"}, 51_712_314),
    ({"model_type": "xlm"}, 667_119_041),
    ({"model_type": "xlm-roberta-xl"}, 3_482_741_760),
    ({"model_type": "xlm-roberta-xl", "architectures": ["XLMRobertaXLModel"]}, 3_482_485_760),
    ({"model_type": "xlnet"}, 360_300_800),
    ({"model_type": "xlnet", "architectures": ["XLNetModel"]}, 360_268_800),
    ({"model_type": "xmod"}, 116_606_010),
    ({"model_type": "xmod", "languages": ["en", "de", "fr"], "adapter_layer_norm": True}, 130_807_866),
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
    ({"model_type": "recurrent_gemma"}, 2_010_263_040),
    ({"model_type": "rwkv"}, 7_392_649_216),
    ({"model_type": "speech_to_text"}, 29_536_256),
    ({"model_type": "switch_transformers"}, 317_312_256),
    ({"model_type": "t5gemma"}, 5_596_853_760),
    ({"model_type": "umt5"}, 172_122_112),
    ({"model_type": "xlstm"}, 6_865_424_896),
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


# model type, elements of its state whatever the length, elements of its cache at 100 tokens
STATES = [
    ("rwkv", 32 * 5 * 4096, 0),  # numerator, denominator, exponent, and the last token of two halves of 32 layers
    ("xlstm", 32 * 8 * (256 * 512 + 256 + 1), 0),  # a matrix, a vector and a figure a head
    # 18 recurrent layers: a state and three inputs of a convolution; 8 with keys and values
    ("recurrent_gemma", 18 * 4 * 2560, 8 * 2 * 100 * 2560),
]


@pytest.mark.parametrize(("kind", "state", "cache"), STATES, ids=[kind for kind, *_ in STATES])
def test_a_recurrent_decoder_keeps_a_state_of_one_size(kind: str, state: int, cache: int) -> None:
    model = read_model({"model_type": kind})
    assert (model.state(), model.cache(100)) == (state, cache)


# configuration that makes no sense, the field the message names
BAD: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "bart", "d_model": 100}, "d_model"),
    ({"model_type": "bart", "encoder_attention_heads": 0}, "encoder_attention_heads"),
    ({"model_type": "whisper", "max_source_positions": -1}, "max_source_positions"),
    ({"model_type": "speech_to_text", "conv_kernel_sizes": [5]}, "conv_kernel_sizes"),
    ({"model_type": "speech_to_text", "conv_kernel_sizes": [5, "5"]}, "conv_kernel_sizes"),
    ({"model_type": "marian", "decoder_layers": "many"}, "decoder_layers"),
    ({"model_type": "albert", "num_hidden_groups": 0}, "num_hidden_groups"),
    ({"model_type": "convbert", "num_attention_heads": 5}, "num_attention_heads"),
    ({"model_type": "deberta", "pos_att_type": 7}, "pos_att_type"),
    ({"model_type": "deberta-v2", "relative_attention": True, "position_buckets": "many"}, "position_buckets"),
    ({"model_type": "esm"}, "vocab_size"),
    ({"model_type": "esm", "vocab_size": 33, "is_folding_model": True}, "is_folding_model"),
    ({"model_type": "funnel", "block_sizes": [4, 0]}, "block_sizes"),
    ({"model_type": "funnel", "block_sizes": [4, 4], "block_repeats": [1]}, "block_repeats"),
    ({"model_type": "modernbert", "layer_types": ["full_attention"]}, "layer_types"),
    ({"model_type": "recurrent_gemma", "block_types": ["recurrent", "other"]}, "block_types"),
    ({"model_type": "recurrent_gemma", "lru_width": 2561}, "lru_width"),
    ({"model_type": "rwkv", "hidden_size": "wide"}, "hidden_size"),
    ({"model_type": "squeezebert", "q_groups": 7}, "q_groups"),
    ({"model_type": "t5gemma", "encoder": {"num_hidden_layers": 0}}, "num_hidden_layers"),
    ({"model_type": "t5gemma", "decoder": []}, "decoder"),
    ({"model_type": "xlstm", "num_heads": 7}, "num_heads"),
    ({"model_type": "xlstm", "ffn_proj_factor": -1}, "ffn_proj_factor"),
    ({"model_type": "xlm", "asm": True}, "asm"),
    ({"model_type": "xmod", "adapter_reduction_factor": 10_000}, "languages"),
    ({"model_type": "longt5", "encoder_attention_type": "all"}, "encoder_attention_type"),
    ({"model_type": "nllb-moe", "num_experts": 1}, "num_experts"),
]


@pytest.mark.parametrize(("config", "field"), BAD, ids=[f"{config['model_type']}-{field}" for config, field in BAD])
def test_figures_that_make_no_sense_are_refused(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig, match=field):
        read_model(config)
