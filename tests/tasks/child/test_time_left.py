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
from tasks.child.time_left import (
    USUAL_SWAY,
    Sway,
    WorkSoFar,
    done_share,
    seconds_left,
    seconds_left_range,
    spread,
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
        return seconds_left(self.planned, self._at(moment)) / moment.left

    def ranges(self) -> list[tuple[float, float, float]]:
        """(least, truth, most) at some sixty moments."""
        sway, told = Sway(), list[tuple[float, float, float]]()
        for number, one in enumerate(self.moments):
            sway.note(awake=one.awake, done=self._at(one).done(self.planned))
            if number % max(1, len(self.moments) // 60) == 0:
                low, high = seconds_left_range(self.planned, self._at(one), sway=sway.deviation)
                told.append((low, one.left, high))
        return told

    def _at(self, moment: Moment) -> WorkSoFar:
        return at(self.num_frames, moment.work, moment.encoded, moment.awake)


def at(num_frames: int, work: float, encoded: float, awake: float) -> WorkSoFar:
    """So much was done; checks take no time here."""
    return WorkSoFar(
        num_frames=num_frames, work=work, encoded=encoded, checked=encoded, awake=awake
    )


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
    times, now, done, load_now = [], 0.0, 0.0, rng.gauss(0, load)
    for work, encoded in _states(num_frames):
        # Of what the encoder holds it has looked at most, and begun with three.
        inside = work - encoded
        begun = 0.12 * min(inside, INSIDE - 3) + 0.6 * max(0, inside - INSIDE + 3)
        after = truth.of(work, encoded + begun)
        took, done = max(0.0, after - done) * math.exp(load_now), max(done, after)
        keeps = math.exp(-took / 10)
        load_now = keeps * load_now + math.sqrt(1 - keeps**2) * rng.gauss(0, load)
        now += took
        times.append((work, encoded, now))
    ready = FrameSeconds(engine=0, encoder=0, beside=beside, mpx=0.92)
    delivery = seconds_left(ready, at(num_frames, num_frames, num_frames, now))
    end = now + delivery * math.exp(load_now + rng.gauss(0, 0.25))
    return MadeUp(planned, num_frames, [Moment(w, e, t, end - t) for w, e, t in times])


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


@pytest.mark.parametrize("seed", range(50))
def test_time_left_follows_the_jobs_own_speed(seed: int) -> None:
    """However wrong the plan is: within 30 % of the truth after a tenth of the frames."""
    rng = random.Random(seed)
    engine, encoder = rng.uniform(0.001, 5), rng.uniform(0.001, 5)
    slower, num_frames = rng.uniform(0.25, 7), rng.randrange(100, 50_000)
    frame = FrameSeconds(
        engine=engine, encoder=encoder, beside=rng.random() < 0.5, mpx=rng.uniform(0.1, 8)
    )
    work = num_frames / 10
    truth = slower * frame.seconds * num_frames
    left = seconds_left(frame, at(num_frames, work, work, truth / 10))
    delivery = seconds_left(frame, at(num_frames, num_frames, num_frames, truth))
    assert left - delivery == pytest.approx(0.9 * truth, rel=0.3)


def test_frames_that_the_encoder_holds_back_do_not_count_as_done() -> None:
    """x264 takes 50 frames and gives none out, and 8 wait; most of their cost is still to come."""
    frame = FrameSeconds(engine=0.01, encoder=0.09, beside=False, mpx=0.9, lookahead=40)
    spent = 58 * 0.01 + 0.09 * (40 * 0.1 + 10 * 0.6)
    left = seconds_left(frame, at(75, 58, 0, spent))
    delivery = seconds_left(frame, at(75, 75, 75, 75 * 0.1))
    assert left - delivery == pytest.approx(75 * 0.1 - spent, rel=0.1)


@pytest.mark.parametrize(
    ("spent", "restored", "encoded"),
    [
        *((2.44, 71, 11), (4.48, 99, 39), (9.16, 155, 100), (9.61, 162, 102)),
        *((10.56, 172, 112), (11.92, 188, 128), (13.05, 200, 146)),
    ],
)
def test_frames_that_wait_for_the_encoder_do_not_count_as_begun(
    spent: float, restored: int, encoded: int
) -> None:
    """Measured: 200 frames by Lanczos to 720p in two segments, 16.5 seconds of a processor."""
    frame = FrameSeconds(engine=0.0095, encoder=0.0731, beside=False, mpx=0.92, lookahead=40)
    left = seconds_left(frame, at(200, restored, encoded, spent))
    delivery = seconds_left(frame, at(200, 200, 200, 16.5))
    assert left - delivery == pytest.approx(16.5 - spent, rel=0.15)


@pytest.mark.parametrize("seed", range(10))
def test_the_share_of_work_rises_with_either_count_and_ends_at_one(seed: int) -> None:
    rng = random.Random(seed)
    num_frames = rng.randrange(1, 200)
    frame = FrameSeconds(
        engine=rng.uniform(0, 1),
        encoder=rng.uniform(0, 1),
        beside=rng.random() < 0.5,
        lookahead=rng.choice((0, 10, 40)),
        mpx=0.9,
    )
    work = encoded = before = 0.0
    while encoded < num_frames:
        if rng.random() < 0.5:
            work = min(num_frames, work + rng.uniform(0, 4))
        else:
            encoded = min(work, encoded + 1)
        if work == num_frames and rng.random() < 0.5:
            encoded = min(num_frames, encoded + 1)
        share = done_share(frame, at(num_frames, work, encoded, 1.0))
        assert before <= share + 1e-9
        before = share
    assert before == pytest.approx(1.0)


def test_the_range_of_the_time_left_narrows_with_the_work_and_is_wider_for_a_guess() -> None:
    def width(share: float, *, measured: bool, seconds: float = 3600.0, sway: float = 0.1) -> float:
        awake, left = seconds * share, seconds * (1 - share)
        return spread(share, measured=measured, awake=awake, left=left, sway=sway)

    shares = [step / 20 for step in range(21)]
    for measured in (True, False):
        found = [width(share, measured=measured) for share in shares[:11]]
        assert found == sorted(found, reverse=True)
        assert 1.1 < width(0.5, measured=measured) < 1.2
    assert width(0.0, measured=False) > width(0.0, measured=True) > 1.5
    assert width(0.5, measured=True, sway=0.5) > 1.2 > width(0.5, measured=True)
    assert width(0.5, measured=True, seconds=10.0, sway=0.3) > 1.5, "some seconds say little"


def test_a_jobs_unsteadiness_is_seen_and_a_wrong_plan_is_none() -> None:
    for load, expected in ((0.0, (0.0, 0.12)), (0.5, (0.3, 0.6))):
        rng, sway, awake = random.Random(1), Sway(), 0.0
        assert sway.deviation == USUAL_SWAY
        for done in range(1, 41):
            awake += 4 * 7 * math.exp(rng.gauss(0, load))
            sway.note(awake=awake, done=4.0 * done)
            sway.note(awake=awake + 0.2, done=4.0 * done + 1e-3)  # too soon to say anything
        assert expected[0] <= sway.deviation <= expected[1]


@pytest.mark.parametrize(
    ("engine", "encoder", "measured", "moments"),
    [
        (
            *(0.009216, 0.0340992, False),
            [(61, 0, 1.82, 13.24), (75, 14, 4.11, 10.95), (75, 30, 6.0, 9.06)],
        ),
        (
            # Learned in a busy hour: the encoder is ten times as fast now.
            *(0.0310146, 0.3933684, True),
            [(25, 0, 0.41, 7.49), (75, 33, 3.17, 4.73), (75, 49, 4.2, 3.71), (75, 63, 4.93, 2.97)],
        ),
        (
            # The engine was slow, and the encoder was not.
            *(1.0188267, 0.1643104, True),
            [(47, 0, 65.2, 47.63), (63, 10, 87.72, 25.11), (75, 57, 106.04, 6.79)],
        ),
    ],
    ids=["lanczos", "lanczos-known", "span-known"],
)
def test_the_truth_of_recorded_jobs_lies_inside_the_range(
    engine: float, encoder: float, measured: bool, moments: list[tuple[float, float, float, float]]
) -> None:
    """Moments (restored, encoded, seconds so far, seconds that were left) of clips of 75 frames.

    They were seen on two cores that others used too, and lay outside the range that had one spread
    for engine and encoder.
    """
    frame = FrameSeconds(
        engine=engine,
        encoder=encoder,
        beside=False,
        lookahead=40,
        mpx=0.9216,
        rates=Rates(measured=measured),
    )
    for work, encoded, awake, left in moments:
        low, high = seconds_left_range(frame, at(75, work, encoded, awake), rest=0.25)
        assert low <= left <= high, (work, encoded, low, high)


@pytest.mark.parametrize("beside", [True, False])
def test_the_range_holds_the_middle_and_is_narrow_in_a_long_job(beside: bool) -> None:
    frame = FrameSeconds(
        engine=0.1, encoder=0.05, beside=beside, mpx=0.9, rates=Rates(measured=True)
    )
    per_frame = frame.of(1, 1)
    for share in (0.0, 0.01, 0.1, 0.5, 0.9, 1.0):
        done = 30_000 * share
        awake = done * per_frame
        left = seconds_left(frame, at(30_000, done, done, awake))
        low, high = seconds_left_range(frame, at(30_000, done, done, awake))
        assert low <= left <= high
        if 0.5 <= share < 1:
            assert high / low < 1.6
