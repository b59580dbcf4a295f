"""Makes the segments of a job: decode ahead -> engine -> encode behind -> commit.

Three threads joined by bounded queues, so that memory does not grow with the video and the engine
never waits for a codec that keeps up. A failure in any thread stops all three and is raised.
"""

import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from seedvr2_core.commit import read_commits, write_commit
from seedvr2_core.engine import Commit, Session, ShotState, load_engine
from seedvr2_core.errors import NumericalError, SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.plan import Piece, Plan, Segment, Shot
from seedvr2_core.segments import (
    commit_segment,
    leaves_latents,
    part_path,
    read_segment,
    remove_leftovers,
    segments_dir,
)
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.writer import SegmentWriter, count_frames

logger = logging.getLogger(__name__)

QUEUE_FRAMES = 8
_POLL_SECONDS = 0.1

T = TypeVar("T")


class Events(Protocol):
    """Where progress goes."""

    def emit(self, event: str, **values: object) -> None:
        """Send an event."""

    def beat(self, phase: str, done: int, total: int) -> None:
        """Send a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring pending pieces of one shot, restored with one state."""

    shot: Shot
    pieces: tuple[Piece, ...]


def restore_segments(
    plan: Plan,
    job_dir: Path,
    *,
    source: Path,
    device: str,
    weights_dir: Path | None,
    indices: Sequence[int],
    events: Events,
) -> None:
    """Restore, encode and commit the segments `indices` (rising) of a job.

    Args:
        plan: of the job; obeyed.
        job_dir: where segments are.
        source: the video.
        device: torch device string.
        weights_dir: folder of the SeedVR2 weights.
        indices: of the segments to make.
        events: hears of progress.

    Raises:
        SeedVR2Error: of any kind the engine, the codecs or the disk have.
    """
    segments_dir(job_dir).mkdir(parents=True, exist_ok=True)
    with _only_child(job_dir, events):
        remove_leftovers(job_dir)
        _make_deterministic(plan.torch_threads)
        engine = load_engine(plan.engine.name)
        session = engine.open_session(
            plan, device=device, beat=events.beat, weights_dir=weights_dir
        )
        events.emit("ready", engine=plan.engine.name, device=device)
        try:
            pending = [plan.segments[k] for k in indices]
            num_frames = sum(segment.num_frames for segment in pending)
            job = _Job(plan, job_dir, source, device, session, events, num_frames)
            while pending:
                pending = _run_until_fall_back(job, pending)
        finally:
            session.close()


@dataclass(frozen=True, slots=True)
class _Job:
    """What all threads work on."""

    plan: Plan
    job_dir: Path
    source: Path
    device: str
    session: Session
    events: Events
    num_frames: int
    """Of all segments asked for."""


def _run_until_fall_back(job: _Job, pending: Sequence[Segment]) -> list[Segment]:
    """Restore the segments; returns those left after a step down the precision ladder."""
    try:
        _Pipeline(job).run(pending)
    except NumericalError as error:
        if not job.session.fall_back():
            raise
        logger.warning("%s; the rest of the shot is done again in %s", error, job.session.precision)
        return [s for s in pending if read_segment(job.job_dir, job.plan, s) is None]
    return []


def plan_runs(plan: Plan, segments: Sequence[Segment]) -> list[Run]:
    """Pieces of the pending segments, gathered as far as one engine state can be carried."""
    runs: list[Run] = []
    for piece in (piece for segment in segments for piece in segment.pieces):
        last = runs[-1] if runs else None
        if last and last.pieces[-1].shot == piece.shot and last.pieces[-1].stop == piece.start:
            runs[-1] = Run(shot=last.shot, pieces=(*last.pieces, piece))
        else:
            runs.append(Run(shot=plan.shots[piece.shot], pieces=(piece,)))
    return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """Follows a piece's last frame on its way to the encode thread."""

    commit: Commit
    precision: str


class _Stopped(Exception):
    """Another thread has failed; unwinds this one quietly."""


