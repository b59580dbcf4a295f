"""The clock that stands still while its process does."""

import random

import pytest

from tasks.child.awake import MOST_SECONDS, TICK_SECONDS, AwakeClock


@pytest.mark.parametrize("seed", range(20))
def test_short_steps_count_in_full_and_long_ones_do_not(seed: int) -> None:
    rng = random.Random(seed)
    now, awake = 1000.0, 0.0
    clock = AwakeClock(lambda: now)
    for _ in range(200):
        step = rng.choice((0.0, TICK_SECONDS, rng.uniform(0, MOST_SECONDS), 36_000.0, -50.0))
        now += step
        awake += min(max(step, 0.0), MOST_SECONDS)
        assert clock.seconds() == pytest.approx(awake)
