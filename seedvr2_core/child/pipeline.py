"""One pass over pending segments: decode ahead -> engine -> encode behind -> commit.

Each stage is a thread, and bounded queues join them. So memory does not grow with the length of the
video, and the engine does not wait for a stage that is fast enough: while one segment is checked
and committed, the next one is already being encoded. If a stage fails, the stages before it end at
once. The stages after it first finish what they were given, so no segment before the failure is
lost. At most `MAX_IN_FLIGHT` segments are begun and not on disk.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from seedvr2_core.child.channel import Channel, InFlight, Stopped
from seedvr2_core.child.protocol import OUTPUT_PHASE, Event, Restored, SegmentDone
from seedvr2_core.engines.protocol import Commit, Session, ShotState
from seedvr2_core.errors import SegmentError
from seedvr2_core.files.process import give_memory_back
from seedvr2_core.files.space import check_room, full_disk_told
from seedvr2_core.frames import Frame
from seedvr2_core.job import JobDir
from seedvr2_core.job.latents import read_commits, write_commit
from seedvr2_core.job.sidecar import (
    Making,
    commit_segment,
    finished_sizes,
    leaves_latents,
    read_segment,
)
from seedvr2_core.job.space import bytes_per_frame, latent_bytes
from seedvr2_core.planning import Piece, Plan, Segment, Shot
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.writer import SegmentWriter, count_frames

QUEUE_FRAMES = 8
MAX_IN_FLIGHT = 2
"""Segments that are lost at most when the process is killed."""


class Events(Protocol):
    """Is told of the progress; an `Emitter` in the child."""

    def emit(self, event: Event) -> None:
        """Send an event."""

    def beat(self, phase: str, done: int, total: int) -> None:
        """Send a heartbeat; the receiver may drop it if it comes too soon after the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotRun:
    """Neighbouring pending pieces of one shot, which the engine restores with one state."""

    shot: Shot
    pieces: tuple[Piece, ...]


def plan_runs(plan: Plan, segments: Sequence[Segment]) -> list[ShotRun]:
    """Gather the pieces of the pending segments into runs.

    A run ends where the shot ends or where the next piece is not pending.
    """
    runs: list[ShotRun] = []
    for piece in (piece for segment in segments for piece in segment.pieces):
        last = runs[-1] if runs else None
        if last and last.pieces[-1].shot == piece.shot and last.pieces[-1].stop == piece.start:
            runs[-1] = ShotRun(shot=last.shot, pieces=(*last.pieces, piece))
        else:
            runs.append(ShotRun(shot=plan.shots[piece.shot], pieces=(piece,)))
    return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreJob:
    """What all threads of a pipeline need to know."""

    plan: Plan
    job_dir: JobDir
    source: Path
    device_kind: str
    """What the GPU is called, or "cpu"; for the sidecars."""
    session: Session
    events: Events
    num_frames: int
    """Of all segments that the child was asked for; later passes make only some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A segment whose part file is written, and not yet checked."""

    segment: Segment
    commits: tuple[Commit, ...]
    """Of its pieces."""
    began: float
    """Monotonic seconds."""


