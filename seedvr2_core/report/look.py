"""Looks at the places of a job, one after another, until they are all seen or the time is up.

Memory: a handful of frames at a time, and small crops for at most `_BINS` moments.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from seedvr2_core.beat import Beat
from seedvr2_core.job import JobDir
from seedvr2_core.planning import Plan
from seedvr2_core.report.chosen_frames import places
from seedvr2_core.report.measures import Pair, largest_change, measure_pair
from seedvr2_core.report.record import Sight
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
        beat: sign of life, once a place, with the percentage of the places or of the time used.

    Raises:
        InvalidVideoError: a frame cannot be read.
    """
    looked, began = Looked(), time.monotonic()
    segments = _Segments(plan, job_dir)
    clock = Fraction(*plan.video.time_base)
    wanted = list(places(plan))
    for number, place in enumerate(wanted):
        used = (time.monotonic() - began) / seconds if seconds else 0.0
        beat("report", min(99, round(100 * max(number / len(wanted), used))), 100)
        first = place.frame - 1
        before = [f.rgb for f in read_frames(source, plan.video, first, first + 2)]
        pair = Pair(before=(before[0], before[1]), after=segments.pair(place.frame))
        at = float((plan.video.pts[place.frame] - plan.video.pts[0]) * clock)
        sight = measure_pair(pair, place, at)
        looked.sights.append(sight)
        part = place.frame * _BINS // plan.video.num_frames
        if part not in looked.best or looked.best[part].sight.difference < sight.difference:
            looked.best[part] = _moment(pair, sight)
        each = (time.monotonic() - began) / (number + 1)
        if each * (number + 2) > seconds:  # one more would take too long
            break
    return looked


class _Segments:
    """Reads restored frames from the segments; the joined file would have to be read whole.

    The plan says what a segment is: to probe one takes as long as to decode it.
    """

    def __init__(self, plan: Plan, job_dir: JobDir) -> None:
        self._plan, self._job_dir = plan, job_dir

    def pair(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames `frame - 1` and `frame`, (H, W, 3) uint8."""
        first, second = self._pictures(frame - 1, frame + 1)
        return first, second

    def _pictures(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for segment in self._plan.segments:
            first, last = max(start, segment.start), min(stop, segment.stop)
            if first >= last:
                continue
            path = self._job_dir.video_path(segment.index)
            begin, end = first - segment.start, last - segment.start
            info = self._plan.segment_video(segment)
            yield from (f.rgb for f in read_frames(path, info, begin, end))


def _moment(pair: Pair, sight: Sight) -> Moment:
    """The part of a pair's second frame in which most has changed."""
    after = pair.after[1]
    height, width = after.shape[:2]
    across, down = largest_change(pair)
    crop_width, crop_height = min(CROP[0], width), min(CROP[1], height)
    left = min(max(0, round(across * width) - crop_width // 2), width - crop_width)
    top = min(max(0, round(down * height) - crop_height // 2), height - crop_height)
    enlarged = _enlarged_part(pair.before[1], (width, height), (left, top, crop_width, crop_height))
    return Moment(
        sight=sight,
        before=enlarged,
        after=np.ascontiguousarray(after[top : top + crop_height, left : left + crop_width]),
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
