"""Gathers the pieces of segments into runs: what the engine restores without a break."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from seedvr2_core.planning import Piece, Plan, Segment, Shot


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
