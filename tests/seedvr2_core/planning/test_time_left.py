"""The time left of made-up jobs, on machines that are steady, and on those that others use too.

A job's frames take what its machine needs, times a load that changes every few seconds. The plan is
wrong about engine and encoder by factors of their own. The encoder keeps frames inside and gives
the last ones out at the end of each segment.
"""

import math
import random
from dataclasses import dataclass
from statistics import mean
from typing import Any

import pytest

from seedvr2_core.planning.plan import FrameSeconds, Rates
from seedvr2_core.planning.timing import (
    Sway,
    done_seconds,
    seconds_left,
    seconds_left_range,
)

SEGMENT, INSIDE = 100, 43
"""Frames of a segment, and of those that the encoder keeps until it gives the first one out."""


@dataclass(frozen=True)
class Moment:
    """What is known of a job at one time, and what was left then."""

    work: int
    encoded: int
    awake: float
    left: float


@dataclass(frozen=True)
class MadeUp:
    """A job that never was."""

    planned: FrameSeconds
    num_frames: int
    moments: list[Moment]

    def first_segment(self) -> float:
        """The time left that is shown when the first segment is done, over what was left."""
        moment = next(one for one in self.moments if one.encoded >= SEGMENT)
        return seconds_left(self.planned, self.num_frames, **_state(moment)) / moment.left

    def ranges(self) -> list[tuple[float, float, float]]:
        """(least, truth, most) at some sixty moments."""
        sway, told = Sway(), list[tuple[float, float, float]]()
        for number, one in enumerate(self.moments):
            done = done_seconds(self.planned, work=one.work, encoded=one.encoded)
            sway.note(awake=one.awake, done=done)
            if number % max(1, len(self.moments) // 60) == 0:
                state: dict[str, Any] = {**_state(one), "sway": sway.deviation}
                low, high = seconds_left_range(self.planned, self.num_frames, **state)
                told.append((low, one.left, high))
        return told


def _state(moment: Moment) -> dict[str, Any]:
    return {"work": moment.work, "encoded": moment.encoded, "awake": moment.awake}


def made_up(rng: random.Random, *, load: float, beside: bool) -> MadeUp:
    """A job on a machine whose load has this standard deviation, in logarithms."""
    measured = rng.random() < 0.7
    wrong = 0.2 if measured else 0.5
    engine, encoder = math.exp(rng.uniform(-4.5, -1)), math.exp(rng.uniform(-3.5, -1.2))
    common: dict[str, Any] = {"beside": beside, "lookahead": INSIDE - 3, "mpx": 0.92}
    truth = FrameSeconds(engine=engine, encoder=encoder, **common)
    planned = FrameSeconds(
        engine=engine * math.exp(rng.gauss(0, wrong)),
        encoder=encoder * math.exp(rng.gauss(0, wrong)),
        rates=Rates(measured=measured),
        **common,
    )
    num_frames = rng.choice((150, 300, 600, 1200))
    at, now, done, load_now = [], 0.0, 0.0, rng.gauss(0, load)
    for work, encoded in _states(num_frames):
        # Of what the encoder holds it has looked at most, and begun with three.
        inside = work - encoded
        begun = 0.12 * min(inside, INSIDE - 3) + 0.6 * max(0, inside - INSIDE + 3)
        after = truth.of(work, encoded + begun)
        took, done = max(0.0, after - done) * math.exp(load_now), max(done, after)
        keeps = math.exp(-took / 10)
        load_now = keeps * load_now + math.sqrt(1 - keeps**2) * rng.gauss(0, load)
        now += took
        at.append((work, encoded, now))
    ready = FrameSeconds(engine=0, encoder=0, beside=beside, mpx=0.92)
    delivery = seconds_left(ready, num_frames, work=num_frames, encoded=num_frames, awake=now)
    end = now + delivery * math.exp(load_now + rng.gauss(0, 0.25))
    return MadeUp(planned, num_frames, [Moment(w, e, t, end - t) for w, e, t in at])


def _states(num_frames: int) -> list[tuple[int, int]]:
    """(restored, given out) after each frame that the engine or the encoder is done with."""
    states: list[tuple[int, int]] = []
    for start in range(0, num_frames, SEGMENT):
        stop = min(start + SEGMENT, num_frames)
        states += [(k, max(start, k - INSIDE)) for k in range(start + 1, stop + 1)]
        states += [(stop, k) for k in range(max(start, stop - INSIDE) + 1, stop + 1)]
    return states


@pytest.mark.parametrize("beside", [True, False])
def test_on_a_steady_machine_the_first_segment_tells_the_rest(beside: bool) -> None:
    rng = random.Random(1)
    found = [made_up(rng, load=0.05, beside=beside).first_segment() for _ in range(60)]
    assert mean(abs(one - 1) <= 0.15 for one in found) >= 0.9


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("load", [0.05, 0.2, 0.4])
def test_the_truth_lies_inside_the_range(load: float, beside: bool) -> None:
    rng = random.Random(2)
    jobs = [made_up(rng, load=load, beside=beside).ranges() for _ in range(60)]
    inside = [mean(low <= truth <= high for low, truth, high in job) for job in jobs]
    assert mean(inside) >= 0.8


def test_a_range_says_something() -> None:
    """Nobody is helped by one from nothing to for ever."""
    rng = random.Random(3)
    jobs = [made_up(rng, load=0.1, beside=False) for _ in range(30)]
    late = [high / low for job in jobs for low, _, high in job.ranges()[len(job.ranges()) // 2 :]]
    assert mean(late) < 3
