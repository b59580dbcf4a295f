"""Chooses the frames that a report looks at.

A report may take a small share of the job's time, so it looks at pairs of neighbouring frames here
and there. The order is such that whoever stops early has looked evenly over the whole video, at as
many joins as at other places. A segment is decoded from its start, so the first places that are no
joins lie shortly behind the starts of segments: they take little time.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from seedvr2_core.planning import Plan, Shot
from seedvr2_core.planning.windows import num_latents, plan_windows, soft_boundaries

MOST_OF_A_KIND = 150
AWAY_FRAMES = 3
"""A place that is no join lies at least so far from one."""
MOST_NEAR = 20
"""So many places shortly behind a segment's start come before the others."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Frames `frame - 1` and `frame`, which belong to one shot."""

    frame: int
    join: bool


def places(plan: Plan) -> Iterator[Neighbours]:
    """The places of a plan in the order in which they are looked at."""
    joins = joins_of(plan)
    near, others = _near_starts(plan, joins), _others(plan, joins)
    cheap = [near[i] for i in islice(_evenly(len(near)), MOST_NEAR)]
    frames = dict.fromkeys([*cheap, *(others[i] for i in _evenly(len(others)))])
    away = (Neighbours(frame, False) for frame in islice(frames, MOST_OF_A_KIND))
    at = (Neighbours(joins[i], True) for i in _evenly(len(joins)))
    return (place for place in chain.from_iterable(zip_longest(away, at)) if place is not None)


def frames_to_read(plan: Plan, frame: int) -> int:
    """How many frames of the result are decoded to have `frame` and the one before it."""
    starts = [segment.start for segment in plan.segments]
    return frame + 1 - starts[bisect.bisect_right(starts, frame - 1) - 1]


def joins_of(plan: Plan) -> list[int]:
    """The first frames after a join inside a shot: of windows, and of segments."""
    found = {
        piece.start
        for segment in plan.segments
        for piece in segment.pieces
        if piece.start != plan.shots[piece.shot].start
    }
    if plan.engine.window:
        for shot in plan.shots:
            found.update(_window_joins(plan, shot))
    return sorted(found)


def _window_joins(plan: Plan, shot: Shot) -> Iterator[int]:
    """Where the later windows of a shot begin."""
    count = num_latents(shot.stop - shot.start)
    windows = plan_windows(count, window=plan.engine.window, overlap=plan.engine.overlap)
    starts = (shot.start + frame for frame in soft_boundaries(windows))
    return (frame for frame in starts if frame > 0)


def _others(plan: Plan, joins: Sequence[int]) -> list[int]:
    """Evenly spaced frames inside shots, away from joins."""
    step = max(1, plan.video.num_frames // (2 * MOST_OF_A_KIND))
    starts = [shot.start for shot in plan.shots]
    frames = range(1, plan.video.num_frames, step)
    return [frame for frame in frames if _lies_away(frame, starts, joins)]


def _near_starts(plan: Plan, joins: Sequence[int]) -> list[int]:
    """The first frame of each segment that is such a place, if it lies shortly behind the start."""
    starts = [shot.start for shot in plan.shots]
    found: list[int] = []
    for segment in plan.segments:
        last = min(segment.stop, segment.start + 2 * AWAY_FRAMES + 2)
        frames = range(segment.start + 1, last)
        found += islice((frame for frame in frames if _lies_away(frame, starts, joins)), 1)
    return found


def _lies_away(frame: int, starts: Sequence[int], joins: Sequence[int]) -> bool:
    """Whether a frame and the one before it are of one shot, and no join is near."""
    return _gap(starts, frame) > 0 and _gap(joins, frame) > AWAY_FRAMES


def _gap(frames: Sequence[int], frame: int) -> float:
    """Frames between this one and the nearest of the others."""
    at = bisect.bisect_left(frames, frame)
    near = frames[max(0, at - 1) : at + 1]
    return min((abs(frame - other) for other in near), default=float("inf"))


def _evenly(count: int) -> Iterator[int]:
    """Indices below `count`, each step between those before (van der Corput), at most so many."""
    seen: set[int] = set()
    turn, size = 0, 1 << max(1, count - 1).bit_length()
    while turn < size and len(seen) < min(count, MOST_OF_A_KIND):
        turned = int(f"{turn:0{size.bit_length() - 1}b}"[::-1], 2)
        turn += 1
        index = turned * count // size
        if index not in seen:
            seen.add(index)
            yield index
