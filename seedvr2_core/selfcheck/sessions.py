"""Checks of the session that jobs use: the time and memory of each phase, and resuming a shot."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from seedvr2_core.engines.protocol import Commit
from seedvr2_core.engines.seedvr2.phases import DECODE, DIT, ENCODE, RESTORE
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.shot import ShotGrid
from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import SIZE_MULTIPLE, Frame
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.planning import Piece, Plan
from seedvr2_core.selfcheck.bench import Bench
from seedvr2_core.selfcheck.differences import (
    largest_difference,
    mean_shift,
    psnr,
    side_by_side,
    to_eight_bits,
)
from seedvr2_core.selfcheck.report import Outcome, tidy

LONG_WINDOW = 14
_OVERLAP = 3


class _Stages:
    """Seconds and peak memory of each phase, taken at a session's beats.

    A beat comes after a check of values, which waits for the device, so its time is right.
    """

    def __init__(self, bench: Bench) -> None:
        self._clock = bench.clock
        self._device = bench.device
        self._before = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.allocated: dict[str, int] = {}
        self.reserved: dict[str, int] = {}
        self._reset()

    def beat(self, phase: str, done: int, total: int) -> None:
        """Count the time since the last beat for the phase in this beat's name."""
        self._clock.tick()
        self.note(phase.removeprefix(f"{RESTORE} "))

    def note(self, phase: str) -> None:
        """As `beat`, without asking the clock."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._before
        self._before = now
        if on_gpu(self._device):
            allocated = torch.cuda.max_memory_allocated(self._device)
            reserved = torch.cuda.max_memory_reserved(self._device)
            self.allocated[phase] = max(allocated, self.allocated.get(phase, 0))
            self.reserved[phase] = max(reserved, self.reserved.get(phase, 0))
            self._reset()

    def _reset(self) -> None:
        if on_gpu(self._device):
            torch.cuda.reset_peak_memory_stats(self._device)


def check_restore(bench: Bench) -> Outcome:
    """Restore the clip as a job does: pictures before and after, and what each phase costs."""
    frames = bench.frames
    plan = bench.plan_for(len(frames), window=bench.num_latents, overlap=_OVERLAP)
    stages = _Stages(bench)
    session = SeedVR2Session(bench.models, plan, device=plan.device, beat=stages.beat)
    pictures, commit = _restore(session, plan, frames, _pieces(plan)[0])
    stages.note(DECODE)
    session.close()
    sources = bench.sources_rgb()
    middle = len(frames) // 2
    planned = dict(bench.memory.peaks)
    numbers: dict[str, Any] = {
        "precision": commit.precision,
        "frames": len(frames),
        "seconds": {phase: tidy(value) for phase, value in stages.seconds.items()},
        "seconds_per_frame": tidy(sum(stages.seconds.values()) / len(frames)),
        "peak_allocated_bytes": stages.allocated,
        "peak_reserved_bytes": stages.reserved,
        "planned_bytes": {phase: planned[phase] for phase in (ENCODE, DIT, DECODE)},
        "mean_shift_rgb": mean_shift(pictures, sources, device=bench.device),
        "psnr_db_to_bicubic": tidy(psnr(pictures, sources, device=bench.device)),
        "middle_frame": middle,
    }
    before, after = sources[middle], to_eight_bits(pictures[middle])
    saved = [
        bench.save("before_after", side_by_side([before, after])),
        bench.save("before", before),
        bench.save("after", after),
    ]
    shares = ", ".join(f"{phase} {value:.1f} s" for phase, value in stages.seconds.items())
    told = f"{len(frames)} frames: {shares}; look at the pictures"
    return Outcome(status="reported", told=told, numbers=numbers, pictures=saved)


def check_resume(bench: Bench) -> Outcome:
    """Restore two windows, the second from what the first committed."""
    return _compare(bench, bench.frames, window=len(bench.windows(_OVERLAP)[0]), size=bench.size)


def check_resume_long(bench: Bench) -> Outcome:
    """Resume the last of many windows, at half the size; its warm-up begins inside the shot."""
    height, width = (max(SIZE_MULTIPLE, side // 4 * 2) for side in bench.size)
    return _compare(bench, bench.long_frames, window=LONG_WINDOW, size=(height, width))


@dataclass(slots=True)
class _TakenUp:
    """A shot whose last window another session restored from what was committed before it."""

    pictures: list[np.ndarray]
    latents: torch.Tensor
    first_frame: int
    """First frame that had to be read again."""
    first_latent: int
    """First latent that had to be decoded again."""


def _compare(
    bench: Bench, frames: Sequence[Frame], *, window: int, size: tuple[int, int]
) -> Outcome:
    plan = bench.plan_for(len(frames), window=window, overlap=_OVERLAP, size=size)
    whole, first, rest = _pieces(plan)
    session = _open(bench, plan)
    wanted, commit = _restore(session, plan, frames, whole)
    session.close()
    taken = _take_up(bench, plan, frames, first, rest)
    assert commit.latents is not None
    steps = [largest_difference(a, b) for a, b in zip(wanted, taken.pictures, strict=True)]
    differing = [index for index, step in enumerate(steps) if step]
    same = not differing and torch.equal(commit.latents, taken.latents)
    distance = (commit.latents.float() - taken.latents.float()).abs().max().item()
    numbers: dict[str, Any] = {
        "precision": commit.precision,
        "frames": len(frames),
        "height": size[0],
        "width": size[1],
        "taken_up_at_frame": rest.start,
        "warm_up_from_frame": taken.first_frame,
        "warm_up_from_latent": taken.first_latent,
        "differing_frames": len(differing),
        "first_differing_frame": differing[0] if differing else None,
        "largest_difference_levels": tidy(max(steps)),
        "mean_of_frames_largest": tidy(statistics.fmean(steps)),
        "largest_difference_latents": tidy(distance),
    }
    at = f"taken up at frame {rest.start} of {len(frames)}, read again from {taken.first_frame}"
    told = f"the same bits; {at}"
    if not same:
        told = (
            f"{len(differing)} frames differ, by up to {max(steps):.3g} levels (latents by "
            f"{distance:.3g}); {at}"
        )
    return Outcome(status="ok" if same else "failed", told=told, numbers=numbers)


def _take_up(
    bench: Bench, plan: Plan, frames: Sequence[Frame], first: Piece, rest: Piece
) -> _TakenUp:
    """Restore the first piece, then the rest in a session that knows the commit alone."""
    shot = plan.shots[0]
    session = _open(bench, plan)
    before, commit = _restore(session, plan, frames, first)
    session.close()
    session = _open(bench, plan)
    reads = session.reads(shot, [rest])
    source = iter(frames[reads.frames.start : reads.frames.stop])
    assert commit.latents is not None
    kept = replace(commit, latents=commit.latents[reads.latents.start :])
    state = session.begin(source, shot=shot, piece=rest, before=kept)
    after = [f.rgb for f in session.restore(source, shot=shot, piece=rest, state=state)]
    rest_latents = session.take_commit().latents
    session.close()
    assert rest_latents is not None
    return _TakenUp(
        pictures=[*before, *after],
        latents=torch.cat([commit.latents, rest_latents]),
        first_frame=reads.frames.start,
        first_latent=reads.latents.start,
    )


def _open(bench: Bench, plan: Plan) -> SeedVR2Session:
    def beat(phase: str, done: int, total: int) -> None:
        bench.clock.tick()

    return SeedVR2Session(bench.models, plan, device=plan.device, beat=beat)


def _pieces(plan: Plan) -> tuple[Piece, Piece, Piece]:
    """The whole shot; all but its last window; the last window (nothing where it is the only)."""
    shot = plan.shots[0]
    assert plan.memory is not None
    grid = ShotGrid.build(shot, plan.engine, plan.memory)
    edge = grid.first_frame(grid.windows[-1].start)
    bounds = ((shot.start, shot.stop), (shot.start, edge), (edge, shot.stop))
    whole, first, rest = (Piece(shot=shot.index, start=a, stop=b) for a, b in bounds)
    return whole, first, rest


def _restore(
    session: SeedVR2Session, plan: Plan, frames: Sequence[Frame], piece: Piece
) -> tuple[list[np.ndarray], Commit]:
    """A piece from the shot's start.

    Raises:
        SegmentError: the session gave other frames than the piece's.
    """
    shot = plan.shots[0]
    source = iter(frames)
    state = session.begin(source, shot=shot, piece=piece)
    restored = list(session.restore(source, shot=shot, piece=piece, state=state))
    got = [frame.index for frame in restored]
    if got != list(range(piece.start, piece.stop)):
        raise SegmentError(f"the session gave frames {got}, expected those of {piece}")
    return [frame.rgb for frame in restored], session.take_commit()
