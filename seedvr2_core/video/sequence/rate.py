"""Frames a second as people write them: `24`, `24000/1001`, `23.976`."""

import re
from fractions import Fraction

LEAST_RATE, MOST_RATE = Fraction(1, 60), 1000
_MOST_TERM = 10**6
"""Largest numerator and denominator: encoders take no more."""
_WRITTEN = re.compile(r"(\d{1,9})(?:\.(\d{1,6})|\s*/\s*(\d{1,9}))?", re.ASCII)
_NTSC = tuple(Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120))
_ROUNDED = {round(float(rate), digits): rate for rate in _NTSC for digits in (2, 3)}
"""What people write for these: 23.98, 23.976, 29.97 ..."""


def parse_rate(text: str) -> Fraction:
    """Frames a second, exactly.

    23.976, 29.97, 59.94 and what is rounded like them mean 24000/1001, 30000/1001, 60000/1001.

    Raises:
        ValueError: no number, no fraction, or out of range.
    """
    parsed = _WRITTEN.fullmatch(text.strip())
    if parsed is None or (parsed[3] is not None and not int(parsed[3])):
        raise ValueError(
            f"frames a second are a number or a fraction, such as 24, 29.97 or 24000/1001, got "
            f"{text[:40]!r}"
        )
    if parsed[2] is not None:
        rate = _ROUNDED.get(float(text), Fraction(f"{parsed[1]}.{parsed[2]}"))
    else:
        rate = Fraction(int(parsed[1]), int(parsed[3] or 1))
    if not LEAST_RATE <= rate <= MOST_RATE or max(rate.as_integer_ratio()) > _MOST_TERM:
        raise ValueError(
            f"frames a second lie between {LEAST_RATE} and {MOST_RATE}, with at most six digits on "
            f"either side of the line, got {text[:40]!r}"
        )
    return rate
