"""Cuts a video into shots and segments, and gathers pieces into runs.

A segment is the unit of durable work: what is restored, encoded and committed at once. Short shots
are gathered into one segment; a long shot is divided, but only where its engine allows that.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.planning.plan import Piece, Plan, Segment, Shot
from seedvr2_core.video.info import VideoInfo


def shots_between(cuts: Sequence[int], num_frames: int, began: int = 0) -> tuple[Shot, ...]:
    """All shots of a video.

    A part of a film that begins inside a shot begins at the last frame of one of the film's latents
    (or up to three frames before the part, if it has to). Its own latents behind that frame are
    then those of the film, of the same frames.

    Args:
        cuts: first frames of all shots but the first, rising.
        num_frames: of the video.
        began: where the first shot begins in the film; below 0, or 0.
    """
    first = -(-began % FRAMES_PER_LATENT)
    bounds = itertools.pairwise([first, *cuts, num_frames])
    return tuple(
        Shot(index=i, start=a, stop=b, goes_on=i == 0 and began < first)
        for i, (a, b) in enumerate(bounds)
    )


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
        if end - video.pts[gathered[0].written.start] >= min_ticks:
            flush()
    flush()
    return tuple(
        Segment(index=k, start=pieces[0].written.start, stop=pieces[-1].stop, pieces=tuple(pieces))
        for k, pieces in enumerate(pieces_by_segment)
    )


def _divide_shot(
    pts: Sequence[int], shot: Shot, candidates: Sequence[int], min_ticks: Fraction
) -> list[int]:
    """Boundaries of the shot's parts, its own start and stop included."""
    cuts = [max(0, shot.start)]
    for frame in candidates:
        if frame > cuts[0] and pts[frame] - pts[cuts[-1]] >= min_ticks:
            cuts.append(frame)
    return [shot.start, *cuts[1:], shot.stop]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotRun:
    """Pending pieces of one shot, without a gap: the engine carries its state from one to the next.

    Where a segment between them is finished already, a new run begins behind it, with a state that
    is rebuilt from what was committed.
    """

    shot: Shot
    pieces: tuple[Piece, ...]
    unaided: bool = False
    """Another process is still making an earlier piece of the shot. So the state is made from the
    source alone, which takes longer and gives the same bits."""


def plan_runs(
    plan: Plan, segments: Sequence[Segment], *, elsewhere: Collection[int] = ()
) -> list[ShotRun]:
    """Gather the pieces of the pending segments into runs.

    A run ends where its shot ends, or where the next piece of the shot is finished already.

    Args:
        plan: of the job.
        segments: those to make, in order.
        elsewhere: indices of those that are neither finished nor made here.
    """
    shots_elsewhere = {
        (piece.shot, piece.start) for index in elsewhere for piece in plan.segments[index].pieces
    }
    runs: list[ShotRun] = []
    for piece in (piece for segment in segments for piece in segment.pieces):
        last = runs[-1] if runs else None
        if last and last.pieces[-1].shot == piece.shot and last.pieces[-1].stop == piece.start:
            runs[-1] = replace(last, pieces=(*last.pieces, piece))
        else:
            unaided = any(
                shot == piece.shot and start < piece.start for shot, start in shots_elsewhere
            )
            runs.append(ShotRun(shot=plan.shots[piece.shot], pieces=(piece,), unaided=unaided))
    return runs
