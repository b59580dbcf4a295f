"""Joins finished segments and the source's other streams into the output, without re-encoding.

The packets of all segments follow each other; their decode times are rewritten over the whole
track: packet i (file order) gets the (i - D)-th presentation time, D = reorder depth, and the first
D lie before the first picture at the nominal distance.
"""

import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.container.core import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.errors import FileReadError, SeedVR2Error, SegmentError
from seedvr2_core.files.space import is_full
from seedvr2_core.video._container import demux_all, open_source, time_base_of
from seedvr2_core.video._output import IndexRoomError, finish_output, index_room, open_output
from seedvr2_core.video._segments import (
    JoinPart,
    check_joined,
    open_segment,
    segment_packets,
    times_in_file_order,
)
from seedvr2_core.video.carry.about import kept_metadata, shifted_chapters
from seedvr2_core.video.carry.losses import unsaid_losses
from seedvr2_core.video.carry.streams import Carried, Carrier, add_carriers, stream_name
from seedvr2_core.video.carry.trial import TrialResult, try_streams
from seedvr2_core.video.info import EncoderSettings, VideoInfo

_log = logging.getLogger(__name__)

_LARGEST_TIMESCALE = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinResult:
    """What the user should know about the written file."""

    notes: tuple[str, ...]
    """Sentences for the user: what was converted or left behind."""


def join_segments(
    segments: Sequence[JoinPart],
    source: Path,
    info: VideoInfo,
    settings: EncoderSettings,
    output: Path,
    *,
    metadata: Mapping[str, str],
    beat: Beat = no_beat,
) -> JoinResult:
    """Write the output: all segments' packets plus the source's audio and text.

    Args:
        segments: in order, covering every frame of `info`.
        source: the file that `info` describes.
        info: from `probe_video`.
        settings: those the segments were encoded with.
        output: where to write (mp4, whatever the suffix); removed again on failure.
        metadata: of the container; wins over the source's own title, artist and so on.
        beat: called with ("join", position in the file that is read or written, its length) at
            every read and every write.

    Raises:
        SegmentError: the segments do not give exactly the frames of `info`, or disagree.
        FileReadError: the machine failed to read a segment or the source, or the source has lost
            packets since it was probed.
    """
    on_bytes = partial(beat, "join")
    times = times_in_file_order(segments, settings, on_bytes)
    if sorted(times) != list(info.pts):
        raise SegmentError(
            f"the segments hold {len(times)} frames whose times are not those of the source's "
            f"{info.num_frames} frames; redo the segments"
        )
    clock = _Timeline.of(times, info)
    trials = try_streams(source, info, on_bytes=on_bytes)
    job = _Joining(segments, source, info, settings, output, metadata, clock, trials, beat)
    try:
        notes = _write(job)
        check_joined(output, info, on_bytes=on_bytes)
    except MemoryError:
        output.unlink(missing_ok=True)
        raise
    except av.error.FFmpegError as error:
        output.unlink(missing_ok=True)
        raise SegmentError(f"the segments cannot be joined: {error}") from error
    except BaseException:
        output.unlink(missing_ok=True)
        raise
    return JoinResult(notes=tuple(notes))


class _RefusedStreamError(Exception):
    """A carried stream failed although it had not in the trial."""

    def __init__(self, index: int) -> None:
        super().__init__(f"stream {index}")
        self.index = index


def _write(job: "_Joining") -> list[str]:
    """Write the file with all that can be carried over; returns notes.

    Each stream was tried alone, so hardly anything is refused here; what is costs that stream. What
    the machine fails to read or to write is raised: it is no reason to go on without the sound.
    """
    left_out: dict[int, str] = {}
    while True:
        try:
            return [*left_out.values(), *_write_once(job, left_out)]
        except _RefusedStreamError as refused:
            (stream,) = (s for s in job.info.streams if s.index == refused.index)
            told = f"{stream_name(stream)} is not carried over: mp4 refuses it beside the video"
            left_out[refused.index] = told
        except (av.error.FFmpegError, ValueError) as error:
            if is_full(error) or isinstance(error, (SeedVR2Error, MemoryError)):
                raise
            _log.info("the video is written alone", exc_info=True)
            break
    told = "neither other streams nor chapters are carried over: mp4 refuses them together"
    return [told, *_write_once(job, {}, alone=True)]


