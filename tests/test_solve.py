"""The largest n that fits is a boundary, whatever the steps of the function."""

from hypothesis import given, settings
from hypothesis import strategies as st

from calculator.solve import largest


@settings(max_examples=300, deadline=None)
@given(
    slope=st.integers(1, 10**6),
    bend=st.integers(0, 50),
    free=st.integers(-5, 10**13),
    block=st.sampled_from([1, 16, 256]),
    most=st.integers(1, 10**9),
)
def test_with_n_it_fits_and_with_one_more_it_does_not(slope: int, bend: int, free: int, block: int, most: int) -> None:
    asked = 0

    def room(n: int) -> int:
        nonlocal asked
        asked += 1
        stepped = -(-n // block) * block
        return free - slope * stepped - bend * stepped * stepped

    n = largest(room, most)
    assert asked < 150
    assert n == 0 or room(n) >= 0
    assert n == most or room(n + 1) < 0


def test_nothing_fits() -> None:
    assert largest(lambda n: -1, most=10) == 0
