"""Cuts of a film's beginning that are settled before the rest was looked at."""

import random

import numpy as np
import pytest

from seedvr2_core.video.cuts import STEP, THRESHOLD, CutMarks, pick_cuts, settled_cuts

LEVELS = (-9.0, -2.0, -0.5, 0.5, 0.5, 3.0)
"""Of log odds, some above the threshold; few, so that there are plateaus."""


def made_up(seed: int, count: int) -> np.ndarray:
    rng = random.Random(seed)
    runs = [[rng.choice(LEVELS)] * rng.randrange(1, 5) for _ in range(count)]
    return np.array([level for run in runs for level in run][:count], np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_settled_cuts_are_those_of_the_whole_film_up_to_that_frame(seed: int) -> None:
    logits = made_up(seed, 80)
    whole = pick_cuts(logits, THRESHOLD)
    for count in range(1, len(logits)):
        cuts, until = settled_cuts(logits[:count], THRESHOLD)
        assert cuts == tuple(cut for cut in whole if cut <= until)
        assert count - 20 < until <= count, "no more is left open than the last plateau"


@pytest.mark.parametrize("seed", range(20))
def test_marks_are_told_once_with_the_cuts_of_the_whole_film(seed: int) -> None:
    logits, rng = made_up(seed, 12 * STEP), random.Random(seed)
    jumps = sorted(rng.sample(range(1, len(logits)), 20))
    whole = sorted({*pick_cuts(logits, THRESHOLD), *jumps})
    frames = sorted(rng.sample(range(1, len(logits) - 2 * STEP), 4))
    told: dict[int, tuple[int, ...]] = {}
    looked_at: dict[int, int] = {}

    def tell(mark: int, cuts: tuple[int, ...]) -> None:
        assert mark not in told
        told[mark], looked_at[mark] = cuts, done

    marks = CutMarks(frames, tell)
    for done in range(STEP, len(logits), STEP):
        ahead = [jump for jump in jumps if jump <= done + STEP // 2]
        marks.look([logits[k : k + STEP] for k in range(0, done, STEP)], ahead)
    assert told == {mark: tuple(cut for cut in whole if cut <= mark) for mark in frames}
    assert all(mark < looked_at[mark] <= mark + 2 * STEP for mark in frames)


def test_nothing_is_told_of_values_that_are_not_finite() -> None:
    logits = made_up(1, 3 * STEP)
    logits[7] = np.nan
    marks = CutMarks([60], lambda mark, cuts: pytest.fail("told"))
    marks.look([logits], [])
