"""How much of a running job is left, by what it was expected to take and by its own speed so far.

What was done should have taken some time. What it took, over that, is how much slower this job is
than predicted, and the same holds for what is left.
"""

import math
from dataclasses import dataclass

from seedvr2_core.planning.plan import FrameSeconds
from seedvr2_core.planning.queues import FEWEST_FRAMES
from seedvr2_core.planning.timing import delivery_seconds

SHARE_LOOKED_AT, SHARE_BEGUN, MOST_BEGUN = 0.1, 0.6, 12
"""How much of a frame's encoding is done when x264 has only looked at it, and when it is among the
frames that its threads have begun, which are so many at the most: what the engine has restored
beyond them waits in the queue in front of the encoder. Measured in seconds of a processor with
preset medium, 1080p, two segments of 100 frames: 40 were looked at, 12 begun, 8 waited."""
FIRST_SPREAD, GUESS_SPREAD, LAST_SPREAD, SPREAD_PACE = 1.6, 3.0, 1.15, 10.0
"""`spread` of the time left: at first, at first where nothing was measured, and in the end; after
SPREAD_PACE-th of the work it has come two thirds of the way."""
USUAL_SWAY, USUAL_WEIGHT = 0.3, 4.0
"""How unsteady a job is taken to be before it was watched (`Sway`), and for how many looks at it
that counts."""
SWAY_LOOK_SECONDS, SWAY_SECONDS = 3.0, 20.0
"""Time between two looks at a job's speed, and for how long a speed lasts on a machine that others
use too."""
SURE = 1.6
"""How many standard deviations a range holds, either way."""
DELIVERY_SPREAD = 2.0
"""By which factor delivery and report may be wrong: nothing of this job shows their speed."""
TRUST_SHARE, TRUST_SECONDS = 0.02, 1.0
"""A job's own speed counts as much as the predicted one after this share of its time, and after so
many seconds at the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSoFar:
    """What a child was asked for, and what it has done of it."""

    num_frames: int
    """That the child was asked for."""
    work: float
    """Frames restored of these, parts included."""
    encoded: float
    """Of these, frames that have left the encoder."""
    checked: float
    """Of these, frames of segments that were decoded and counted."""
    awake: float
    """Seconds since the engine was ready."""
    hands: int = 1
    """How many processes share what is left."""

    def done(self, frame: FrameSeconds) -> float:
        """What the work so far should have taken."""
        return frame.of(self.work, encoder_work(frame, self), self.checked)

    def whole(self, frame: FrameSeconds) -> float:
        """What all of it should take."""
        return frame.of(self.num_frames, self.num_frames)


def seconds_left(frame: FrameSeconds, at: WorkSoFar) -> float:
    """Seconds until the job's output is stored, from what the child has done so far.

    Args:
        frame: predicted seconds of a frame.
        at: what was done, and of how much.
    """
    slower = _slower(frame, at)
    left = slower * max(0.0, at.whole(frame) - at.done(frame)) / at.hands
    return left + delivery_seconds(frame, at.num_frames) * _times_of_delivery(frame, slower)


def seconds_left_range(
    frame: FrameSeconds, at: WorkSoFar, *, rest: float = 0.0, sway: float = USUAL_SWAY
) -> tuple[float, float]:
    """The least and the most that `seconds_left` and what follows may be.

    Engine and encoder have a spread each, because one of them may have shown its speed and the
    other not yet: the encoder's frames come out at the end. Only one time was measured, that of
    both. So the least is also what is left if the engine alone was slow, and the encoder is as
    predicted. `benchmarks/estimate.py` prints how often the truth lay inside.

    Args:
        frame: predicted seconds of a frame.
        at: what was done, and of how much.
        rest: predicted seconds after the output is stored.
        sway: how unsteady the job is (`Sway`).
    """
    slower, trust = _slower(frame, at), _trust(frame, at)
    measured = frame.rates.measured
    goes_on = slower * max(0.0, at.whole(frame) - at.done(frame)) / at.hands
    of_engine, of_encoder = (
        spread(
            frames / max(1, at.num_frames),
            measured=measured,
            awake=at.awake,
            left=goes_on,
            sway=sway,
        )
        for frames in (at.work, at.encoded)
    )
    if frame.beside:
        left = goes_on * at.hands
        least, most = left / of_engine, left * of_engine
    else:
        coded = encoder_work(frame, at)
        engine = max(0.0, at.num_frames - at.work) * frame.engine
        encoder = max(0.0, at.num_frames - coded) * frame.encoder
        encoder += max(0.0, at.num_frames - at.checked) * frame.check
        least = slower * (engine / of_engine + encoder / of_encoder)
        most = slower * (engine * of_engine + encoder * of_encoder)
        of_it = at.awake - coded * frame.encoder - at.checked * frame.check
        if (alone := _times(of_it, at.work * frame.engine, trust=trust)) > 1:
            least = min(least, (alone * engine + encoder) / of_engine)
    times = _times_of_delivery(frame, slower)
    rest += delivery_seconds(frame, at.num_frames) * times
    wrong = DELIVERY_SPREAD * math.sqrt(max(times, 1 / times))
    return least / at.hands + rest / wrong, most / at.hands + rest * wrong


def _slower(frame: FrameSeconds, at: WorkSoFar) -> float:
    """How many times as long as predicted the work takes, as far as that is trusted."""
    return _times(at.awake, at.done(frame), trust=_trust(frame, at))


def _times_of_delivery(frame: FrameSeconds, slower: float) -> float:
    """How many times as long as predicted delivery will take, by how slow the job is.

    Where the work runs on the cores that also deliver, part of its slowness is the machine's own.
    """
    return 1.0 if frame.beside else math.sqrt(slower)


def _trust(frame: FrameSeconds, at: WorkSoFar) -> float:
    """How much a job's own speed counts, 0..1, after so many predicted seconds of it."""
    done, trusted = at.done(frame), min(TRUST_SECONDS, TRUST_SHARE * at.whole(frame))
    return done / (done + trusted) if done > 0 else 0.0


