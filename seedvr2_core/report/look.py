"""Looks at the places of a job, one after another, until they are all seen or the time is up.

Memory: a handful of frames at a time, and small crops for at most `_BINS` moments.
"""

import time
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from seedvr2_core.beat import Beat
from seedvr2_core.frames import Frame
from seedvr2_core.job import JobDir
from seedvr2_core.job.restored import read_restored
from seedvr2_core.planning import Plan
from seedvr2_core.report.chosen_frames import Neighbours, frames_to_read, places
from seedvr2_core.report.measures import Pair, largest_change, measure_pair
from seedvr2_core.report.record import Sight
from seedvr2_core.video.alpha.colours import as_shown, each_plane, on_black
from seedvr2_core.video.reader import read_frames

CROP = (480, 270)
"""Pixels (across, down) of the result that are shown of a moment, none of them scaled."""
MOMENTS = 5
_BINS = 20
"""Equal parts of the video, of each of which one moment is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A part of one frame, before (enlarged to the result's size) and after: (h, w, 3) uint8."""

    sight: Sight
    before: np.ndarray
    after: np.ndarray


@dataclass(slots=True)
class Looked:
    """What was seen."""

    sights: list[Sight] = field(default_factory=list)
    best: dict[int, Moment] = field(default_factory=dict)
    """Part of the video -> the moment of the largest difference there."""

    @property
    def moments(self) -> list[Moment]:
        """The moments of the largest difference, in the order of time."""
        largest = sorted(self.best.values(), key=lambda m: -m.sight.difference)[:MOMENTS]
        return sorted(largest, key=lambda moment: moment.sight.frame)


def look_at(plan: Plan, job_dir: JobDir, source: Path, *, seconds: float, beat: Beat) -> Looked:
    """Compare a job's segments with its source.

    Args:
        plan: of the job.
        job_dir: its directory; the segments are still there.
        source: the job's source.
        seconds: how long it may take; the first place is looked at in any case.
        beat: sign of life, at each place and at each read of a file on the way to it, with the
            percentage of the places or of the time used. A place for which there is not enough
            time is left out.

    Raises:
        InvalidVideoError: a frame cannot be read.
    """
    looked, clock = Looked(), _Allowance(seconds)
    wanted = list(places(plan))
    for number, place in enumerate(wanted):
        num_frames = frames_to_read(plan, place.frame)
        if looked.sights and not clock.has_time_for(num_frames):
            continue  # a place that takes less may come yet
        tell = partial(_tell, beat, clock, number / len(wanted))
        tell()
        first, stop = place.frame - 1, place.frame + 1
        alpha = plan.video.keeps_alpha
        after = tuple(read_restored(plan, job_dir, first, stop, alpha=alpha, on_bytes=tell))
        clock.note_read(num_frames)
        before = tuple(read_frames(source, plan.video, first, stop, alpha=alpha, on_bytes=tell))
        _note(looked, plan, place, _TwoFrames(before=before, after=after))
        clock.note_looked()
    return looked


class _Allowance:
    """How much of the time is used, and whether there is enough for one more place.

    Frames of the result are decoded from a segment's start on, which takes most of the time and
    differs from place to place. All else of a place, also reading the source, is expected to take
    as long as the longest so far.
    """

    def __init__(self, seconds: float) -> None:
        """Begin; `seconds` is all there is."""
        self._seconds = seconds
        self._began = self._last = time.monotonic()
        self._frames, self._reading, self._most_else = 0, 0.0, 0.0

    @property
    def share_used(self) -> float:
        """0..1, or more."""
        return (time.monotonic() - self._began) / self._seconds if self._seconds else 0.0

    def note_read(self, num_frames: int) -> None:
        """So many frames of the result were decoded since the place before."""
        self._frames += num_frames
        self._reading += self._step()

    def note_looked(self) -> None:
        """All else of the place is done."""
        self._most_else = max(self._most_else, self._step())

    def has_time_for(self, num_frames: int) -> bool:
        """Whether there is time for a place for which so many frames are decoded."""
        used = time.monotonic() - self._began
        reading = self._reading / max(1, self._frames) * num_frames
        return used + reading + self._most_else <= self._seconds

    def _step(self) -> float:
        """Seconds since this was asked for before."""
        last, self._last = self._last, time.monotonic()
        return self._last - last


@dataclass(frozen=True, slots=True, kw_only=True)
class _TwoFrames:
    """Two neighbouring frames of the source and of the result, with their alpha if they have it."""

    before: tuple[Frame, ...]
    after: tuple[Frame, ...]

    def measured(self) -> Pair:
        """As it is measured: nobody sees what alpha hides, so it is black in both."""
        before, after = ([on_black(frame) for frame in two] for two in (self.before, self.after))
        return Pair(before=(before[0], before[1]), after=(after[0], after[1]))


def _note(looked: Looked, plan: Plan, place: Neighbours, seen: _TwoFrames) -> None:
    """Measure a place, and keep its moment if it is the best of its part of the video."""
    pair = seen.measured()
    time_base = Fraction(*plan.video.time_base)
    at = float((plan.video.pts[place.frame] - plan.video.pts[0]) * time_base)
    sight = measure_pair(pair, place, at)
    looked.sights.append(sight)
    part = place.frame * _BINS // plan.video.num_frames
    if part not in looked.best or looked.best[part].sight.difference < sight.difference:
        looked.best[part] = _moment(seen, largest_change(pair), sight)


def _tell(beat: Beat, clock: _Allowance, places_seen: float, done: int = 0, total: int = 0) -> None:
    """Say that we are alive; `done` and `total` are bytes of one file of many."""
    del done, total
    beat("report", min(99, round(100 * max(places_seen, clock.share_used))), 100)


def _moment(seen: _TwoFrames, place: tuple[float, float], sight: Sight) -> Moment:
    """The part of a pair's second frame around a place (across, down, as shares of it)."""
    before, after = seen.before[1], seen.after[1]
    height, width = after.rgb.shape[:2]
    across, down = place
    crop_width, crop_height = min(CROP[0], width), min(CROP[1], height)
    left = min(max(0, round(across * width) - crop_width // 2), width - crop_width)
    top = min(max(0, round(down * height) - crop_height // 2), height - crop_height)

    def enlarged(plane: np.ndarray) -> np.ndarray:
        return _enlarged_part(plane, (width, height), (left, top, crop_width, crop_height))

    def cut(plane: np.ndarray) -> np.ndarray:
        return plane[top : top + crop_height, left : left + crop_width]

    return Moment(
        sight=sight,
        before=as_shown(each_plane(before, enlarged)),
        after=np.ascontiguousarray(as_shown(each_plane(after, cut))),
    )


def _enlarged_part(
    picture: np.ndarray, size: tuple[int, int], part: tuple[int, int, int, int]
) -> np.ndarray:
    """A part (left, top, width, height) of a picture enlarged to `size`, and no more than that."""
    left, top, width, height = part
    across, down = picture.shape[1] / size[0], picture.shape[0] / size[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    shown = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(shown.resize((width, height), Image.Resampling.BICUBIC, box=box))
