"""llama.cpp's file types: which block type its quantizer gives each tensor.

A file type has a base type and a mix: value projections and the down projections of some layers get more bits, the
output matrix six, the embedding what the file type says. The rules are those of llama-quant.cpp
(github.com/ggml-org/llama.cpp, src/llama-quant.cpp, read at 007dbbf). What is not a weight matrix stays in float32:
norms, biases, routers, positions, convolutions. Towers for images and sound are files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from math import prod

from .formats import GGML, NOTHING, Facts, Format, Recipe, Stored
from .tensors import Tensor

SOURCE = "llama.cpp, src/llama-quant.cpp at 007dbbf"

BASES: Mapping[str, str] = {  # the base type of each file type
    **{name: name for name in ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q6_k")},
    **{name: name for name in ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs")},
    **{name: name for name in ("tq1_0", "tq2_0")},
    "q2_k_s": "q2_k",
    "q3_k_s": "q3_k",
    "q3_k_m": "q3_k",
    "q3_k_l": "q3_k",
    "q4_k_s": "q4_k",
    "q4_k_m": "q4_k",
    "q5_k_s": "q5_k",
    "q5_k_m": "q5_k",
    "iq2_s": "iq2_xs",
    "iq2_m": "iq2_s",
    "iq3_xs": "iq3_s",
    "iq3_m": "iq3_s",
    "mxfp4_moe": "mxfp4",
}

FALLBACK: Mapping[str, str] = {  # where a row is no multiple of the block's 256 weights
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor as the rules see it.

    base   the base type of the file
    at     its place among tensors of its kind
    of     how many layers there are
    facts  of the model
    known  whether importances were measured before (an importance matrix)
    """

    base: str
    at: int
    of: int
    facts: Facts
    known: bool

    @property
    def early(self) -> bool:
        """Among the first eighth."""
        return self.at < self.of // 8

    @property
    def first(self) -> bool:
        """Among the first sixteenth."""
        return self.at < self.of // 16

    @property
    def middle(self) -> bool:
        """Between the first and the last eighth."""
        return self.of // 8 <= self.at < 7 * self.of // 8

    @property
    def more(self) -> bool:
        """Among the layers that get more bits: the first and last eighth and every third between."""
        return not self.middle or (self.at - self.of // 8) % 3 == 2

    @property
    def shared(self) -> bool:
        """Whether at least four query heads share a value head: its matrix is small, more bits cost little."""
        return self.facts.sharing >= 4

    @property
    def falcon(self) -> bool:
        """Whether it is the one family that the quantizer treats apart."""
        return self.facts.model_type == "falcon"

    @property
    def eight(self) -> bool:
        """Whether there are eight experts: attention is small beside them, more bits cost little."""
        return self.facts.experts == 8


Rule = Callable[[Place], str]


def _same(place: Place) -> str:
    return place.base


def _always(name: str) -> Rule:
    return lambda place: name


def _when(condition: Callable[[Place], bool], name: str, otherwise: str = "") -> Rule:
    return lambda place: name if condition(place) else otherwise or place.base


def _is_shared(place: Place) -> bool:
    return place.shared


def _is_early(place: Place) -> bool:
    return place.early


def _is_more(place: Place) -> bool:
    return place.more


_SMALLEST = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m"})
_SMALL_VALUE = _when(lambda place: place.shared or place.facts.experts >= 4, "q4_k", "q2_k")
_SMALL_VALUE_3 = _when(lambda place: place.shared or place.facts.experts >= 4, "q4_k", "iq3_s")

VALUE: Mapping[str, Rule] = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"), _SMALL_VALUE),
    **dict.fromkeys(("iq2_s", "iq2_m"), _SMALL_VALUE_3),
    "q2_k": _when(_is_shared, "q4_k", "q3_k"),
    "q2_k_s": _when(_is_shared, "q4_k"),
    "iq3_xxs": lambda place: "q4_k" if place.shared else "iq3_xxs" if place.known else "iq3_s",
    "iq3_xs": _when(_is_shared, "q4_k"),
    "iq3_s": _when(_is_shared, "q4_k"),
    "iq3_m": _always("q4_k"),
    "q3_k_m": _when(lambda place: place.at < 2, "q5_k", "q4_k"),
    "q3_k_l": _always("q5_k"),
    "iq4_nl": _when(_is_shared, "q5_k"),
    "iq4_xs": _when(_is_shared, "q5_k"),
    "q4_k_s": _when(lambda place: place.at < 4, "q5_k"),
    "q4_k_m": _when(_is_more, "q6_k"),
    "q5_k_m": _when(_is_more, "q6_k"),
}

