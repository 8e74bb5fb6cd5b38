"""The only conversions: bytes are exact integers everywhere else.

GiB is 2**30 bytes, what drivers and engines print; GB is 10**9 bytes, what `memory_requirements` prints.
"""

KIB = 2**10
MIB = 2**20
GIB = 2**30
GB = 10**9
BILLION = 10**9


def gigabytes(memory: int) -> str:
    """Bytes as decimal gigabytes for people, rounded half up on the integer.

    >>> gigabytes(14_000_000_000), gigabytes(1_073_741_824)
    ('14.00 GB', '1.07 GB')
    """
    hundredths = (memory * 100 + GB // 2) // GB
    return f"{hundredths // 100}.{hundredths % 100:02d} GB"


def gib(memory: int) -> float:
    """Bytes as GiB, rounded to a thousandth.

    >>> gib(1_073_741_824)
    1.0
    """
    return round(memory / GIB, 3)


def mib(memory: int) -> float:
    """Bytes as MiB, rounded to a hundredth."""
    return round(memory / MIB, 2)


def ceil_div(amount: int, by: int) -> int:
    """The smallest integer not below amount / by."""
    return -(-amount // by)


def round_up(amount: int, multiple: int) -> int:
    """The smallest multiple of `multiple` not below `amount`."""
    return -(-amount // multiple) * multiple
