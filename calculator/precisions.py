"""Whole-number precisions by name: bytes of an element, and the dtype they have on the tape."""

from __future__ import annotations

from fractions import Fraction

from .formats import DATA_TYPES
from .tape import FLOAT, HALF

BYTES: dict[str, Fraction] = {name: Fraction(each.block_bytes, each.block_weights) for name, each in DATA_TYPES.items()}
BITS: dict[str, int] = {name: int(8 * width) for name, width in BYTES.items()}


def stored(elements: int, precision: str) -> int:
    """Bytes of so many elements, every one alike; half a byte rounds up.

    >>> stored(7_000_000_000, "float16"), stored(3, "int4")
    (14000000000, 2)
    """
    return -(-elements * BITS[precision] // 8)


def tape_dtype(precision: str) -> str:
    """What the tape computes in: 32 bit for float32, 16 bit for everything narrower."""
    return FLOAT if precision == "float32" else HALF