DOWN: Mapping[str, Rule] = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"), _when(_is_early, "q2_k")),
    **dict.fromkeys(("iq2_s", "iq2_m"), _when(_is_early, "iq3_s")),
    "q2_k": _always("q3_k"),
    "q2_k_s": _when(_is_early, "q4_k"),
    "iq3_xxs": lambda place: place.base if place.known else "q4_k" if place.early else "q3_k",
    "iq3_m": _when(lambda place: place.early or (place.eight and place.more), "q4_k"),
    "q3_k_m": lambda place: "q5_k" if place.first else "q4_k" if place.more or not place.falcon else "q3_k",
    "q3_k_l": lambda place: "q4_k" if place.falcon else "q5_k",
    "iq4_nl": _when(lambda place: place.early and not place.known, "q5_k"),
    "iq4_xs": _when(lambda place: place.early and not place.known, "q5_k"),
    "q4_0": _when(lambda place: place.early and place.known, "q4_1"),
    "q5_0": _when(lambda place: place.early and place.known, "q5_1"),
    "q4_k_s": _when(lambda place: place.early and not place.falcon, "q5_k"),
    "q4_k_m": lambda place: (
        ("q6_k" if place.first else "q5_k" if place.more else "q4_k")
        if place.falcon
        else ("q6_k" if place.more else "q4_k")
    ),
    "q5_k_m": _when(_is_more, "q6_k"),
}

ATTENTION: Mapping[str, Rule] = {  # the output projection, where there are not eight experts
    **dict.fromkeys(("iq1_s", "iq1_m"), _always("iq2_xxs")),
    **dict.fromkeys(("iq2_s", "iq2_m"), _always("iq3_s")),
    "q2_k": _always("q3_k"),
    "iq3_xxs": _always("iq3_s"),
    "iq3_m": _always("q4_k"),
    "q3_k_m": _always("q4_k"),
    "q3_k_l": _always("q5_k"),
}
_ATTENTION_OF_EIGHT = frozenset(
    {"q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq3_xxs", "iq3_xs", "iq3_s", "iq3_m", "iq4_nl", "iq4_xs"}
)

QUERY_AND_KEY: Mapping[str, str] = {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}

OUTPUT: Mapping[str, str] = {
    **dict.fromkeys((*_SMALLEST, "iq3_xxs"), "q5_k"),
    **dict.fromkeys(("q8_0", "mxfp4_moe"), "q8_0"),
}

EMBEDDING: Mapping[str, str] = {  # where it is not the output matrix too
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"), "q2_k"),
    **dict.fromkeys(("iq2_s", "iq2_m", "iq3_xxs"), "iq3_s"),
    **dict.fromkeys(("tq1_0", "tq2_0"), "q4_k"),
    "mxfp4_moe": "q8_0",
}

_TABLES = frozenset({"embedding", "layer_embedding"})
_FLOAT_ROLES = frozenset({"norm", "bias", "router", "position"})
_VALUES = frozenset({"attn_v", "attn_qkv", "attn_kv_b"})
_FEEDS = frozenset({"ffn_gate", "ffn_up", "ffn_gate_up"})


