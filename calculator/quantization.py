"""Checkpoint formats of GPU engines: what is quantized, what stays in 16 bit, what lies beside the numbers.

All of them quantize the weight matrices of linear layers and leave embeddings, the output matrix, routers, norms,
biases, convolutions and the towers of multimodal models in 16 bit, save where a configuration says otherwise
(`ignore`, `modules_to_not_convert`, groups with their own targets). Scales count exactly: those of a block of a matrix
round up at its edges, and each expert of a stack is a matrix of its own.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from math import prod
from typing import Any

from .errors import InvalidConfig, InvalidSetup, UnknownName, nearest
from .formats import BFLOAT16, FP8, INT4, INT8, MXFP4, MXFP8, NVFP4, Facts, Format, Recipe, Stored
from .gguf import FILE_TYPES, file_type
from .tensors import Tensor
from .units import ceil_div, round_up

# ---------------------------------------------------------------------------------------------- which modules

_PREFIXES = ("model", "language_model", "text_model", "transformer", "base_model", "thinker")
_SAME = {
    **dict.fromkeys(("block_sparse_moe", "feed_forward", "ffn", "moe", "mixer_mlp"), "mlp"),
    **dict.fromkeys(("attn", "attention", "self_attention"), "self_attn"),
    **dict.fromkeys(("h", "blocks"), "layers"),
}


def _plain(path: str) -> str:
    """A module's path without wrappers before its layer, its parts by one name: checkpoints of one family differ.

    >>> _plain("model.language_model.layers.3.block_sparse_moe.gate")
    'layers.3.mlp.gate'
    """
    parts = path.split(".")
    while len(parts) > 1 and parts[0] in _PREFIXES:
        parts = parts[1:]
    return ".".join(_SAME.get(part, part) for part in parts)


MOST_PATTERNS = 32  # that are neither a name nor the beginning of one: each is tried on each tensor
MOST_CHARACTERS = 200  # of a pattern


@dataclass(frozen=True, eq=False, slots=True)
class Modules:
    """A set of modules as configurations name them: whole paths, ends of paths, wildcards, expressions.

    Compared by identity: made once when a configuration is read.

    names     paths, or ends of paths
    starts    beginnings of paths, from wildcards that stand at the end
    pattern   all other wildcards and expressions
    every     every linear layer
    """

    names: frozenset[str] = frozenset()
    starts: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None
    every: bool = False

    @classmethod
    def of(cls, listed: Iterable[str]) -> Modules:
        """The set that a list of names means: "re:" marks an expression, "Linear" every linear layer."""
        names: set[str] = set()
        starts: set[str] = set()
        patterns: dict[str, None] = {}
        every = False
        for each in listed:
            if each.startswith("re:"):
                patterns[_expression(each[3:])] = None
            elif each == "Linear":
                every = True
            elif "*" in each.rstrip("*") or "?" in each:
                patterns[_wildcard(each)] = None
            elif each.endswith("*"):
                starts.add(_plain(each.rstrip("*")))
            else:
                names.add(_plain(each))
        if len(patterns) > MOST_PATTERNS:
            said = f"more than {MOST_PATTERNS} patterns of modules; name modules, or the beginnings of names"
            raise InvalidConfig(said, _WHERE)
        pattern = re.compile("|".join(patterns), re.S) if patterns else None
        return cls(frozenset(names), frozenset(starts), pattern, every)

    def __contains__(self, path: str) -> bool:
        """Whether the module of that path, one around it, or the end of its path is in the set.

        >>> "layers.0.mlp.gate" in Modules.of(["model.layers.0*"])
        True
        """
        if self.every:
            return True
        if self.names:
            parts = path.split(".")
            for cut in range(len(parts)):
                if ".".join(parts[: cut + 1]) in self.names or ".".join(parts[cut:]) in self.names:
                    return True
        if self.starts and any(path[:cut] in self.starts for cut in range(len(path) + 1)):
            return True
        return self.pattern is not None and self.pattern.fullmatch(path) is not None

    def __bool__(self) -> bool:
        return self.every or bool(self.names) or bool(self.starts) or self.pattern is not None


NO_MODULES = Modules()

_ATOM = r"\\d[+*]?|\\[.\-]|[A-Za-z0-9_\-.]|\[[A-Za-z0-9_\-]+\][+*]?|\((?:\?:)?[A-Za-z0-9_\-.|\\]*\)"
_ATOMS = re.compile(rf"(?:{_ATOM})*")
_ANYTHING = re.compile(r"\.[*+]\??")
_WRAPPERS = re.compile(r"^(?:(?:model|language_model|transformer)\\?\.)+")
_COUNTED = re.compile(r"(\\d|\])([+*])")
_RENAMED = re.compile(r"\b(?:block_sparse_moe|feed_forward|ffn)\b")


def _in_order(segments: list[str], ends: bool) -> str:
    """An expression for segments one after the other with anything between, matched without going back.

    Each is taken where it first fits, which finds a match if there is one and costs no more than the path is long.
    """
    *first, last = segments
    body = "".join(f"(?>.*?{segment})" if place else segment for place, segment in enumerate(first))
    anything = ".*" if first else ""
    return f"{body}{anything}{last}" if ends else f"{body}{anything}{last}.*"


def _expression(body: str) -> str:
    """An expression of a configuration, for paths without wrappers: literals, digits, alternatives, anything.

    Others are refused: an expression that goes back and forth over a path can take as long as it likes.
    """
    ends = body.endswith("$")
    segments = _ANYTHING.split(body.removeprefix("^").removesuffix("$"))
    if len(body) > MOST_CHARACTERS or not all(_ATOMS.fullmatch(segment) for segment in segments):
        raise InvalidConfig(f"the pattern of modules 're:{body[:80]}' is not one of those understood", _WHERE)
    if len(segments) == 1 or segments[0]:
        segments[0] = _WRAPPERS.sub("", segments[0])
    renamed = [_COUNTED.sub(r"\1\2+", _RENAMED.sub("mlp", segment)) for segment in segments]
    return rf"(?:.*?\.)?{_in_order(renamed, ends)}" if segments[0] else _in_order(renamed, ends)


def _wildcard(listed: str) -> str:
    """A list entry with "*" or "?" inside."""
    if len(listed) > MOST_CHARACTERS:
        raise InvalidConfig(f"the pattern of modules '{listed[:80]}' is too long", _WHERE)
    segments = [re.escape(each).replace(r"\?", ".") for each in _plain(listed).split("*")]
    return rf"{_in_order(segments, True)}(?:\..*)?"


_WHERE = "config.quantization_config"

_SINGLE = {"ffn_down": ("down_proj", "w2")}


@lru_cache(maxsize=65536)
def _paths(name: str, role: str, stacked: bool, layer: int | None) -> tuple[str, ...]:
    """What a configuration may call the module of a tensor: its path, and for a stack of experts a single one's."""
    module = name.removesuffix(".weight").removesuffix(".bias")
    path = _plain(module if layer is None else f"layers.{layer}.{module}")
    if not stacked:
        return (path,)
    stack = path.partition(".experts")[0] + ".experts"
    singles = _SINGLE.get(role.removesuffix("_exps"), ("gate_proj", "up_proj", "w1", "w3"))
    return (path, stack, *(f"{stack}.0.{single}" for single in singles))


