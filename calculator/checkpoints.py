"""Reading the `quantization_config` of a Hugging Face configuration.

Each method writes its block in its own way; all of them come out as names and options of `quantization.RECIPES`.
Lists of modules that stay in 16 bit are taken along: they decide gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import InvalidConfig, InvalidSetup
from .formats import Recipe
from .quantization import Mixed, Weights, find_recipe

Read = tuple[str, dict[str, Any]]

MOST_GROUPS = 16  # of weights with a format of their own
_WHERE = "config.quantization_config"


def read_quantization(block: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Read:
    """Name and options, for `find_recipe`, of a `quantization_config` that holds one format.

    >>> read_quantization({"quant_method": "gptq", "bits": 4, "group_size": 32})
    ('gptq-int4', {'group_size': 32})
    """
    return _read(block, config)[0]


def recipe_of(block: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that a `quantization_config` describes: one format, or several for different modules.

    `config` is the configuration it stands in, for what some families say outside the block.
    """
    try:
        parts = [find_recipe(name, options) for name, options in _read(block, config)]
    except InvalidSetup as fault:
        raise InvalidConfig(f"quantization_config cannot be read: {fault.message}", _WHERE) from fault
    if len(parts) == 1:
        return parts[0]
    mixed = tuple(part for part in parts if isinstance(part, Weights))
    return Mixed("+".join(dict.fromkeys(part.name for part in mixed)), "quantization_config", mixed)


def _read(block: Mapping[str, Any], config: Mapping[str, Any] | None) -> list[Read]:
    method = str(block.get("quant_method") or "").lower().replace("_", "-")
    if not method and ("quant_algo" in block or "quantization" in block):
        method = "modelopt"
    reader = _METHODS.get(method)
    if reader is None:
        said = f"unknown quantization method '{method}'; known: {', '.join(_METHODS)}"
        raise InvalidConfig(said, _WHERE)
    try:
        read = reader(block)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as fault:
        message = f"quantization_config of method '{method}' cannot be read: {fault}"
        raise InvalidConfig(message, _WHERE) from fault
    if config and config.get("expert_dtype") == "fp4" and not any(name == "nvfp4" for name, _ in read):
        # DeepSeek-V4 publishes experts in MXFP4 inside an fp8 checkpoint and says so outside the block
        read = [("mxfp4", {"experts_only": True}), *read]
    return read


def _unknown(method: str, what: str) -> InvalidConfig:
    return InvalidConfig(f"{method} with {what} is not known", _WHERE)