def _write_once(job: "_Joining", left_out: Collection[int], *, alone: bool = False) -> list[str]:
    """Write the file, with room for the index at its front if that is worth it."""
    reserved = index_room(job.info, job.num_bytes())
    if reserved:
        try:
            return job.write(left_out=left_out, alone=alone, reserved=reserved)
        except IndexRoomError:
            _log.warning("the room for the index was too small; the file is written once more")
    return job.write(left_out=left_out, alone=alone)


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Decode times and durations of the whole track, in the source's ticks."""

    pts: tuple[int, ...]
    ahead: tuple[int, ...]
    """Decode times of the first D packets."""
    last_duration: int
    latest: tuple[int, ...] = ()
    """Decode times of all packets where the usual ones would lose frames; else empty."""

    @classmethod
    def of(cls, times: Sequence[int], info: VideoInfo) -> "_Timeline":
        """From the packets' presentation times in file order."""
        rank = {pts: position for position, pts in enumerate(info.pts)}
        depth = max(i - rank[pts] for i, pts in enumerate(times))
        step = max(1, round(1 / (Fraction(*info.nominal_rate) * Fraction(*info.time_base))))
        ahead = tuple(info.pts[0] - (depth - i) * step for i in range(depth))
        usual = cls(info.pts, ahead, info.last_duration)
        if not usual.loses_frames():
            return usual
        return cls(info.pts, ahead, info.last_duration, tuple(_latest_decode_times(times)))

    def dts(self, i: int) -> int:
        """Decode time of packet i in file order."""
        if self.latest:
            return self.latest[i]
        depth = len(self.ahead)
        return self.ahead[i] if i < depth else self.pts[i - depth]

    def loses_frames(self) -> bool:
        """Whether players on libav would leave out frames after a long one near the end.

        They stop reading at a key frame that seems to reach to the end of the edit list, and how
        long it lasts they take from the decode times, where the long frame comes D packets later.
        """
        end = self.pts[-1] + self.last_duration
        return any(
            pts + self.dts(i + 1) - self.dts(i) >= end for i, pts in enumerate(self.pts[:-1])
        )

    def durations(self) -> dict[int, int]:
        """Presentation time -> how long the frame is shown."""
        ends = itertools.chain(self.pts[1:], [self.pts[-1] + self.last_duration])
        return {pts: end - pts for pts, end in zip(self.pts, ends, strict=True)}


def _latest_decode_times(times: Sequence[int]) -> list[int]:
    """The latest times that rise and lie before the presentation of all packets that follow.

    Args:
        times: presentation times in file order.
    """
    latest: list[int] = []
    limit = max(times) + 1
    for pts in reversed(times):
        limit = min(pts, limit - 1)
        latest.append(limit)
    return latest[::-1]


