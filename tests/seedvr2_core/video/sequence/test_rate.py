"""Frames a second, as people write them, become exact."""

from fractions import Fraction

import pytest

from seedvr2_core.video.sequence.rate import parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("24", Fraction(24)),
        (" 25.0 ", Fraction(25)),
        ("12.5", Fraction(25, 2)),
        ("24000/1001", Fraction(24000, 1001)),
        ("30 / 2", Fraction(15)),
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("59.940", Fraction(60000, 1001)),
        ("119.88", Fraction(120000, 1001)),
        ("23.97", Fraction(2397, 100)),
        ("1/60", Fraction(1, 60)),
        ("1000", Fraction(1000)),
    ],
)
def test_rates_are_exact(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        *("", "fast", "-24", "0", "0.0", "24/0", "1e3", "inf", "24:1", "1001", "1/61"),
        *("24.0000001", "999999937/999999929", "٢٤", "2" * 50, "24000/1001/1"),
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="frames a second"):
        parse_rate(text)