class Pipeline:
    """The threads of one pass, their queues, and the first failure of any of them."""

    def __init__(self, job: RestoreJob) -> None:
        self._job, self._plan, self._session = job, job.plan, job.session
        self._failure: BaseException | None = None
        self._decoded: Channel[Frame | None] = Channel(QUEUE_FRAMES)
        self._restored: Channel[Frame | Commit] = Channel(QUEUE_FRAMES)
        self._encoded: Channel[_Written] = Channel(1)
        self._in_flight = InFlight(MAX_IN_FLIGHT)
        self._held_seconds = 0.0

    def run(self, segments: Sequence[Segment]) -> None:
        """Make the segments; returns when the last one is committed.

        Raises:
            SeedVR2Error: of any stage; segments before the one that failed are committed.
        """
        runs = plan_runs(self._plan, segments)
        threads = [
            threading.Thread(target=self._decode_all, args=(runs,), name="decode"),
            threading.Thread(target=self._encode_all, args=(segments,), name="encode"),
            threading.Thread(target=self._commit_all, args=(segments,), name="commit"),
        ]
        for thread in threads:
            thread.start()
        self._restore_all(runs, segments)
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _decode_all(self, runs: Sequence[ShotRun]) -> None:
        self._stage(lambda: self._decode(runs), (), self._decoded)

    def _restore_all(self, runs: Sequence[ShotRun], segments: Sequence[Segment]) -> None:
        self._stage(lambda: self._restore(runs, segments), (self._decoded,), self._restored)

    def _encode_all(self, segments: Sequence[Segment]) -> None:
        sources = (self._decoded, self._restored)
        self._stage(lambda: self._encode(segments), sources, self._encoded)

    def _commit_all(self, segments: Sequence[Segment]) -> None:
        sources = (self._decoded, self._restored, self._encoded, self._in_flight)
        self._stage(lambda: self._commit(segments), sources, None)

    def _stage(
        self,
        work: Callable[[], None],
        sources: Sequence[Channel[Any] | InFlight],
        sink: Channel[Any] | None,
    ) -> None:
        """Do the work of one stage and tell the others when it ends.

        Args:
            work: the stage.
            sources: queues from all stages before it; closed when it ends.
            sink: queue to the next stage, which gets the error, if any.
        """
        try:
            work()
        except Stopped as stopped:
            if sink is not None:
                sink.fail(stopped)
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._failure = self._failure or error
            if sink is not None:
                sink.fail(error)
        finally:
            for source in sources:
                source.close()

    def _decode(self, runs: Sequence[ShotRun]) -> None:
        """Decode thread: put the frames of every run into the queue, and None after each run."""
        for run in runs:
            wanted = self._session.reads(run.shot, run.pieces).frames
            source, video = self._job.source, self._plan.video
            for frame in read_frames(
                source,
                video,
                wanted.start,
                wanted.stop,
                on_bytes=lambda done, total: self._job.events.beat("decode", 0, 0),
            ):
                self._decoded.put(frame)
                self._job.events.beat("decode", frame.index + 1 - wanted.start, len(wanted))
            self._decoded.put(None)

    def _restore(self, runs: Sequence[ShotRun], segments: Sequence[Segment]) -> None:
        """Engine, in the calling thread: restore the runs piece by piece, each with one state."""
        first_of = {segment.start for segment in segments}
        last_of = {segment.stop: segment.index for segment in segments}
        began = time.monotonic()
        for run in runs:
            frames = iter(self._decoded.get, None)
            state = self._state_at(run, frames)
            for piece in run.pieces:
                if piece.start in first_of:
                    self._hold(self._in_flight.begin)
                restored = self._session.restore(frames, shot=run.shot, piece=piece, state=state)
                for frame in restored:
                    self._restored.put(frame)
                self._restored.put(self._session.take_commit())
                if piece.stop in last_of:
                    self._tell_restored(last_of[piece.stop], time.monotonic() - began)
            if next(frames, None) is not None:
                raise SegmentError(f"the engine left frames of shot {run.shot.index} unread")

    def _hold(self, wait: Callable[[], None]) -> None:
        """Wait for the disk and add up how long that takes."""
        began = time.monotonic()
        wait()
        self._held_seconds += time.monotonic() - began

    def _tell_restored(self, segment: int, seconds: float) -> None:
        """Tell that a segment is restored, and how long the engine has waited for other stages."""
        waited = self._decoded.waited_seconds + self._restored.blocked_seconds + self._held_seconds
        self._job.events.emit(
            Restored(segment=segment, seconds=round(seconds, 3), waited=round(waited, 3))
        )

    def _state_at(self, run: ShotRun, frames: Iterator[Frame]) -> ShotState:
        """The engine's state at the start of a run.

        At the start of a shot it is new; inside a shot it is rebuilt from the committed latents.
        """
        first = run.pieces[0]
        latents = self._session.reads(run.shot, run.pieces).latents
        before = self._committed_before(first, latents.start) if latents else None
        return self._session.begin(frames, shot=run.shot, piece=first, before=before)

    def _committed_before(self, piece: Piece, first_latent: int) -> Commit:
        """Latents of the shot from `first_latent` on, tail and precision in front of a piece."""
        self._hold(self._in_flight.wait_for_disk)  # it may be this pass that commits them
        precision = self._precision_before(piece)
        latents, tail = read_commits(self._job.job_dir, self._plan, piece, first_latent)
        return Commit(latents=latents, tail=tail, precision=precision)

    def _precision_before(self, piece: Piece) -> str:
        """The precision in which the segment before a piece was made."""
        before = next(s for s in self._plan.segments if s.stop == piece.start)
        sidecar = read_segment(self._job.job_dir, self._plan, before)
        if sidecar is None:
            raise SegmentError(
                f"segment {before.index}, which the next one continues, is missing; run it again"
            )
        return sidecar.precision

    def _encode(self, segments: Sequence[Segment]) -> None:
        """Encode thread: write one segment after another to its part file."""
        total = self._job.num_frames
        done = total - sum(segment.num_frames for segment in segments)
        for segment in segments:
            with full_disk_told(f"segment {segment.index} is encoded"):
                self._encode_segment(segment, done, total)
            done += segment.num_frames

    def _encode_segment(self, segment: Segment, done: int, total: int) -> None:
        began = time.monotonic()
        self._check_room(segment)
        part = self._job.job_dir.video_part_path(segment.index)
        first_pts = self._plan.video.pts[segment.start]

        def on_packet(num_packets: int) -> None:
            self._job.events.beat(OUTPUT_PHASE, done + num_packets, total)

        commits: list[Commit] = []
        with SegmentWriter(part, self._plan.encoder, first_pts, on_packet=on_packet) as writer:
            for piece in segment.pieces:
                for frame in self._frames_of(piece):
                    writer.write(frame)
                commits.append(self._commit_of_piece())
        # The encoder is emptied and freed before the next one begins: two at once fill no more of
        # the cores and hold 150 MB more at 720p.
        self._encoded.put(_Written(segment=segment, commits=tuple(commits), began=began))

    def _check_room(self, segment: Segment) -> None:
        """Fail before the disk is full, not when nothing can be written any more."""
        rate = bytes_per_frame(self._plan, finished_sizes(self._job.job_dir, self._plan))
        need = round(rate * segment.num_frames) + latent_bytes(self._plan, segment)
        check_room(self._job.job_dir.path, need, doing=f"segment {segment.index}")

    def _frames_of(self, piece: Piece) -> Iterator[Frame]:
        """Take the piece's frames from the queue; each must come once, in order, with its time."""
        for index in range(piece.start, piece.stop):
            frame = self._restored.get()
            expected = (index, self._plan.video.pts[index])
            if not isinstance(frame, Frame) or (frame.index, frame.pts) != expected:
                raise SegmentError(f"the engine gave {frame}, expected frame and time {expected}")
            yield frame

    def _commit_of_piece(self) -> Commit:
        """The commit, which follows a piece's last frame."""
        commit = self._restored.get()
        if not isinstance(commit, Commit):
            raise SegmentError(f"the engine gave {commit} after the piece's last frame")
        return commit

    def _commit(self, segments: Sequence[Segment]) -> None:
        """Commit thread: check and commit one segment after another."""
        for segment in segments:
            encoded = self._encoded.get()
            with full_disk_told(f"segment {segment.index} is finished"):
                seconds = self._commit_segment(encoded, last=segment is segments[-1])
            self._in_flight.committed()
            del encoded  # its latents
            give_memory_back()
            self._job.events.emit(SegmentDone(segment=segment.index, seconds=seconds))

    def _commit_segment(self, encoded: _Written, *, last: bool) -> float:
        """Check and commit a segment: latents and tail first, then the packets, the sidecar last.

        Returns:
            Wall seconds since the encoder asked for the segment's first frame.
        """
        segment = encoded.segment
        counted = count_frames(self._job.job_dir.video_part_path(segment.index), alone=last)
        if counted != segment.num_frames:
            raise SegmentError(
                f"segment {segment.index} decodes to {counted} frames, expected "
                f"{segment.num_frames}"
            )
        if leaves_latents(self._plan, segment):
            write_commit(self._job.job_dir, segment, encoded.commits[-1])
        made = Making(
            device=self._job.device_kind,
            precision=_told_once(commit.precision for commit in encoded.commits),
            seconds=time.monotonic() - encoded.began,
            rung=_told_once(commit.rung for commit in encoded.commits),
        )
        return commit_segment(self._job.job_dir, self._plan, segment, made).seconds


def _told_once(words: Iterator[str]) -> str:
    """The words that the pieces of a segment were made with, each once."""
    return "; ".join(dict.fromkeys(word for word in words if word))
