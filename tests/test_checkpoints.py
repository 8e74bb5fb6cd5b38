"""Blocks of `quantization_config` as checkpoints on the Hugging Face Hub write them."""

from typing import Any

import pytest

from calculator.checkpoints import read_quantization, recipe_of
from calculator.errors import InvalidConfig
from calculator.formats import Facts
from calculator.tensors import Tensor

FACTS = Facts(61)
QUERY = Tensor("self_attn.q_proj.weight", (4096, 4096), "attention", "attn_q", True)
EXPERTS = Tensor("mlp.experts.down_proj", (64, 4096, 1024), "experts", "ffn_down_exps", True, experts=64)
SHARED = Tensor("mlp.shared_experts.up_proj.weight", (1024, 4096), "shared_experts", "ffn_up_shexp", True)

FLOAT4 = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
FLOAT8 = {"dynamic": False, "num_bits": 8, "type": "float", "strategy": "channel"}

BLOCKS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    (
        "deepseek-v3",
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        "fp8",
        {"strategy": "block", "block_size": 128},
    ),
    (
        "devstral-2",
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None, "dequantize": False},
        "fp8",
        {"strategy": "tensor"},
    ),
    (
        "qwen gptq",
        {"quant_method": "gptq", "bits": 8, "group_size": 128, "desc_act": False, "sym": True},
        "gptq-int8",
        {"group_size": 128},
    ),
    (
        "gptqmodel with modules left out",
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"-:.*shared_expert": {}}},
        "gptq-int4",
        {"group_size": 32, "ignore": ("re:.*shared_expert",)},
    ),
    (
        "qwen awq",
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "modules_to_not_convert": None},
        "awq-int4",
        {"group_size": 128, "zero_point": True},
    ),
    (
        "nf4",
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        "bnb-nf4-dq",
        {},
    ),
    ("int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8", {}),
    ("gpt-oss", {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, "mxfp4", {"experts_only": True}),
    (
        "fp8 of compressed-tensors",
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": FLOAT8}}},
        "fp8",
        {"strategy": "channel"},
    ),
    (
        "w4a16 of compressed-tensors",
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128},
                }
            },
            "ignore": ["lm_head"],
        },
        "w4a16",
        {"group_size": 128, "symmetric": True, "ignore": ("lm_head",)},
    ),
    (
        "w8a8 of compressed-tensors",
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}},
        },
        "w8a8-int8",
        {},
    ),
    (
        "nvfp4 of modelopt",
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "config_groups": {"group_0": {"weights": FLOAT4}}},
        "nvfp4",
        {},
    ),
    (
        "hf_quant_config.json of modelopt",
        {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
        "fp8",
        {"strategy": "tensor", "ignore": ("lm_head",)},
    ),
    (
        "quark",
        {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}},
        "fp8",
        {"strategy": "tensor"},
    ),
    (
        "quark fp4",
        {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}},
        "mxfp4",
        {"experts_only": False},
    ),
    ("fbgemm", {"quant_method": "fbgemm_fp8"}, "fp8", {"strategy": "channel"}),
]


@pytest.mark.parametrize(("block", "name", "options"), [row[1:] for row in BLOCKS], ids=[row[0] for row in BLOCKS])
def test_a_block_is_read_as_its_format(block: dict[str, Any], name: str, options: dict[str, Any]) -> None:
    assert read_quantization(block) == (name, options)
    assert recipe_of(block).name == name


def test_options_out_of_range_are_a_fault_of_the_configuration() -> None:
    with pytest.raises(InvalidConfig, match="group_size is a positive integer"):
        recipe_of({"quant_method": "gptq", "bits": 4, "group_size": -5})
    groups = {f"group_{place}": {"weights": FLOAT8} for place in range(17)}
    with pytest.raises(InvalidConfig, match="more than 16 groups"):
        recipe_of({"quant_method": "compressed-tensors", "config_groups": groups})


def stored(block: dict[str, Any], tensor: Tensor, layer: int, **config: Any) -> str:
    return recipe_of(block, config).stored(tensor, layer, FACTS).format.name


def test_modules_named_by_a_configuration_stay_in_16_bit() -> None:
    block = {
        "quant_method": "modelopt",
        "config_groups": {"group_0": {"weights": FLOAT4, "targets": ["Linear"]}},
        "ignore": ["lm_head", "model.layers.0*", "model.layers.1.*", "model.layers.10.mlp.shared_experts*"]
        + [f"model.layers.{layer}.self_attn*" for layer in range(61)],
    }
    assert stored(block, QUERY, 10) == "bfloat16"
    assert stored(block, EXPERTS, 0) == "bfloat16"
    assert stored(block, EXPERTS, 10) == "nvfp4"
    assert stored(block, SHARED, 10) == "bfloat16"
    assert stored(block, SHARED, 11) == "nvfp4"


def test_several_groups_each_take_their_targets() -> None:
    block = {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": FLOAT8},
            "group_1": {"targets": ["re:.*mlp.experts.\\d+.(gate|up|down)_proj$"], "weights": FLOAT4},
        },
    }
    assert stored(block, QUERY, 3) == "fp8"
    assert stored(block, EXPERTS, 3) == "nvfp4"


def test_layers_listed_one_by_one_with_their_algorithm() -> None:
    block = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "exclude_modules": ["lm_head"],
        "quantized_layers": {
            "language_model.model.layers.3.self_attn.q_proj": {"quant_algo": "MXFP8"},
            **{
                f"language_model.model.layers.3.block_sparse_moe.experts.{expert}.w2": {
                    "quant_algo": "NVFP4",
                    "group_size": 16,
                }
                for expert in range(64)
            },
        },
    }
    assert stored(block, QUERY, 3) == "mxfp8"
    assert stored(block, EXPERTS, 3) == "nvfp4"
    assert stored(block, QUERY, 4) == stored(block, EXPERTS, 4) == "bfloat16"


def test_experts_in_fp4_are_said_outside_the_block() -> None:
    block = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    assert stored(block, EXPERTS, 5, expert_dtype="fp4") == "mxfp4"
    assert stored(block, QUERY, 5, expert_dtype="fp4") == "fp8"
    assert recipe_of(block, {"expert_dtype": "fp4"}).bytes(EXPERTS, 5, FACTS) == EXPERTS.elements // 32 * 17


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"quant_method": "aqlm"}, "unknown quantization method 'aqlm'; known: fp8"),
        ({}, "unknown quantization method"),
        ({"quant_method": "gptq", "bits": 3}, "gptq with 3 bits"),
        ({"quant_method": "awq", "bits": 8}, "awq with 8 bits"),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit"),
        ({"quant_method": "compressed-tensors"}, "cannot be read"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "no group of weights"),
        ({"quant_method": "modelopt", "quant_algo": "INT3"}, "algorithm 'INT3'"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int2"}}}, "weights of int2"),
        ({"quant_method": "fp8", "weight_block_size": [None]}, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(block: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfig, match=says) as raised:
        read_quantization(block)
    assert raised.value.field == "config.quantization_config"
