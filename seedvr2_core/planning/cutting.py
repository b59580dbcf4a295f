"""Cuts the file into segments."""

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction

from seedvr2_core.planning.plan import Piece, Segment, Shot
from seedvr2_core.video.info import VideoInfo


def plan_segments(
    video: VideoInfo,
    shots: Sequence[Shot],
    *,
    segment_seconds: float,
    soft_boundaries: Mapping[int, Sequence[int]],
) -> tuple[Segment, ...]:
    """Cut the file into segments of about `segment_seconds` of presentation time.

    Args:
        video: times of all frames.
        shots: rising, without gaps.
        segment_seconds: a segment closes at the first boundary at which it has lasted this long.
        soft_boundaries: shot index -> rising frame indices inside the shot where it may be cut.

    Returns:
        Segments that cover every frame once; each is whole shots or a part of one shot.
    """
    min_ticks = Fraction(segment_seconds) / Fraction(*video.time_base)
    pieces_by_segment: list[list[Piece]] = []
    gathered: list[Piece] = []

    def flush() -> None:
        if gathered:
            pieces_by_segment.append(list(gathered))
            gathered.clear()

    for shot in shots:
        cuts = _divide_shot(video.pts, shot, soft_boundaries.get(shot.index, ()), min_ticks)
        if len(cuts) > 2:
            flush()
            pieces_by_segment += [
                [Piece(shot=shot.index, start=a, stop=b)] for a, b in itertools.pairwise(cuts)
            ]
            continue
        gathered.append(Piece(shot=shot.index, start=shot.start, stop=shot.stop))
        end = video.pts[shot.stop] if shot.stop < len(video.pts) else video.pts[-1]
        if end - video.pts[gathered[0].start] >= min_ticks:
            flush()
    flush()
    return tuple(
        Segment(index=k, start=pieces[0].start, stop=pieces[-1].stop, pieces=tuple(pieces))
        for k, pieces in enumerate(pieces_by_segment)
    )


def _divide_shot(
    pts: Sequence[int], shot: Shot, candidates: Sequence[int], min_ticks: Fraction
) -> list[int]:
    """Boundaries of the shot's parts, its own start and stop included."""
    cuts = [shot.start]
    for frame in candidates:
        if pts[frame] - pts[cuts[-1]] >= min_ticks:
            cuts.append(frame)
    return [*cuts, shot.stop]


def shots_between(cuts: Sequence[int], num_frames: int) -> tuple[Shot, ...]:
    """Shots from the first frames of all shots but the first."""
    bounds = itertools.pairwise([0, *cuts, num_frames])
    return tuple(Shot(index=i, start=a, stop=b) for i, (a, b) in enumerate(bounds))