@dataclass(frozen=True, slots=True)
class _Joining:
    """One output to write; `write` may be called again, without one of the streams for example."""

    segments: Sequence[JoinPart]
    source: Path
    info: VideoInfo
    settings: EncoderSettings
    output: Path
    metadata: Mapping[str, str]
    clock: _Timeline
    trials: Mapping[int, TrialResult]
    beat: Beat

    def num_bytes(self) -> int:
        """Of all segments."""
        return sum(part.path.stat().st_size for part in self.segments)

    def write(
        self, *, left_out: Collection[int] = (), alone: bool = False, reserved: int = 0
    ) -> list[str]:
        """Write the file; returns notes.

        Args:
            left_out: streams of the source that are not carried over.
            alone: write the video and nothing else.
            reserved: bytes to keep for the index before the media; 0: the media are written first
                and moved afterwards.

        Raises:
            IndexRoomError: the index needs more than was reserved.
            _RefusedStreamError: the mp4 refused a carried stream.
        """
        with (
            open_source(self.source, on_bytes=self._on_bytes) as source,
            open_output(
                self.output, options=self._options(reserved), on_bytes=self._on_bytes
            ) as container,
        ):
            container.flags |= Flags.bitexact.value
            video = self._add_video(container)
            carried = Carried(carriers={}, notes=())
            if not alone:
                carried = add_carriers(container, source, self.info, self.trials, left_out=left_out)
            if source.chapters() and not alone:
                container.set_chapters(shifted_chapters(source, Fraction(*self.info.zero_offset)))
            container.metadata.update(kept_metadata(source, self.metadata))
            container.start_encoding()
            if (Fraction(*self.settings.time_base) / time_base_of(video)).denominator != 1:
                raise SegmentError(f"mp4 cannot count in {self.settings.time_base} s exactly")
            self._mux(container, video, source, carried)
            finish_output(container, reserved=reserved)
            losses = unsaid_losses(self.source, source, self.info)
        return [
            *carried.notes,
            *losses,
            *(note for carrier in carried.carriers.values() for note in carrier.notes),
        ]

    def _mux(
        self,
        container: OutputContainer,
        video: VideoStream,
        source: InputContainer,
        others: Carried,
    ) -> None:
        """Write all packets in the order of their decode times."""
        owners = {carrier.stream.index: index for index, carrier in others.carriers.items()}
        packets = heapq.merge(
            self._video_packets(video), self._other_packets(source, others.carriers), key=_order
        )
        for _, packet in packets:
            owner = owners.get(packet.stream_index)
            try:
                container.mux(packet)
            except (av.error.FFmpegError, ValueError) as error:
                if owner is None or is_full(error) or isinstance(error, SeedVR2Error):
                    raise
                raise _RefusedStreamError(owner) from error

    def _on_bytes(self, done: int, total: int) -> None:
        self.beat("join", done, total)

    def _options(self, reserved: int) -> dict[str, str]:
        # Offsets at the start of a track are written in the movie's time scale. The usual 1/1000 s
        # would round them, so the movie gets the video's own scale.
        scale = Fraction(*self.settings.time_base).denominator
        scale *= math.ceil(10_000 / scale)
        options = {"moov_size": str(reserved)} if reserved else {"movflags": "+faststart"}
        if scale <= _LARGEST_TIMESCALE:
            options |= {"movie_timescale": str(scale), "video_track_timescale": str(scale)}
        return options

    def _add_video(self, container: OutputContainer) -> VideoStream:
        with open_segment(self.segments[0].path) as first:
            video = container.add_stream_from_template(first.streams.video[0], opaque=True)
        video.time_base = Fraction(*self.settings.time_base)
        return video

    def _video_packets(self, video: VideoStream) -> "Iterator[tuple[Fraction, Packet]]":
        """(decode time in seconds, packet) of the whole track."""
        time_base = Fraction(*self.settings.time_base)
        total, durations = self.info.num_frames, self.clock.durations()
        position, last_dts = 0, None
        for part in self.segments:
            with open_segment(part.path, on_bytes=self._on_bytes) as container:
                for pts, packet in segment_packets(part, container, time_base):
                    dts = self.clock.dts(position)
                    if dts > pts or (last_dts is not None and dts <= last_dts):
                        raise SegmentError(
                            f"{part.path.name}: packet {position} would be decoded at {dts} "
                            f"after {last_dts} and shown at {pts}; decode times must rise"
                        )
                    position, last_dts = position + 1, dts
                    last = position == total
                    packet.pts, packet.dts, packet.time_base = pts, dts, time_base
                    packet.duration = self.info.last_duration if last else durations[pts]
                    packet.stream = video
                    yield dts * time_base, packet

    def _other_packets(
        self, source: InputContainer, carriers: Mapping[int, Carrier]
    ) -> "Iterator[tuple[Fraction, Packet]]":
        """(decode time in seconds, packet) of all other streams."""
        if not carriers:
            return
        streams = [source.streams[index] for index in carriers]
        counts: Counter[int] = Counter()
        for packet in demux_all(source, *streams, timeline=self.info.timeline):
            index = packet.stream_index
            counts[index] += 1
            yield from _timed(index, carriers[index].feed(packet))
        self._check_counts(counts, carriers)
        for index, carrier in carriers.items():
            yield from _timed(index, carrier.finish())

    def _check_counts(self, counts: Mapping[int, int], carried: Iterable[int]) -> None:
        """Refuse to leave out packets that the probe has read."""
        for stream in self.info.streams:
            if stream.index in carried and counts[stream.index] < stream.num_packets:
                raise FileReadError(
                    f"{self.source.name}: {counts[stream.index]} of {stream.num_packets} packets "
                    f"of stream {stream.index} ({stream.codec}) could be read; the file has "
                    "changed, or the disk it lies on fails"
                )


def _timed(index: int, packets: Iterator[Packet]) -> "Iterator[tuple[Fraction, Packet]]":
    """(decode time in seconds, packet) of the source's stream `index`.

    Raises:
        _RefusedStreamError: the stream cannot be converted.
    """
    try:
        for packet in packets:
            assert packet.dts is not None
            yield packet.dts * packet.time_base, packet
    except (av.error.FFmpegError, ValueError) as error:
        if is_full(error) or isinstance(error, (SeedVR2Error, MemoryError)):
            raise
        raise _RefusedStreamError(index) from error


def _order(item: tuple[Fraction, Packet]) -> Fraction:
    return item[0]