def quantizable(tensor: Tensor) -> bool:
    """Whether a tensor is what quantizers take: a matrix of a linear layer that is not the head, a router or a tower.

    >>> quantizable(Tensor("lm_head.weight", (32000, 4096), "lm_head", "output", linear=True))
    False
    """
    return (
        tensor.linear
        and len(tensor.shape) >= 2
        and tensor.component not in ("lm_head", "embedding", "multimodal", "router")
        and tensor.role not in ("output", "router", "norm", "bias", "position", "embedding")
    )


# ---------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True, slots=True)
class Matrices:
    """A tensor as equal matrices: `count` of `rows` outputs by `columns` inputs."""

    count: int
    rows: int
    columns: int

    @classmethod
    def of(cls, tensor: Tensor) -> Matrices:
        """Stacked experts are so many matrices."""
        *stack, rows, columns = tensor.shape
        return cls(prod(stack) * tensor.count, rows, columns)


@dataclass(frozen=True, slots=True)
class Weights(Recipe):
    """A recipe that quantizes linear layers.

    ignore   modules that stay in 16 bit though they could be quantized
    targets  the only modules that are quantized, where a configuration names them
    rest     what all other tensors are stored in
    pads     (hidden, intermediate) sides of an expert's matrices are padded to multiples of: kernels ask for that
    """

    name: str
    source: str
    ignore: Modules = field(default=NO_MODULES, kw_only=True)
    targets: Modules = field(default=NO_MODULES, kw_only=True)
    rest: Format = field(default=BFLOAT16, kw_only=True)
    pads: tuple[int, int] = field(default=(1, 1), kw_only=True)

    def takes(self, tensor: Tensor, layer: int | None) -> bool:
        """Whether this tensor is quantized."""
        if not quantizable(tensor):
            return False
        paths = _paths(tensor.name, tensor.role, tensor.experts > 0, layer)
        if self.ignore and any(path in self.ignore for path in paths):
            return False
        return not self.targets or any(path in self.targets for path in paths)

    def stored(self, tensor: Tensor, layer: int | None, facts: Facts) -> Stored:
        """The quantized format and its scales, or 16 bit."""
        if not self.takes(tensor, layer):
            return Stored(self.rest)
        return self.quantized(Matrices.of(tensor))

    def alike(self, layer: int, facts: Facts) -> Hashable:
        """All layers are, unless modules are named."""
        return layer if self.ignore or self.targets else None

    def bytes(self, tensor: Tensor, layer: int | None, facts: Facts, held: int | None = None) -> int:
        """As every recipe, padded where kernels ask for it."""
        plain = Recipe.bytes(self, tensor, layer, facts, held)
        if self.pads == (1, 1) or not tensor.experts or not self.takes(tensor, layer):
            return plain
        *_, rows, columns = tensor.shape
        other = rows if columns == facts.hidden else columns
        hidden, halves = rows * columns // other, 2 if "gate_up" in tensor.role else 1
        padded = round_up(hidden, self.pads[0]) * halves * round_up(other // halves, self.pads[1])
        return ceil_div(plain * padded, rows * columns)

    @abstractmethod
    def quantized(self, matrices: Matrices) -> Stored:
        """The format of so many matrices and what lies beside them."""


@dataclass(frozen=True, slots=True)
class Scaled(Weights):
    """8-bit numbers with float32 scales: one for a matrix, for an output channel, or for a block of it.

    block  (rows, columns) that share a scale; 0 for all of them
    """

    format: Format = FP8
    block: tuple[int, int] = (0, 0)
    scale_bytes: int = 4

    def quantized(self, matrices: Matrices) -> Stored:
        """Scales of the blocks that cover the matrix."""
        down = ceil_div(matrices.rows, self.block[0] or matrices.rows)
        along = ceil_div(matrices.columns, self.block[1] or matrices.columns)
        return Stored(self.format, matrices.count * down * along * self.scale_bytes)


@dataclass(frozen=True, slots=True)
class Packed(Weights):
    """Integers packed into 32-bit words, a 16-bit scale and perhaps a zero point for each group of inputs.

    bits   of a weight, and of a zero point
    group  inputs that share a scale; 0 for all
    zeros  whether zero points are stored
    order  whether each input has the index of its group (4 bytes)
    """

    bits: int = 4
    group: int = 128
    zeros: bool = True
    order: bool = False

    def takes(self, tensor: Tensor, layer: int | None) -> bool:
        """A matrix whose zero points do not fill words stays as it is: gates of one output, for one."""
        return Weights.takes(self, tensor, layer) and tensor.shape[-2] % (32 // self.bits) == 0

    def quantized(self, matrices: Matrices) -> Stored:
        """Scales and zeros for each group of each output, indices for each input."""
        groups = ceil_div(matrices.columns, self.group or matrices.columns)
        parts = [matrices.count * groups * matrices.rows * 2]
        if self.zeros:
            parts.append(matrices.count * (groups * matrices.rows * self.bits // 8))
        if self.order:
            parts.append(matrices.count * matrices.columns * 4)
        return Stored(INT4 if self.bits == 4 else INT8, sum(parts), tuple(parts))


@dataclass(frozen=True, slots=True)
class NormalFloat(Weights):
    """bitsandbytes' 4-bit types: a scale for 64 weights, in float32 or itself in 8 bit with a scale for 256 of them.

    double  whether the scales are quantized too [arXiv:2305.14314]
    """

    double: bool = False

    BLOCK = 64
    OUTER = 256
    CODE = 16 * 4  # bytes of the table of 16 values
    OUTER_CODE = 256 * 4 + 4  # of the table for scales, and their offset

    def quantized(self, matrices: Matrices) -> Stored:
        """Scales over the flattened matrix, and the tables."""
        blocks = ceil_div(matrices.rows * matrices.columns, self.BLOCK)
        scales = blocks + ceil_div(blocks, self.OUTER) * 4 + self.OUTER_CODE if self.double else blocks * 4
        return Stored(INT4, matrices.count * (scales + self.CODE))


@dataclass(frozen=True, slots=True)
class Microscaled(Weights):
    """Blocks along the inputs that carry their scale: MXFP4, MXFP8, NVFP4.

    experts  whether only routed experts are quantized, as gpt-oss is published
    global_bytes  float32 scales of a whole matrix
    """

    format: Format = MXFP4
    experts: bool = False
    global_bytes: int = 0

    def takes(self, tensor: Tensor, layer: int | None) -> bool:
        """Linear layers, or of them only the routed experts."""
        return (not self.experts or tensor.experts > 0) and Weights.takes(self, tensor, layer)

    def quantized(self, matrices: Matrices) -> Stored:
        """The scales are inside the blocks, but for one or two of the whole matrix."""
        return Stored(self.format, matrices.count * self.global_bytes)


@dataclass(frozen=True, slots=True)
class Mixed(Recipe):
    """Several recipes, each with its targets: the first that takes a tensor stores it."""

    name: str
    source: str
    parts: tuple[Weights, ...]

    def stored(self, tensor: Tensor, layer: int | None, facts: Facts) -> Stored:
        """The first part that takes the tensor."""
        for part in self.parts:
            if part.takes(tensor, layer):
                return part.stored(tensor, layer, facts)
        return Stored(self.parts[-1].rest)

    def alike(self, layer: int, facts: Facts) -> Hashable:
        """Layers that are alike for every part."""
        return tuple(part.alike(layer, facts) for part in self.parts)


# ---------------------------------------------------------------------------------------------- the table

_FP8_SOURCE = "DeepSeek-V3 (arXiv:2412.19437): fp8 weights with a float32 scale for 128 × 128 of them"
_GPTQ_SOURCE = "AutoGPTQ and GPTQModel: qweight, qzeros, scales and g_idx of a linear layer"
_AWQ_SOURCE = "AutoAWQ: qweight, qzeros and scales of a linear layer"
_BNB_SOURCE = "bitsandbytes: Linear8bitLt and Linear4bit"

Build = Callable[[str, Mapping[str, Any]], Recipe]


def _number(options: Mapping[str, Any], name: str, default: int) -> int:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value == 0 or value < -1:
        raise InvalidSetup(f"{name} is a positive integer, or -1 for all inputs", f"quantization_options.{name}")
    return max(value, 0)  # -1 means no groups


def _flag(options: Mapping[str, Any], name: str, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise InvalidSetup(f"{name} is true or false", f"quantization_options.{name}")
    return value


def _fp8(name: str, options: Mapping[str, Any]) -> Recipe:
    strategy = options.get("strategy", "block")
    size = _number(options, "block_size", 128)
    blocks = {"tensor": (0, 0), "channel": (1, 0), "block": (size, size)}
    if strategy not in blocks:
        raise InvalidSetup(f"strategy is one of {', '.join(blocks)}", "quantization_options.strategy")
    return Scaled(name, _FP8_SOURCE, format=FP8, block=blocks[strategy])


def _gptq(bits: int) -> Build:
    def build(name: str, options: Mapping[str, Any]) -> Recipe:
        return Packed(name, _GPTQ_SOURCE, bits=bits, group=_number(options, "group_size", 128), zeros=True, order=True)

    return build


def _awq(name: str, options: Mapping[str, Any]) -> Recipe:
    group, zeros = _number(options, "group_size", 128), _flag(options, "zero_point", True)
    return Packed(name, _AWQ_SOURCE, bits=4, group=group, zeros=zeros)


def _compressed(bits: int) -> Build:
    def build(name: str, options: Mapping[str, Any]) -> Recipe:
        group, zeros = _number(options, "group_size", 128), not _flag(options, "symmetric", True)
        return Packed(name, "compressed-tensors: pack-quantized", bits=bits, group=group, zeros=zeros)

    return build


def _channel_int8(source: str) -> Build:
    return lambda name, options: Scaled(name, source, format=INT8, block=(1, 0))


def _normal_float(double: bool) -> Build:
    return lambda name, options: NormalFloat(name, _BNB_SOURCE, double=double)


def _mxfp4(name: str, options: Mapping[str, Any]) -> Recipe:
    source = "openai/gpt-oss: routed experts in MXFP4, everything else in 16 bit"
    return Microscaled(name, source, format=MXFP4, experts=_flag(options, "experts_only", True))


def _mxfp8(name: str, options: Mapping[str, Any]) -> Recipe:
    return Microscaled(name, "modelopt: MXFP8", format=MXFP8)


def _nvfp4(name: str, options: Mapping[str, Any]) -> Recipe:
    source = "modelopt: NVFP4, a float32 scale for the weights and one for the inputs of each matrix"
    return Microscaled(name, source, format=NVFP4, experts=_flag(options, "experts_only", False), global_bytes=8)


def _gguf(mix: str) -> Build:
    def build(name: str, options: Mapping[str, Any]) -> Recipe:
        return file_type(mix, _flag(options, "imatrix", False) if "imatrix" in options else None)

    return build


RECIPES: Mapping[str, tuple[Build, tuple[str, ...]]] = {
    "fp8": (_fp8, ("strategy", "block_size")),
    "gptq-int4": (_gptq(4), ("group_size",)),
    "gptq-int8": (_gptq(8), ("group_size",)),
    "awq-int4": (_awq, ("group_size", "zero_point")),
    "bnb-int8": (_channel_int8(_BNB_SOURCE), ()),
    "bnb-nf4": (_normal_float(False), ()),
    "bnb-nf4-dq": (_normal_float(True), ()),
    "w8a8-int8": (_channel_int8("compressed-tensors: int-quantized, a scale for each output"), ()),
    "w4a16": (_compressed(4), ("group_size", "symmetric")),
    "w8a16": (_compressed(8), ("group_size", "symmetric")),
    "mxfp4": (_mxfp4, ("experts_only",)),
    "mxfp8": (_mxfp8, ()),
    "nvfp4": (_nvfp4, ("experts_only",)),
    **{f"gguf-{mix}": (_gguf(mix), ("imatrix",)) for mix in FILE_TYPES},
}
"""Every checkpoint format by name: how it is made from options, and which options it knows."""

_ALIASES = {
    "gguf-q3_k": "gguf-q3_k_m",
    "gguf-q4_k": "gguf-q4_k_m",
    "gguf-q5_k": "gguf-q5_k_m",
    "gguf-mxfp4": "gguf-mxfp4_moe",
    "gptq": "gptq-int4",
    "awq": "awq-int4",
    "nf4": "bnb-nf4",
}

_CARRIED = ("ignore", "targets")  # lists that a configuration brings along; requests cannot say them


def find_recipe(name: str, options: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name, in any case, with options: a group size, a block size, what its row knows.

    >>> find_recipe("gptq-int4", {"group_size": 32}).name
    'gptq-int4'
    """
    said = dict(options or {})
    folded = name.lower().replace(" ", "")
    folded = _ALIASES.get(folded, folded)
    row = RECIPES.get(folded)
    if row is None:
        close = nearest(folded, RECIPES)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(RECIPES)}"
        raise UnknownName(f"unknown quantization '{name}'; {hint}", "quantization", close)
    build, known = row
    carried = {key: said.pop(key) for key in _CARRIED if key in said}
    for key in said:
        if key not in known:
            allowed = f"it knows {', '.join(known)}" if known else "it has none"
            raise InvalidSetup(f"{folded} has no option '{key}'; {allowed}", f"quantization_options.{key}")
    recipe = build(folded, said)
    if carried and isinstance(recipe, Weights):
        recipe = replace(
            recipe,
            ignore=_modules(tuple(carried.get("ignore", ()))),
            targets=_modules(tuple(carried.get("targets", ()))),
        )
    return recipe


@cache
def _modules(listed: tuple[str, ...]) -> Modules:
    return Modules.of(listed)
