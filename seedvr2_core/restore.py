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

from seedvr2_core.engine import Session, load_engine
from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.plan import Piece, Plan, Segment, Shot
from seedvr2_core.segments import (
    commit_segment,
    part_path,
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
    indices: Sequence[int],
    events: Events,
) -> None:
    """Restore, encode and commit the segments `indices` (rising) of a job.

    Raises:
        SeedVR2Error: of any kind the engine, the codecs or the disk have.
    """
    segments_dir(job_dir).mkdir(parents=True, exist_ok=True)
    with _only_child(job_dir, events):
        remove_leftovers(job_dir)
        _make_deterministic(plan.torch_threads)
        engine = load_engine(plan.engine.name)
        session = engine.open_session(plan, device=device, beat=events.beat)
        events.emit("ready", engine=plan.engine.name, device=device)
        try:
            pipeline = _Pipeline(plan, job_dir, source, device, session, events)
            pipeline.run([plan.segments[k] for k in indices])
        finally:
            session.close()


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

    def __init__(
        self,
        plan: Plan,
        job_dir: Path,
        source: Path,
        device: str,
        session: Session,
        events: Events,
    ) -> None:
        self._plan = plan
        self._job_dir = job_dir
        self._source = source
        self._device = device
        self._session = session
        self._events = events
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._decoded: _Channel[Frame | None] = _Channel(QUEUE_FRAMES, self._stop)
        self._restored: _Channel[Frame] = _Channel(QUEUE_FRAMES, self._stop)

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
        return self._session.warm_up_start(run.shot, run.pieces[0])

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
            if run.pieces[0].start == run.shot.start:
                state = self._session.start(run.shot)
            else:
                state = self._session.warm_up(
                    frames, None, None, shot=run.shot, piece=run.pieces[0]
                )
            for piece in run.pieces:
                restored = self._session.restore(frames, shot=run.shot, piece=piece, state=state)
                for frame in restored:
                    self._restored.put(frame)
            if next(frames, None) is not None:
                raise SegmentError(f"the engine left frames of shot {run.shot.index} unread")

    def _encode(self, segments: Sequence[Segment]) -> None:
        """Encode thread: write, check and commit one segment after another."""
        done, total = 0, sum(segment.num_frames for segment in segments)
        for segment in segments:
            began = time.monotonic()
            part = part_path(self._job_dir, segment.index)
            first_pts = self._plan.video.pts[segment.start]
            with SegmentWriter(part, self._plan.encoder, first_pts) as writer:
                for frame in self._frames_of(segment):
                    writer.write(frame)
                    done += 1
                    self._events.beat("encode", done, total)
            if (counted := count_frames(part)) != segment.num_frames:
                raise SegmentError(
                    f"segment {segment.index} decodes to {counted} frames, expected "
                    f"{segment.num_frames}"
                )
            seconds = time.monotonic() - began
            commit_segment(self._job_dir, self._plan, segment, device=self._device, seconds=seconds)
            self._events.emit("segment_done", segment=segment.index, seconds=round(seconds, 3))

    def _frames_of(self, segment: Segment) -> Iterator[Frame]:
        """The segment's frames, checked to come once each, in order, at the right time."""
        for index in range(segment.start, segment.stop):
            frame = self._restored.get()
            if (frame.index, frame.pts) != (index, self._plan.video.pts[index]):
                raise SegmentError(
                    f"the engine gave frame {frame.index} at {frame.pts}, expected {index} at "
                    f"{self._plan.video.pts[index]}"
                )
            yield frame


def _make_deterministic(threads: int) -> None:
    """Same plan, same bytes: thread count from the plan, no algorithm chosen by timing."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
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