class _Channel(Generic[T]):
    """A bounded queue whose waiting ends when the pipeline stops."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[T] = queue.Queue(size)
        self._stop = stop

    def put(self, item: T) -> None:
        """Wait for room."""
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
        raise _Stopped

    def get(self) -> T:
        """Wait for an item."""
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
        raise _Stopped


class _Pipeline:
    """One pass over pending segments."""

    def __init__(self, job: _Job) -> None:
        self._plan, self._job_dir, self._source = job.plan, job.job_dir, job.source
        self._device, self._session, self._events = job.device, job.session, job.events
        self._num_frames = job.num_frames
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._decoded: _Channel[Frame | None] = _Channel(QUEUE_FRAMES, self._stop)
        self._restored: _Channel[Frame | _Finished] = _Channel(QUEUE_FRAMES, self._stop)

    def run(self, segments: Sequence[Segment]) -> None:
        """Restore the segments; returns when the last one is committed."""
        runs = plan_runs(self._plan, segments)
        threads = [
            threading.Thread(target=self._guarded, args=(self._decode, runs), name="decode"),
            threading.Thread(target=self._guarded, args=(self._encode, segments), name="encode"),
        ]
        for thread in threads:
            thread.start()
        self._guarded(self._restore, runs)
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[Sequence[T]], None], items: Sequence[T]) -> None:
        """Run one thread's work; the first failure of any stops all."""
        try:
            work(items)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the main thread and raised there
            self._failure = self._failure or error
            self._stop.set()

    def _first_frame(self, run: Run) -> int:
        """Where reading starts: at the run, or earlier where the engine must warm up."""
        if run.pieces[0].start == run.shot.start:
            return run.shot.start
        return self._session.plan_warm_up(run.shot, run.pieces[0]).first_frame

    def _decode(self, runs: Sequence[Run]) -> None:
        """Decode thread: frames of every run, each run ended by None."""
        for run in runs:
            start = self._first_frame(run)
            stop = self._session.read_stop(run.shot, run.pieces[-1])
            for frame in read_frames(self._source, self._plan.video, start, stop):
                self._decoded.put(frame)
                self._events.beat("decode", frame.index + 1 - start, stop - start)
            self._decoded.put(None)

    def _restore(self, runs: Sequence[Run]) -> None:
        """Engine: one state per run, piece after piece."""
        for run in runs:
            frames = iter(self._decoded.get, None)
            state = self._state_at(run, frames)
            for piece in run.pieces:
                restored = self._session.restore(frames, shot=run.shot, piece=piece, state=state)
                for frame in restored:
                    self._restored.put(frame)
                commit, precision = self._session.take_commit(), self._session.precision
                self._restored.put(_Finished(commit=commit, precision=precision))
            if next(frames, None) is not None:
                raise SegmentError(f"the engine left frames of shot {run.shot.index} unread")

    def _state_at(self, run: Run, frames: Iterator[Frame]) -> ShotState:
        """The engine's state at the start of a run: fresh, or rebuilt from what is committed."""
        first = run.pieces[0]
        if first.start == run.shot.start:
            return self._session.start(run.shot)
        latents, tail = None, None
        if self._plan.memory is not None:
            self._session.adopt_precision(run.shot, self._precision_before(first))
            first_latent = self._session.plan_warm_up(run.shot, first).first_latent
            latents, tail = read_commits(self._job_dir, self._plan, first, first_latent)
        return self._session.warm_up(frames, latents, tail, shot=run.shot, piece=first)

    def _precision_before(self, piece: Piece) -> str:
        """What the segment in front of a piece was made in."""
        before = next(s for s in self._plan.segments if s.stop == piece.start)
        sidecar = read_segment(self._job_dir, self._plan, before)
        if sidecar is None:
            raise SegmentError(f"segment {before.index} is needed and not there; run it again")
        return sidecar.precision

    def _encode(self, segments: Sequence[Segment]) -> None:
        """Encode thread: write, check and commit one segment after another."""
        total = self._num_frames
        done = total - sum(segment.num_frames for segment in segments)
        for segment in segments:
            began = time.monotonic()
            part = part_path(self._job_dir, segment.index)
            first_pts = self._plan.video.pts[segment.start]
            finished: list[_Finished] = []
            with SegmentWriter(part, self._plan.encoder, first_pts) as writer:
                for piece in segment.pieces:
                    for frame in self._frames_of(piece):
                        writer.write(frame)
                        done += 1
                        self._events.beat("encode", done, total)
                    finished.append(self._finished_piece())
            if (counted := count_frames(part)) != segment.num_frames:
                raise SegmentError(
                    f"segment {segment.index} decodes to {counted} frames, expected "
                    f"{segment.num_frames}"
                )
            seconds = round(time.monotonic() - began, 3)
            self._commit(segment, finished[-1], seconds)
            self._events.emit("segment_done", segment=segment.index, seconds=seconds)

    def _commit(self, segment: Segment, finished: "_Finished", seconds: float) -> None:
        """Latents and tail first, then the packets, the sidecar last."""
        if leaves_latents(self._plan, segment):
            write_commit(self._job_dir, segment, finished.commit)
        commit_segment(
            self._job_dir,
            self._plan,
            segment,
            device=self._device,
            precision=finished.precision,
            seconds=seconds,
        )

    def _frames_of(self, piece: Piece) -> Iterator[Frame]:
        """The piece's frames, checked to come once each, in order, at the right time."""
        for index in range(piece.start, piece.stop):
            frame = self._restored.get()
            expected = (index, self._plan.video.pts[index])
            if not isinstance(frame, Frame) or (frame.index, frame.pts) != expected:
                raise SegmentError(f"the engine gave {frame}, expected frame and time {expected}")
            yield frame

    def _finished_piece(self) -> "_Finished":
        """What comes after a piece's last frame."""
        finished = self._restored.get()
        if not isinstance(finished, _Finished):
            raise SegmentError(f"the engine gave {finished} after the piece's last frame")
        return finished


def _make_deterministic(threads: int) -> None:
    """Same plan, same bytes: thread count from the plan, no algorithm chosen by timing."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Every buffer is written before it is read; filling it first would cost a pass over memory.
    deterministic = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False


@contextmanager
def _only_child(job_dir: Path, events: Events) -> Iterator[None]:
    """Hold the job directory against a child of a killed run that has not ended yet."""
    handle = os.open(job_dir / "child.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                events.beat("waiting for the previous child to end", 0, 0)
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)
