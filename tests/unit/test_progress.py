"""How numbers are written for people."""

from __future__ import annotations

import pytest

from mrdist.progress import significant


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (0.5, "0.5"),
        (4.2, "4.2"),
        (9.996, "10"),
        (86.04, "86"),
        (120.0, "120"),
        (999.7, "1,000"),
        (6123.4, "6,120"),
        (1_256_789, "1,260,000"),
        (-1234, "-1,230"),
    ],
)
def test_three_digits_say_it_without_an_exponent(number: float, text: str) -> None:
    assert significant(number) == text
