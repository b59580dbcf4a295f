"""Cuts a preview out of a job's segments: a clip of the result, the same of the source.

The segments stay as they are, for the whole job. The clips are encoded from their frames with the
job's own settings, because packets can be cut at key frames alone; a codec that loses something
loses it once more there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.compare.before_after import write_before_after
from seedvr2_core.compare.sheet import Panel
from seedvr2_core.frames import Frame
from seedvr2_core.job import JobDir
from seedvr2_core.job.restored import read_restored
from seedvr2_core.planning import Plan
from seedvr2_core.video.info import EncoderSettings, VideoInfo
from seedvr2_core.video.join import JoinPart, join_segments
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import excerpt
from seedvr2_core.video.writer import SegmentWriter

PHASE = "picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """One preview to cut."""

    plan: Plan
    job_dir: JobDir
    """Of the whole job; the segments with these frames are there."""
    source: Path
    first: int
    stop: int
    beat: Beat = no_beat

    @property
    def video(self) -> VideoInfo:
        """What the clips show of the source."""
        return excerpt(self.plan.video, self.first, self.stop)

    def write_clips(self, result: Path, before: Path, metadata: dict[str, str]) -> tuple[str, ...]:
        """Write both clips.

        Args:
            result: the piece of the restored film, with its sound.
            before: the same frames of the source, enlarged to the same size by Lanczos.
            metadata: of the container of `result`.

        Returns:
            Sentences about what could not be carried over.
        """
        notes = self._write(self._restored(), result, metadata)
        self._write(self._enlarged(), before, {"comment": "the source, enlarged by Lanczos"})
        return notes

    def write_picture(self, result: Path, picture: Path) -> None:
        """Write the before/after picture of the piece."""
        write_before_after(self.source, self.video, result, picture, beat=self.beat)

    def _write(
        self, frames: Iterator[Frame], out: Path, metadata: dict[str, str]
    ) -> tuple[str, ...]:
        """Encode frames and join them with the source's sound."""
        video, part = self.video, out.with_name(out.name + ".frames.part")
        told = partial(self._told, of=video.num_frames)
        try:
            with SegmentWriter(part, self._coding, video.pts[0], on_packet=told) as writer:
                for index, frame in enumerate(frames):
                    writer.write(replace(frame, index=index, pts=video.pts[index]))
            joined = join_segments(
                [JoinPart(path=part, first_pts=video.pts[0], num_frames=video.num_frames)],
                self.source,
                video,
                self._coding,
                out,
                metadata=metadata,
                wanted=self.plan.output,
                on_bytes=partial(self.beat, PHASE),
            )
        finally:
            part.unlink(missing_ok=True)
        return joined.notes

    @property
    def _coding(self) -> EncoderSettings:
        """As the film's, by software: the GPU is at work, or somebody else's by now."""
        return replace(self.plan.encoder, encoder="")

    def _told(self, done: int, *, of: int) -> None:
        self.beat(PHASE, done, of)

    def _restored(self) -> Iterator[Frame]:
        """The frames of the piece, from the segments."""
        alpha = self.plan.video.keeps_alpha
        span = (self.first, self.stop)
        return read_restored(self.plan, self.job_dir, *span, deep=self.plan.deep, alpha=alpha)

    def _enlarged(self) -> Iterator[Frame]:
        """The same frames of the source."""
        width, height = self.plan.encoder.width, self.plan.encoder.height
        panel = Panel(width, height, "", deep=self.plan.deep)
        video, deep = self.plan.video, self.plan.deep
        part = (self.source, video, self.first, self.stop)
        for frame in read_frames(*part, deep=deep, alpha=video.keeps_alpha):
            alpha = frame.alpha
            if alpha is not None:
                alpha = panel.scaled(np.dstack([alpha] * 3))[:, :, 0]
            yield replace(frame, rgb=panel.scaled(frame.rgb), alpha=alpha)