@dataclass(frozen=True, slots=True)
class FileType(Recipe):
    """One file type.

    mix    its name in the tables above
    known  whether importances were measured: quantizers ask for them where the bits are few
    """

    name: str
    mix: str
    known: bool
    source: str = SOURCE

    def stored(self, tensor: Tensor, layer: int | None, facts: Facts) -> Stored:
        """The block type of a tensor; nothing lies beside the blocks."""
        return NOTHING if tensor.component == "multimodal" else Stored(self.format_of(tensor, layer, facts))

    def alike(self, layer: int, facts: Facts) -> Hashable:
        """What the rules ask of a layer's place."""
        value, down = self._value_place(layer, facts), self._down_place(layer, facts)
        return min(value.at, 4), value.more, down.first, down.early, down.middle, down.more

    def _value_place(self, layer: int | None, facts: Facts) -> Place:
        many = len(facts.value_layers) or facts.layers
        return Place(BASES[self.mix], _nth(layer, facts.value_layers), many, facts, self.known)

    def _down_place(self, layer: int | None, facts: Facts) -> Place:
        """With experts the quantizer goes by the layer's number, without by counting."""
        nth = _nth(layer, facts.down_layers if facts.experts <= 1 else {})
        return Place(BASES[self.mix], nth, facts.layers, facts, self.known)

    def format_of(self, tensor: Tensor, layer: int | None, facts: Facts) -> Format:
        """float32 for what is no weight matrix, else the type of its role, else one that its rows are a multiple of.

        >>> down = Tensor("mlp.down_proj.weight", (4096, 14336), "mlp_dense", "ffn_down", linear=True)
        >>> FileType("gguf-q4_k_m", "q4_k_m", False).format_of(down, 0, Facts(32)).name
        'q6_k'
        """
        matrix = len(tensor.shape) >= 2 and prod(tensor.shape[:-1]) > 1
        if not matrix or tensor.role in _FLOAT_ROLES or not (tensor.linear or tensor.role in _TABLES):
            return GGML["f32"]
        if BASES[self.mix] in ("f32", "f16", "bf16"):
            return GGML[BASES[self.mix]]
        columns = tensor.shape[-1]
        name = self._type(tensor, layer, facts)
        if columns % GGML[name].block_weights:
            name = FALLBACK.get(name, "f16")
        return GGML["f16" if columns % GGML[name].block_weights else name]

    def _type(self, tensor: Tensor, layer: int | None, facts: Facts) -> str:
        mix, base = self.mix, BASES[self.mix]
        role = tensor.role.removesuffix("_exps").removesuffix("_shexp")
        if role == "output" or (role == "embedding" and facts.tied):
            apart = facts.model_type == "falcon" or tensor.shape[-1] % GGML[base].block_weights
            return "q8_0" if apart else OUTPUT.get(mix, "q6_k")
        if mix == "mxfp4_moe":
            return "mxfp4" if tensor.experts else "q8_0"
        if role in _TABLES:
            return EMBEDDING.get(mix, base)
        if role in _VALUES:
            return self._value(self._value_place(layer, facts))
        place = self._down_place(layer, facts)
        if role in ("attn_q", "attn_k"):
            if role == "attn_k" and place.eight:
                return "q4_k" if mix in _SMALLEST else "q8_0"
            return base if mix in _SMALLEST else QUERY_AND_KEY.get(mix, base)
        if role == "attn_output":
            return self._attention(place)
        if role == "ffn_down":
            return DOWN.get(mix, _same)(place)
        return "iq3_xxs" if mix == "iq3_xs" and role in _FEEDS and place.middle else base

    def _value(self, place: Place) -> str:
        chosen = VALUE.get(self.mix, _same)(place)
        if self.mix in _SMALLEST:
            return chosen
        if place.facts.layers == 80 and place.facts.sharing > 1 and chosen in ("q3_k", "q4_k"):
            chosen = "q5_k"  # 80 layers with shared heads are the quantizer's "70B" type
        return "q8_0" if place.eight else chosen

    def _attention(self, place: Place) -> str:
        if place.falcon:
            return "q4_k" if self.mix == "q3_k_l" else place.base
        if place.eight:
            return "q5_k" if self.mix in _SMALLEST or self.mix in _ATTENTION_OF_EIGHT else place.base
        return ATTENTION.get(self.mix, _same)(place)


def _nth(layer: int | None, among: Mapping[int, int]) -> int:
    """The place of a layer among those that have such a tensor; of all layers where none are named."""
    return among.get(layer or 0, layer or 0)


def file_type(mix: str, known: bool | None = None) -> FileType:
    """The recipe of a file type; `known` says whether importances were measured.

    Types below about 3.5 bits are only made with them, so that is assumed there and nowhere else.
    """
    row = FILE_TYPES[mix]
    return row if known is None else replace(row, known=known)


FILE_TYPES: Mapping[str, FileType] = {
    mix: FileType(f"gguf-{mix}", mix, known=mix in _SMALLEST or mix == "iq3_xxs") for mix in BASES
}
