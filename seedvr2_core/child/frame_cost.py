"""Measures what a frame of a job takes on this machine: the engine, and the encoder.

Both are measured on the first frames of the job's own source at the job's own size, because the
speed of an encoder depends on the pictures. On a CPU we count the time of the cores and not of the
clock, so that other work on the machine does not matter: in a job, engine and encoder share the
cores, and each takes its part of them.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from seedvr2_core.beat import Beat
from seedvr2_core.engines import load_engine
from seedvr2_core.engines.lanczos import resize_plane, resize_rgb
from seedvr2_core.frames import Frame
from seedvr2_core.planning import Plan
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.writer import SegmentWriter

ENGINE_SECONDS = 2.0
"""How long the engine is measured; two frames are restored in any case."""
ENGINE_FRAMES = 48
"""Most frames that the engine is measured on."""
ENCODER_FRAMES, ENCODER_BYTES = 24, 200_000_000
"""Most frames that the encoder is measured on, and most bytes of pictures; at least four."""
PHASE = "measure"


def measure_frames(
    plan: Plan, *, source: Path, device: str, folder: Path, beat: Beat
) -> tuple[float, float]:
    """Measure engine and encoder of a job whose engine works frame by frame.

    Args:
        plan: of the job.
        source: the video.
        device: torch device string.
        folder: for a temporary file, which is removed.
        beat: called for every frame.

    Returns:
        Seconds of the engine (with decoding and conversions) and of the encoder for one frame.
    """
    torch.set_num_threads(plan.torch_threads)
    return (
        _engine_seconds(plan, source, device, beat),
        _encoder_seconds(plan, source, folder, beat),
    )


def _engine_seconds(plan: Plan, source: Path, device: str, beat: Beat) -> float:
    """The engine's seconds for one frame."""

    def beat_here(_phase: str, done: int, total: int) -> None:
        beat(PHASE, done, total)

    session = load_engine(plan.engine.name).open_session(plan, device=device, beat=beat_here)
    piece = plan.segments[0].pieces[0]
    frames = read_frames(source, plan.video, piece.start, piece.stop, deep=plan.deep)
    state = session.begin(frames, shot=plan.shots[0], piece=piece)
    restored = session.restore(frames, shot=plan.shots[0], piece=piece, state=state)
    clock = _Clock(on_cpu=device == "cpu")
    try:
        next(restored)
        first = clock.seconds()
        clock, done = _Clock(on_cpu=device == "cpu"), 0  # the first frame also makes buffers
        for _ in islice(restored, ENGINE_FRAMES):
            done += 1
            if clock.wall_seconds() > ENGINE_SECONDS:
                break
        return clock.seconds() / done if done else first
    finally:
        session.close()


def _encoder_seconds(plan: Plan, source: Path, folder: Path, beat: Beat) -> float:
    """The encoder's seconds for one frame. What the engine makes of it matters little."""
    most = min(ENCODER_FRAMES, max(4, ENCODER_BYTES // (3 * plan.width * plan.height)))
    frames = list(islice(_resized(plan, source), most))
    part, clock = folder / "measure.mp4.part", _Clock(on_cpu=True)
    with SegmentWriter(part, plan.encoder, frames[0].pts) as writer:
        for done, frame in enumerate(frames, start=1):
            writer.write(frame)
            beat(PHASE, done, len(frames))
    seconds = clock.seconds()
    part.unlink()
    return seconds / len(frames)


def _resized(plan: Plan, source: Path) -> Iterator[Frame]:
    """The source's frames at the output's size."""
    height, width = plan.height, plan.width
    stop, alpha = plan.segments[0].stop, plan.video.keeps_alpha
    for frame in read_frames(source, plan.video, 0, stop, deep=plan.deep, alpha=alpha):
        own = frame.alpha
        yield replace(
            frame,
            rgb=resize_rgb(frame.rgb, height=height, width=width),
            alpha=None if own is None else resize_plane(own, height=height, width=width),
        )


class _Clock:
    """Seconds since it was made: those of the cores, divided by their number, or of the clock."""

    def __init__(self, *, on_cpu: bool) -> None:
        self._on_cpu = on_cpu
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def wall_seconds(self) -> float:
        """Seconds of the clock."""
        return time.monotonic() - self._wall

    def seconds(self) -> float:
        """Seconds that the work takes if it has all cores for itself."""
        if not self._on_cpu:
            return self.wall_seconds()
        return (time.process_time() - self._cpu) / len(os.sched_getaffinity(0))