def _kept(block: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The list of modules that stay in 16 bit, under any of its names."""
    listed = [str(each) for name in names for each in (block.get(name) or ())]
    return {"ignore": tuple(listed)} if listed else {}


def _read_fp8(block: Mapping[str, Any]) -> list[Read]:
    if block.get("quantized_layers"):
        return _read_modelopt(block)
    options = _kept(block, "modules_to_not_convert", "ignored_layers", "ignore")
    size = block.get("weight_block_size")
    if size:
        return [("fp8", {"strategy": "block", "block_size": int(size[0]), **options})]
    return [("fp8", {"strategy": "tensor", **options})]


def _read_gptq(block: Mapping[str, Any]) -> list[Read]:
    bits = int(block.get("bits", 4))
    if bits not in (4, 8):
        raise _unknown("gptq", f"{bits} bits")
    dynamic = block.get("dynamic") or {}
    skipped = {"ignore": tuple("re:" + key[2:].lstrip() for key in dynamic if key.startswith("-:"))}
    options = {**(skipped if skipped["ignore"] else {}), **_kept(block, "modules_to_not_convert")}
    return [(f"gptq-int{bits}", {"group_size": int(block.get("group_size", 128)), **options})]


def _read_awq(block: Mapping[str, Any]) -> list[Read]:
    bits = int(block.get("bits", block.get("w_bit", 4)))
    if bits != 4:
        raise _unknown("awq", f"{bits} bits")
    group = int(block.get("group_size", block.get("q_group_size", 128)))
    zeros = bool(block.get("zero_point", True))
    kept = _kept(block, "modules_to_not_convert")
    return [("awq-int4", {"group_size": group, "zero_point": zeros, **kept})]


def _read_bitsandbytes(block: Mapping[str, Any]) -> list[Read]:
    kept = _kept(block, "llm_int8_skip_modules")
    if block.get("load_in_8bit"):
        return [("bnb-int8", kept)]
    if not block.get("load_in_4bit"):
        raise _unknown("bitsandbytes", "neither load_in_4bit nor load_in_8bit")
    return [("bnb-nf4-dq" if block.get("bnb_4bit_use_double_quant") else "bnb-nf4", kept)]


def _read_mxfp4(block: Mapping[str, Any]) -> list[Read]:
    return [("mxfp4", {"experts_only": True})]


def _of_weights(weights: Mapping[str, Any], where: str) -> Read:
    """Name and options of one group of compressed-tensors or modelopt: bits, kind of number, what shares a scale."""
    bits, kind = int(weights["num_bits"]), str(weights.get("type", "int"))
    group = weights.get("group_size")
    strategy = str(weights.get("strategy") or ("group" if group else "tensor"))
    if kind == "float" and bits == 4:
        return ("mxfp4", {"experts_only": False}) if group == 32 else ("nvfp4", {})
    if kind == "float" and bits == 8:
        if group == 32:
            return "mxfp8", {}
        shape = weights.get("block_structure")
        if strategy == "block" and shape:
            return "fp8", {"strategy": "block", "block_size": int(shape[0])}
        return "fp8", {"strategy": "channel" if strategy == "channel" else "tensor"}
    if kind == "int" and bits == 8 and not group:
        return "w8a8-int8", {}
    if kind == "int" and bits in (4, 8):
        return f"w{bits}a16", {"group_size": int(group or -1), "symmetric": bool(weights.get("symmetric", True))}
    raise _unknown(where, f"{bits}-bit {kind} weights")


def _read_groups(block: Mapping[str, Any], where: str) -> list[Read]:
    kept = _kept(block, "ignore", "exclude_modules")
    read: list[Read] = []
    if len(block["config_groups"]) > MOST_GROUPS:
        raise _unknown(where, f"more than {MOST_GROUPS} groups of weights")
    for group in block["config_groups"].values():
        if not group.get("weights"):
            continue
        name, options = _of_weights(group["weights"], where)
        targets = [str(each) for each in group.get("targets") or ["Linear"]]
        if "Linear" not in targets:
            options["targets"] = tuple(targets)
        read.append((name, {**options, **kept}))
    if not read:
        raise _unknown(where, "no group of weights")
    return sorted(read, key=lambda each: "targets" not in each[1])


_ALGORITHMS: Mapping[str, Read] = {
    "FP8": ("fp8", {"strategy": "tensor"}),
    "FP8_PER_CHANNEL_PER_TOKEN": ("fp8", {"strategy": "channel"}),
    "FP8_PB_WO": ("fp8", {"strategy": "block"}),
    "FP8_BLOCK_SCALES": ("fp8", {"strategy": "block"}),
    "NVFP4": ("nvfp4", {}),
    "MXFP4": ("mxfp4", {"experts_only": False}),
    "MXFP8": ("mxfp8", {}),
    "W4A16_AWQ": ("w4a16", {}),
    "INT4_AWQ": ("w4a16", {}),
    "W8A8_SQ_PER_CHANNEL": ("w8a8-int8", {}),
}


def _algorithm(name: str) -> Read:
    found = _ALGORITHMS.get(name.upper())
    if found is None:
        raise _unknown("modelopt", f"algorithm '{name}'")
    return found[0], dict(found[1])


def _read_modelopt(block: Mapping[str, Any]) -> list[Read]:
    inner = block.get("quantization")
    if isinstance(inner, Mapping):
        block = inner
    kept = _kept(block, "ignore", "exclude_modules", "modules_to_not_convert")
    layers = block.get("quantized_layers")
    if layers:
        named: dict[str, list[str]] = {}
        for module, how in layers.items():
            named.setdefault(str(how["quant_algo"]), []).append(_stack(str(module)))
        read = []
        for algorithm, modules in named.items():
            name, options = _algorithm(algorithm)
            read.append((name, {**options, "targets": tuple(dict.fromkeys(modules)), **kept}))
        if block.get("weight_block_size"):  # the rest of an fp8 checkpoint whose experts were requantized
            read.append(("fp8", {"strategy": "block", "block_size": int(block["weight_block_size"][0])}))
        return read
    if block.get("config_groups"):
        return _read_groups(block, "modelopt")
    name, options = _algorithm(str(block["quant_algo"]))
    return [(name, {**options, **kept})]


def _stack(module: str) -> str:
    """A single expert is named by its stack: models hold experts stacked, and lists name each of hundreds."""
    head, found, _ = module.partition(".experts.")
    return head + ".experts" if found else module


def _read_compressed(block: Mapping[str, Any]) -> list[Read]:
    return _read_groups(block, "compressed-tensors")


def _read_quark(block: Mapping[str, Any]) -> list[Read]:
    weight = block["global_quant_config"]["weight"]
    if isinstance(weight, Sequence) and not isinstance(weight, str):
        weight = weight[0]
    kept = _kept(block, "exclude")
    dtype, scheme = str(weight["dtype"]), str(weight.get("qscheme") or "")
    if dtype.startswith("fp8"):
        return [("fp8", {"strategy": "channel" if "channel" in scheme else "tensor", **kept})]
    if dtype == "fp4":
        return [("mxfp4", {"experts_only": False, **kept})]
    if dtype == "int8":
        return [("w8a8-int8", kept)]
    if dtype in ("int4", "uint4"):
        size = int(weight.get("group_size") or -1)
        return [("w4a16", {"group_size": size, "symmetric": dtype == "int4", **kept})]
    raise _unknown("quark", f"weights of {dtype}")


def _read_fbgemm(block: Mapping[str, Any]) -> list[Read]:
    return [("fp8", {"strategy": "channel", **_kept(block, "modules_to_not_convert")})]


_METHODS: Mapping[str, Callable[[Mapping[str, Any]], list[Read]]] = {
    "fp8": _read_fp8,
    "fbgemm-fp8": _read_fbgemm,
    "gptq": _read_gptq,
    "gptqmodel": _read_gptq,
    "awq": _read_awq,
    "bitsandbytes": _read_bitsandbytes,
    "compressed-tensors": _read_compressed,
    "mxfp4": _read_mxfp4,
    "modelopt": _read_modelopt,
    "modelopt-fp4": _read_modelopt,
    "quark": _read_quark,
}