def _times(took: float, predicted: float, *, trust: float) -> float:
    """How many times as long as predicted something took, as far as that is trusted."""
    return (max(took, 1e-3) / predicted) ** trust if predicted > 0 else 1.0


def spread(share: float, *, measured: bool, awake: float, left: float, sway: float) -> float:
    """By which factor the time left may be wrong, either way: 2 means half to twice.

    It is wide at first, wider where nothing was measured on this machine, and narrows while the
    job's own speed shows. How far it narrows depends on how unsteady that speed is: what was seen
    for some seconds says little of the next ones, and of a long time only the middle counts.

    Args:
        share: of the work that is done, 0..1.
        measured: the predicted seconds of a frame rest on measurements of this machine.
        awake: seconds for which the job was watched.
        left: seconds that it goes on, about.
        sway: as `Sway` has it.
    """
    first = math.log(FIRST_SPREAD if measured else GUESS_SPREAD)
    own = math.exp(-SPREAD_PACE * share) * first
    seen, coming = (SWAY_SECONDS / (seconds + SWAY_SECONDS) for seconds in (awake, max(0.0, left)))
    by_sway = SURE * sway * math.sqrt(seen + coming)
    return math.exp(math.sqrt(own**2 + by_sway**2 + math.log(LAST_SPREAD) ** 2))


class Sway:
    """How unsteady a job's speed is: the standard deviation of its logarithm, of a few seconds."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._at = self._done = 0.0
        self._found: list[float] = []

    def note(self, *, awake: float, done: float) -> None:
        """Note that what should have taken `done` seconds was done after `awake` seconds."""
        if awake - self._at < SWAY_LOOK_SECONDS or done <= self._done:
            return
        self._found.append(math.log((awake - self._at) / (done - self._done)))
        self._at, self._done = awake, done

    @property
    def deviation(self) -> float:
        """The standard deviation; before the job was watched, that of a usual machine."""
        squares = USUAL_WEIGHT * USUAL_SWAY**2
        if not self._found:
            return USUAL_SWAY
        middle = sum(self._found) / len(self._found)
        squares += sum((one - middle) ** 2 for one in self._found)
        return math.sqrt(squares / (USUAL_WEIGHT + len(self._found) - 1))


def done_share(frame: FrameSeconds, at: WorkSoFar) -> float:
    """How much of the work is done, 0..1: it rises with each of the counts."""
    done = at.work * frame.engine + encoder_work(frame, at) * frame.encoder
    done += at.checked * frame.check
    whole = at.num_frames * (frame.engine + frame.encoder + frame.check)
    return min(1.0, done / max(1e-9, whole))


def encoder_work(frame: FrameSeconds, at: WorkSoFar) -> float:
    """What the encoder has done, in frames: those it gave out, a part of those it works at.

    An engine that is faster than the encoder has filled the queue between them.
    """
    inside = max(0.0, at.work - at.encoded)
    if frame.engine < frame.encoder and at.work < at.num_frames:
        inside = max(0.0, inside - FEWEST_FRAMES)
    looked_at = min(inside, frame.lookahead)
    begun = min(inside - looked_at, MOST_BEGUN)
    return at.encoded + SHARE_LOOKED_AT * looked_at + SHARE_BEGUN * begun
