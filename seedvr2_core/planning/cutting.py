"""Cuts a video into shots and segments.

A segment is the unit of durable work: what is restored, encoded and committed at once. Short shots
are gathered into one segment; a long shot is divided, but only where its engine allows that.
"""

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction

from seedvr2_core.planning.plan import Piece, Segment, Shot
from seedvr2_core.video.info import VideoInfo


def shots_between(cuts: Sequence[int], num_frames: int) -> tuple[Shot, ...]:
    """All shots of a video.

    Args:
        cuts: first frames of all shots but the first, rising.
        num_frames: of the video.
    """
    bounds = itertools.pairwise([0, *cuts, num_frames])
    return tuple(Shot(index=i, start=a, stop=b) for i, (a, b) in enumerate(bounds))


def plan_segments(
    video: VideoInfo,
    shots: Sequence[Shot],
    *,
    segment_seconds: float,
    soft_boundaries: Mapping[int, Sequence[int]],
) -> tuple[Segment, ...]:
    """Cut the file into segments of about `segment_seconds` of presentation time.

    Args:
        video: the source; its `pts` are the times of all frames.
        shots: all shots of the video, in order.
        segment_seconds: a segment ends at the first boundary where it has lasted this long.
        soft_boundaries: for each shot index, the frames inside the shot, rising, at which the shot
            may be divided; a shot that is not named is never divided.

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
