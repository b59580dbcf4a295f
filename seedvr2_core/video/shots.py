"""Finds the shots of a video, and of a part of a film those that they are in the whole film.

A part takes the film's cuts to the bit, because the network looks at it in the film's windows. And
it learns where in the film its first shot begins: what is made of a shot depends on that. So what
lies before the part is looked at as well, backwards, until there is a cut: mostly a few seconds, at
most all that comes before.
"""

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seedvr2_core.beat import Beat
from seedvr2_core.video.cuts import STEP, THRESHOLD, CutMarks, CutSearch, detect_cuts, pick_cuts
from seedvr2_core.video.info import VideoInfo

_FIRST_STEPS_BACK = 4
"""Of the network; each time twice as many, because every seek costs time of its own."""
_CONTEXT = 2
"""Frames before a cut without which nobody can say that it is one."""


class FoundShots(NamedTuple):
    """Where the shots of a video, or of a part of a film, begin."""

    cuts: tuple[int, ...]
    """First frames of all but the first."""
    began: int
    """Where the first one begins in the film; below 0, or 0."""


def find_shots(
    path: Path,
    info: VideoInfo,
    *,
    beat: Beat,
    device: str = "cpu",
    marks: CutMarks | None = None,
) -> FoundShots:
    """Decode a video, and what of the film lies before it in the same shot.

    Args:
        path: the source that `info` describes.
        info: from the probe, of all of it or of a part.
        beat: called after every 50 frames with ("cuts", frames, how many there are as far as is
            known).
        device: torch device that the network runs on.
        marks: is told of the cuts of a whole video before the end is reached; of a part it is told
            nothing.

    Raises: as `detect_cuts`.
    """
    if not info.reading.film:
        cuts = detect_cuts(path, info, beat=beat, device=device, marks=marks)
        return FoundShots(cuts, 0)
    first = info.reading.first
    film = _film_of(info)
    told = _FilmBeat(beat, info.num_frames)
    look = CutSearch(path, film, device=device)
    steps = range(max(0, first - _CONTEXT) // STEP, math.ceil((first + info.num_frames) / STEP))
    logits, jumps = look.at(steps, beat=told.looked)
    found, back = _picked(logits, jumps, steps, film), _FIRST_STEPS_BACK
    while steps.start and not any(cut <= first for cut in found):
        earlier = range(max(0, steps.start - back), steps.start)
        told.more(STEP * len(earlier))
        more, more_jumps = look.at(earlier, beat=told.looked)
        logits, jumps = np.concatenate([more, logits]), (*more_jumps, *jumps)
        steps, back = range(earlier.start, steps.stop), 2 * back
        found = _picked(logits, jumps, steps, film)
    began = max((cut for cut in found if cut <= first), default=0)
    inside = [cut - first for cut in found if first < cut < first + info.num_frames]
    return FoundShots(tuple(inside), began - first)


def _film_of(info: VideoInfo) -> VideoInfo:
    """The film that a part was taken of, its times counted as those of the part."""
    whole = replace(info.reading, first=0, ends=False, film=())
    return replace(info, pts=info.reading.film, reading=whole)


def _picked(
    logits_T: np.ndarray, jumps: Collection[int], steps: range, film: VideoInfo
) -> list[int]:
    """The cuts, in frames of the film; of the first and the last frame only where the film ends.

    Elsewhere a neighbour that nobody looked at may be the better place.
    """
    first, stop = STEP * steps.start, min(STEP * steps.stop, film.num_frames)
    unknown = np.array([math.inf], np.float32)
    before, after = unknown[: first > 0], unknown[: stop < film.num_frames]
    offset = first - len(before)
    cuts = pick_cuts(np.concatenate([before, logits_T, after]), THRESHOLD)
    # The neighbour in front, which stands for all that may be there, is no cut itself.
    return sorted({*(cut + offset for cut in cuts if cut > len(before)), *jumps})


class _FilmBeat:
    """Tells how far it is, of as much as is known yet."""

    def __init__(self, beat: Beat, total: int) -> None:
        self._beat, self._total, self._before = beat, total, 0

    def looked(self, done: int) -> None:
        """So many frames of this look are done."""
        self._beat("cuts", min(self._before + done, self._total), self._total)

    def more(self, frames: int) -> None:
        """Another look begins."""
        self._before, self._total = self._total, self._total + frames
