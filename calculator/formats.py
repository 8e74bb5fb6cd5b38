"""Number formats as blocks, and what a recipe of a checkpoint format says about one tensor.

A format is weights of a block and bytes of that block; everything that is stored beside the blocks (scales of groups,
zero points, code tables) belongs to the recipe, which knows the shape. Recipes live in `quantization` (GPU formats)
and `gguf` (llama.cpp's file types).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from .errors import UnknownName, nearest
from .tensors import Tensor
from .units import ceil_div


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are stored: `block_weights` of them take `block_bytes`.

    >>> Format("q4_k", 256, 144, "ggml").bits_per_weight
    4.5
    """

    name: str
    block_weights: int
    block_bytes: int
    source: str

    def bytes(self, elements: int) -> int:
        """Bytes of so many elements; a last block that is not full counts whole.

        >>> Format("q4_0", 32, 18, "ggml").bytes(33)
        36
        """
        return ceil_div(elements, self.block_weights) * self.block_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits that one weight takes, its share of the block's scales included."""
        return 8 * self.block_bytes / self.block_weights


_IEEE = "IEEE 754"
_GGML = "ggml, ggml-common.h: the block's struct"
_OCP = "OCP Microscaling Formats 1.0: 32 elements share a power-of-two scale of one byte"

FLOAT32 = Format("float32", 1, 4, _IEEE)
FLOAT16 = Format("float16", 1, 2, _IEEE)
BFLOAT16 = Format("bfloat16", 1, 2, "the upper half of a float32")
FP8 = Format("fp8", 1, 1, "arXiv:2209.05433")
INT8 = Format("int8", 1, 1, "one byte each")
INT4 = Format("int4", 2, 1, "two in a byte")
MXFP4 = Format("mxfp4", 32, 17, _OCP)
MXFP8 = Format("mxfp8", 32, 33, _OCP)
NVFP4 = Format("nvfp4", 16, 9, "16 elements of 4 bits share an fp8 scale; one float32 more for the tensor")

DATA_TYPES: Mapping[str, Format] = {each.name: each for each in (FLOAT32, FLOAT16, BFLOAT16, INT8, INT4)}
"""Plain precisions: every parameter alike."""

GGML: Mapping[str, Format] = {
    name: Format(name, weights, size, _GGML)
    for name, weights, size in (
        ("f32", 1, 4),
        ("f16", 1, 2),
        ("bf16", 1, 2),
        ("q4_0", 32, 18),  # a half-precision scale, 16 bytes of nibbles
        ("q4_1", 32, 20),  # and a minimum
        ("q5_0", 32, 22),  # 4 bytes of fifth bits
        ("q5_1", 32, 24),
        ("q8_0", 32, 34),
        ("q8_1", 32, 36),
        ("q2_k", 256, 84),
        ("q3_k", 256, 110),
        ("q4_k", 256, 144),
        ("q5_k", 256, 176),
        ("q6_k", 256, 210),
        ("q8_k", 256, 292),
        ("iq1_s", 256, 50),
        ("iq1_m", 256, 56),
        ("iq2_xxs", 256, 66),
        ("iq2_xs", 256, 74),
        ("iq2_s", 256, 82),
        ("iq3_xxs", 256, 98),
        ("iq3_s", 256, 110),
        ("iq4_nl", 32, 18),
        ("iq4_xs", 256, 136),
        ("tq1_0", 256, 54),
        ("tq2_0", 256, 66),
        ("mxfp4", 32, 17),
    )
}
"""Block types of ggml, as GGUF files hold them."""

KV_CACHE_PRECISIONS: Mapping[str, Format] = {
    **{each.name: each for each in (FLOAT32, FLOAT16, BFLOAT16, FP8, INT8, INT4)},
    **{name: GGML[name] for name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")},
}
"""What a cache can be kept in."""


def find_format(name: str, table: Mapping[str, Format], field: str) -> Format:
    """The format of that name in one of the tables above, in any case.

    >>> find_format("BFloat16", DATA_TYPES, "precision").block_bytes
    2
    """
    found = table.get(name.lower())
    if found is None:
        raise UnknownName(f"unknown {field} '{name}'; known: {', '.join(table)}", field, nearest(name, table))
    return found


@dataclass(frozen=True, slots=True)
class Facts:
    """What of a model decides how its tensors are stored.

    layers       how many the model has
    tied         whether the embedding is the output matrix too
    experts      routed experts of a layer, 0 in a dense model
    sharing      query heads that share one key-value head
    hidden       width of the hidden states
    model_type   the family, for the rules that llama.cpp has for one
    value_layers of the layers with a value projection, which is the how manieth; empty if all have one
    down_layers  the same of those with a feed-forward layer
    """

    layers: int
    tied: bool = False
    experts: int = 0
    sharing: int = 1
    hidden: int = 0
    model_type: str = ""
    value_layers: Mapping[int, int] = field(default_factory=dict)
    down_layers: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """How one tensor is stored: the format of its elements, and bytes beside them (over all `count` copies).

    parts  what `beside` is the sum of, where these are several tensors
    """

    format: Format
    beside: int = 0
    parts: tuple[int, ...] = ()


NOTHING = Stored(Format("absent", 1, 0, "the file does not hold this tensor"))


class Recipe(ABC):
    """A checkpoint format: for each tensor, what it is stored in. Rows have a `name` and a `source`."""

    __slots__ = ()

    name: str
    source: str

    @abstractmethod
    def stored(self, tensor: Tensor, layer: int | None, facts: Facts) -> Stored:
        """The format of a tensor in that layer (None outside the layers), and what lies beside it."""

    def alike(self, layer: int, facts: Facts) -> Hashable:
        """A key: layers of equal tensors that share it are stored in as many bytes. Each layer its own, by default."""
        return layer

    def bytes(self, tensor: Tensor, layer: int | None, facts: Facts, held: int | None = None) -> int:
        """Bytes of a tensor, or of the `held` elements of it that one GPU has."""
        stored = self.stored(tensor, layer, facts)
        elements = tensor.elements
        if held is None or held == elements:
            return stored.format.bytes(elements) + stored.beside
        return stored.format.bytes(held) + ceil_div(stored.beside * held, elements)


@dataclass(frozen=True, slots=True)
class Plain(Recipe):
    """Every parameter alike, in one format: a plain precision."""

    name: str
    format: Format
    source: str = "every parameter alike"

    def stored(self, tensor: Tensor, layer: int | None, facts: Facts) -> Stored:
        """The one format."""
        return Stored(self.format)

    def alike(self, layer: int, facts: Facts) -> Hashable:
        """All layers are alike."""
        return None
