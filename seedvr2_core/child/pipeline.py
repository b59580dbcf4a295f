"""Makes pending segments in one pass. Four stages work at the same time, each in its own thread:

    decode (read source frames) -> restore (the engine) -> encode (x264) -> commit (check, rename)

Each stage hands its results to the next through a queue that holds a number of bytes, so memory
does not grow with the length of the video. The queues are long enough that the engine need not wait
for a stage that keeps up: it takes and gives frames by slices, of which two fit. While one segment
is being checked, the next is being encoded.

If a stage fails, the stages before it stop at once, because nobody takes their results any more.
The stages after it first finish what they already have, so every segment before the failure is
still committed. At any time at most `MAX_IN_FLIGHT` segments are begun and not yet on disk.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from seedvr2_core.child.channel import Channel, InFlight, Stopped
from seedvr2_core.child.commit import RestoreJob, Written, commit_written
from seedvr2_core.child.progress import alive_while_reading
from seedvr2_core.child.protocol import Restored, SegmentDone
from seedvr2_core.engines.lanczos import resize_plane
from seedvr2_core.engines.protocol import Commit, ShotState
from seedvr2_core.errors import SegmentError
from seedvr2_core.files.process import give_memory_back
from seedvr2_core.files.reading import OnBytes
from seedvr2_core.files.space import check_room, full_disk_told
from seedvr2_core.frames import Frame
from seedvr2_core.job.latents import read_commits
from seedvr2_core.job.sidecar import Sidecar, finished_sizes, read_segment
from seedvr2_core.job.space import bytes_per_frame, latent_bytes, master_bytes
from seedvr2_core.planning import Piece, Segment
from seedvr2_core.planning.cutting import ShotRun, plan_runs
from seedvr2_core.planning.outline import SegmentOutline, outline_of
from seedvr2_core.planning.queues import queue_bytes
from seedvr2_core.video.alpha.track import AlphaTrack
from seedvr2_core.video.info import EncoderSettings
from seedvr2_core.video.output.grain import Grain
from seedvr2_core.video.output.master import MasterWriter
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.writer import SegmentWriter

MAX_IN_FLIGHT = 2
"""Segments that may be begun and not yet on disk. These are lost when the process is killed."""
LITTLE = 0.25
"""A segment is checked alone, with all cores, if the frames behind it are less than this part of
its own: the last segment of a film is often a single frame."""


class Pipeline:
    """The threads of one pass, the queues between them, and the first error of any of them."""

    def __init__(self, job: RestoreJob) -> None:
        """Make the queues; `run` starts the threads."""
        self._job, self._plan, self._session = job, job.plan, job.session
        self._outline = outline_of(job.plan)
        self._alive = alive_while_reading(job.events)
        self._failure: BaseException | None = None
        decoded, restored = queue_bytes(job.plan)
        self._decoded: Channel[Frame | None] = Channel(decoded, size_of=_frame_bytes)
        self._restored: Channel[Frame | Commit] = Channel(restored, size_of=_frame_bytes)
        self._encoded: Channel[Written] = Channel(1)
        self._in_flight = InFlight(MAX_IN_FLIGHT)
        self._grain = _grain_of(job.plan.encoder)
        self._alpha = _alpha_of(job, self._alive)
        self._held_seconds = 0.0
        """How long the engine has waited for segments to reach the disk."""

    def run(self, segments: Sequence[Segment], *, elsewhere: Collection[int] = ()) -> None:
        """Make the segments; returns when the last one is committed.

        The engine works in the calling thread, the other stages in threads of their own.

        Args:
            segments: those that are pending, in order.
            elsewhere: indices of those that other processes make meanwhile, or will make.

        Raises:
            SeedVR2Error: the first error of any stage. The segments before it are committed.
        """
        self._job.progress.begin_pass(pending=sum(segment.num_frames for segment in segments))
        runs = plan_runs(self._plan, segments, elsewhere=elsewhere)
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
        """Do the work of one stage, and tell the other stages how it ended.

        Args:
            work: what the stage does.
            sources: the queues of all stages before it. They are closed when it ends, for whatever
                reason, so that no earlier stage waits for it.
            sink: the queue to the next stage. If the stage fails, the next one gets its error after
                the items that are already in the queue.
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
        """Decode thread: read the source frames of each run; None marks the end of a run."""
        for run in runs:
            wanted = self._session.reads(run.shot, run.pieces, unaided=run.unaided).frames
            source, video = self._job.source, self._plan.video
            for frame in read_frames(
                source,
                video,
                wanted.start,
                wanted.stop,
                deep=self._plan.deep,
                on_bytes=lambda done, total: self._job.events.beat("decode", 0, 0),
            ):
                self._decoded.put(frame)
                self._job.events.beat("decode", frame.index + 1 - wanted.start, len(wanted))
            self._decoded.put(None)

    def _restore(self, runs: Sequence[ShotRun], segments: Sequence[Segment]) -> None:
        """The engine's stage: restore each run piece by piece, and hand on frames and commits."""
        first_of = {segment.start for segment in segments}
        last_of = {segment.stop: segment.index for segment in segments}
        began = time.monotonic()
        for run in runs:
            frames = iter(self._decoded.get, None)
            state = self._state_at(run, frames)
            for piece in run.pieces:
                if piece.written.start in first_of:
                    self._hold(self._in_flight.begin)
                self._job.progress.begin_piece(len(piece.written))
                restored = self._session.restore(frames, shot=run.shot, piece=piece, state=state)
                for frame in restored:
                    if frame.index < piece.written.start:
                        continue
                    self._restored.put(frame)
                    self._job.progress.frame_restored()
                self._restored.put(self._session.take_commit())
                if piece.stop in last_of:
                    self._tell_restored(last_of[piece.stop], time.monotonic() - began)
            if next(frames, None) is not None:
                raise SegmentError(f"the engine left frames of shot {run.shot.index} unread")

    def _hold(self, wait: Callable[[], None]) -> None:
        """Wait until segments are on disk, and note how long the engine had to wait."""
        began = time.monotonic()
        wait()
        self._held_seconds += time.monotonic() - began

    def _tell_restored(self, segment: int, seconds: float) -> None:
        """Say that the engine is done with a segment, and how long other stages kept it waiting."""
        waited = self._decoded.waited_seconds + self._restored.blocked_seconds + self._held_seconds
        self._job.events.emit(
            Restored(segment=segment, seconds=round(seconds, 3), waited=round(waited, 3))
        )

    def _state_at(self, run: ShotRun, frames: Iterator[Frame]) -> ShotState:
        """The engine's state at the start of a run.

        At the start of a shot the state is new. Inside a shot the engine rebuilds it from what the
        segments before have committed, or from the source alone, and goes on with the same bits as
        if it had never stopped.
        """
        first, unaided = run.pieces[0], run.unaided
        latents = self._session.reads(run.shot, run.pieces, unaided=unaided).latents
        before = self._committed_before(first, latents.start) if latents else None
        if unaided:
            before = Commit(precision=self._precision_known(first))
        return self._session.begin(
            frames, shot=run.shot, piece=first, before=before, unaided=unaided
        )

    def _committed_before(self, piece: Piece, first_latent: int) -> Commit:
        """What the shot has committed before a piece.

        Args:
            piece: the first of a run that begins inside a shot.
            first_latent: the first latent of the shot that the engine needs for its warm-up.

        Returns:
            The latents from there up to the piece, the tail, and the precision they were made in.
        """
        # This very pass may have made them, and its commit thread may still be writing them.
        self._hold(self._in_flight.wait_for_disk)
        precision = self._precision_before(piece)
        latents, tail = read_commits(self._job.job_dir, self._plan, piece, first_latent)
        return Commit(latents=latents, tail=tail, precision=precision)

    def _precision_before(self, piece: Piece) -> str:
        """The precision of the segment before a piece, from its sidecar: the shot goes on in it."""
        before = next(s for s in self._outline.segments if s.stop == piece.start)
        sidecar = self._read_segment(before)
        if sidecar is None:
            raise SegmentError(
                f"segment {before.index}, which the next one continues, is missing; run it again"
            )
        return sidecar.precision

    def _read_segment(self, segment: SegmentOutline) -> Sidecar | None:
        return read_segment(self._job.job_dir, self._outline, segment, on_bytes=self._alive)

    def _precision_known(self, piece: Piece) -> str:
        """The precision of the last finished segment of a shot before a piece; "" if none is.

        Other processes make the segments in front. What they find out later is not known here.
        """
        shot = self._plan.shots[piece.shot]
        for segment in reversed(self._outline.segments):
            if shot.start <= segment.start and segment.stop <= piece.start:
                sidecar = self._read_segment(segment)
                if sidecar is not None:
                    return sidecar.precision
        return ""

    def _encode(self, segments: Sequence[Segment]) -> None:
        """Encode thread: write one segment after another to its part file."""
        for segment in segments:
            with full_disk_told(f"segment {segment.index} is encoded"):
                self._encode_segment(segment)

    def _encode_segment(self, segment: Segment) -> None:
        """Write the part file of a segment, and pass it on together with its commits."""
        began = time.monotonic()
        self._check_room(segment)
        part = self._job.job_dir.video_part_path(segment.index)
        first_pts = self._plan.video.pts[segment.start]

        def on_packet(num_packets: int) -> None:
            self._job.events.beat("encode", num_packets, segment.num_frames)
            self._job.progress.frame_encoded()

        alpha = self._alpha
        commits: list[Commit] = []
        with ExitStack() as stack:
            coded = SegmentWriter(part, self._plan.encoder, first_pts, on_packet=on_packet)
            stack.enter_context(coded)
            master = self._master_of(segment, stack)
            for piece in segment.pieces:
                for frame in self._frames_of(piece):
                    grained = self._grained(frame)
                    coded.write(grained if alpha is None else alpha.joined(grained))
                    if master is not None:
                        master.write(frame.rgb)
                commits.append(self._commit_of_piece())
        # Only one encoder exists at a time: it has given out its last packet before the next one is
        # made. A second one beside it would gain no speed and hold another 150 MB at 720p.
        self._encoded.put(Written(segment=segment, commits=tuple(commits), began=began))

    def _grained(self, frame: Frame) -> Frame:
        """The frame as it is coded. Its grain depends on its place in the whole film."""
        if self._grain is None:
            return frame
        number = self._plan.video.reading.first + frame.index
        return replace(frame, rgb=self._grain.on(frame.rgb, number))

    def _master_of(self, segment: Segment, stack: ExitStack) -> MasterWriter | None:
        """What writes the segment's master until the block ends; None if none is kept."""
        keep, plan = self._job.keep, self._plan
        if keep is None:
            return None
        keep.path.mkdir(parents=True, exist_ok=True)
        part = keep.part_path(segment.index, plan.job_key)
        return stack.enter_context(MasterWriter(part, plan.width, plan.height, deep=plan.deep))

    def _check_room(self, segment: Segment) -> None:
        """Raise an error now if the segment will not fit on the disk, not when half is written."""
        outline = self._outline
        rate = bytes_per_frame(outline, finished_sizes(self._job.job_dir, outline))
        latents = latent_bytes(outline, outline.segments[segment.index])
        master = master_bytes(outline, segment.num_frames) if self._job.keep else 0
        need = round(rate * segment.num_frames) + latents + master
        check_room(self._job.job_dir.path, need, doing=f"segment {segment.index}")

    def _frames_of(self, piece: Piece) -> Iterator[Frame]:
        """Take the piece's frames from the queue. Each must come once, in order, with its pts."""
        for index in piece.written:
            frame = self._restored.get()
            expected = (index, self._plan.video.pts[index])
            if not isinstance(frame, Frame) or (frame.index, frame.pts) != expected:
                raise SegmentError(f"the engine gave {frame}, expected frame and time {expected}")
            yield frame

    def _commit_of_piece(self) -> Commit:
        """Take the piece's commit from the queue, where it follows the last frame."""
        commit = self._restored.get()
        if not isinstance(commit, Commit):
            raise SegmentError(f"the engine gave {commit} after the piece's last frame")
        return commit

    def _commit(self, segments: Sequence[Segment]) -> None:
        """Commit thread: check and commit one segment after another."""
        to_come = sum(segment.num_frames for segment in segments)
        for segment in segments:
            to_come -= segment.num_frames
            encoded, alone = self._encoded.get(), to_come < LITTLE * segment.num_frames
            with full_disk_told(f"segment {segment.index} is finished"):
                seconds = commit_written(self._job, encoded, alone=alone)
            self._in_flight.committed()
            del encoded  # with it go its latents, hundreds of MB at 4k
            give_memory_back()
            self._job.events.emit(SegmentDone(segment=segment.index, seconds=seconds))


def _grain_of(settings: EncoderSettings) -> Grain | None:
    """What adds grain to the frames that are coded; None if nothing does."""
    if not settings.grain:
        return None
    size = {"height": settings.height, "width": settings.width}
    return Grain(settings.grain, settings.grain_seed, **size)


def _alpha_of(job: RestoreJob, alive: OnBytes) -> AlphaTrack | None:
    """What gives restored frames their alpha; None if the output has none."""
    plan = job.plan
    if not plan.video.keeps_alpha:
        return None
    resize = partial(resize_plane, height=plan.height, width=plan.width)
    return AlphaTrack(job.source, plan.video, resize, deep=plan.deep, on_bytes=alive)


def _frame_bytes(item: Frame | Commit | None) -> int:
    """Of what waits in a queue; latents are few, and counted by the segments in flight."""
    return item.rgb.nbytes if isinstance(item, Frame) else 0
