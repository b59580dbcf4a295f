"""Times of frames: known ones stay, the others come between them."""

import itertools
import math
import random
from fractions import Fraction

import pytest

from seedvr2_core.video.probing.times import fill, on_clock


@pytest.mark.parametrize("seed", range(30))
def test_known_times_stay_and_all_rise(seed: int) -> None:
    draw = random.Random(seed)
    true = list(itertools.accumulate(draw.choices(range(1, 9), k=40)))
    known = [time if draw.random() < 0.4 else None for time in true]
    filled = fill(known, [0] * 40, Fraction(draw.randint(1, 9)))
    assert len(filled) == 40
    assert all(a < b for a, b in itertools.pairwise(filled))
    assert all(own in (None, made) for own, made in zip(known, filled, strict=True))


@pytest.mark.parametrize("every", [2, 3, 12])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_a_steady_ladder_is_found_again(every: int, first: int) -> None:
    true = [7000 + 3600 * index for index in range(50)]
    known = [time if index % every == first else None for index, time in enumerate(true)]
    expected = true if first < every else [3600 * index for index in range(50)]
    assert fill(known, [3600] * 50, Fraction(3600)) == expected


def test_a_pause_stays_a_pause() -> None:
    """Frames without times follow the one before; the last of them is shown through the gap."""
    known = [0, None, None, 100, None]
    assert fill(known, [10] * 5, Fraction(10)) == [0, 10, 20, 100, 110]


def test_frames_last_as_long_as_each_says() -> None:
    """Film on television: a picture lasts two fields or three."""
    known = [0, None, None, None, 5 * 2]
    assert fill(known, [2, 3, 2, 3, 2], Fraction(2)) == [0, 2, 5, 7, 10]


@pytest.mark.parametrize(
    ("times", "ticks", "finer"),
    [
        ([0, 1, 1, 2, 3, 3], [0, 2, 3, 4, 6, 8], 2),
        ([0, 0, 0, 1], [0, 1, 2, 3], 3),
        ([0, 4, 4, 9], [0, 4, 5, 9], 1),
        ([0, 5, 3, 4, 9], [0, 5, 6, 7, 9], 1),
    ],
)
def test_frames_of_one_time_share_the_way_to_the_next(
    times: list[int], ticks: list[int], finer: int
) -> None:
    assert on_clock(fill(times, [0] * len(times), Fraction(1))) == (ticks, finer)


def test_times_that_say_nothing_become_the_nominal_ones() -> None:
    step = Fraction(1001, 30)
    ticks, finer = on_clock(fill([None] * 50, [0] * 50, step))
    assert finer == 1
    assert ticks == [math.floor(i * step) for i in range(50)]


def test_thousands_of_frames_at_one_time_still_rise() -> None:
    ticks, _ = on_clock(fill([0] + [5] * 6000 + [6], [0] * 6002, Fraction(1, 9)))
    assert all(a < b for a, b in itertools.pairwise(ticks))
