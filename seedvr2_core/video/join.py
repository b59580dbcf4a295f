"""Joins finished segments and the source's other streams into the output, without re-encoding.

The packets of all segments follow each other; their decode times are rewritten over the whole
track: packet i (file order) gets the (i - D)-th presentation time, D = reorder depth, and the first
D lie before the first picture at the nominal distance.
"""

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.container.core import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.errors import SegmentError
from seedvr2_core.files.space import is_full
from seedvr2_core.video._carry import Copier, Transcoder, add_carriers
from seedvr2_core.video._container import demux_all, open_source, time_base_of
from seedvr2_core.video.info import EncoderSettings, VideoInfo

if TYPE_CHECKING:
    from av.container.core import Chapter

_BEAT_PACKETS = 200
_CARRIED_METADATA = frozenset(
    {
        "title",
        "artist",
        "album",
        "album_artist",
        "composer",
        "copyright",
        "date",
        "description",
        "genre",
        "comment",
        "synopsis",
        "show",
        "episode_id",
        "location",
    }
)
_LARGEST_TIMESCALE = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPart:
    """A committed segment."""

    path: Path
    first_pts: int
    """Time of its first frame, in the source's ticks."""
    num_frames: int


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
        beat: called about every 200 packets with ("join", packets, video packets in all).

    Raises:
        SegmentError: the segments do not give exactly the frames of `info`, or disagree.
    """
    times = _times_in_file_order(segments, settings)
    if sorted(times) != list(info.pts):
        raise SegmentError(
            f"the segments hold {len(times)} frames whose times are not those of the source's "
            f"{info.num_frames} frames; redo the segments"
        )
    clock = _Timeline.of(times, info)
    job = _Joining(segments, source, info, settings, output, metadata, clock, beat)
    try:
        try:
            notes = job.write(carry=True)
        except (av.error.FFmpegError, ValueError) as error:
            if is_full(error):
                raise
            notes = job.write(carry=False)
            notes.insert(0, f"no other stream is carried over, the container refused: {error}")
        check_joined(output, info)
    except av.error.FFmpegError as error:
        output.unlink(missing_ok=True)
        raise SegmentError(f"the segments cannot be joined: {error}") from error
    except BaseException:
        output.unlink(missing_ok=True)
        raise
    return JoinResult(notes=tuple(notes))


def _open_segment(path: Path) -> InputContainer:
    try:
        return av.open(f"file:{path}", mode="r", format="mp4")
    except (av.error.FFmpegError, OSError) as error:
        raise SegmentError(f"{path.name}: not a readable segment: {error}") from error


def _segment_packets(
    part: JoinPart, container: InputContainer, time_base: Fraction
) -> "Iterator[tuple[int, Packet[VideoStream]]]":
    """(pts in the source's ticks, packet) of a segment in file order."""
    stream = container.streams.video[0]
    scale = time_base_of(stream) / time_base
    for packet in container.demux(stream):
        if not packet.size:
            continue
        ticks = None if packet.pts is None else packet.pts * scale
        if ticks is None or ticks.denominator != 1:
            raise SegmentError(
                f"{part.path.name}: a frame has the time {ticks} ticks, expected a whole number; "
                "redo the segment"
            )
        yield part.first_pts + ticks.numerator, packet


def _times_in_file_order(segments: Sequence[JoinPart], settings: EncoderSettings) -> list[int]:
    """Presentation times of all packets; checks frame counts and equal headers on the way."""
    times: list[int] = []
    header: bytes | None = None
    for part in segments:
        with _open_segment(part.path) as container:
            extradata = container.streams.video[0].codec_context.extradata
            if header is not None and extradata != header:
                raise SegmentError(
                    f"{part.path.name}: its codec header differs from the first segment's; "
                    "it was encoded with other settings"
                )
            header = extradata
            own = [
                pts for pts, _ in _segment_packets(part, container, Fraction(*settings.time_base))
            ]
        if len(own) != part.num_frames or min(own, default=None) != part.first_pts:
            raise SegmentError(
                f"{part.path.name}: {len(own)} frames from {min(own, default=None)} on, expected "
                f"{part.num_frames} from {part.first_pts}"
            )
        times += own
    return times


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Decode times and durations of the whole track, in the source's ticks."""

    pts: tuple[int, ...]
    ahead: tuple[int, ...]
    """Decode times of the first D packets."""
    last_duration: int

    @classmethod
    def of(cls, times: Sequence[int], info: VideoInfo) -> "_Timeline":
        """From the packets' presentation times in file order."""
        rank = {pts: position for position, pts in enumerate(info.pts)}
        depth = max(i - rank[pts] for i, pts in enumerate(times))
        step = max(1, round(1 / (Fraction(*info.nominal_rate) * Fraction(*info.time_base))))
        ahead = tuple(info.pts[0] - (depth - i) * step for i in range(depth))
        return cls(info.pts, ahead, info.last_duration)

    def dts(self, i: int) -> int:
        """Decode time of packet i in file order."""
        depth = len(self.ahead)
        return self.ahead[i] if i < depth else self.pts[i - depth]

    def durations(self) -> dict[int, int]:
        """Presentation time -> how long the frame is shown."""
        ends = itertools.chain(self.pts[1:], [self.pts[-1] + self.last_duration])
        return {pts: end - pts for pts, end in zip(self.pts, ends, strict=True)}


@dataclass(frozen=True, slots=True)
class _Joining:
    """One output to write; `write` may be called twice, with and without the other streams."""

    segments: Sequence[JoinPart]
    source: Path
    info: VideoInfo
    settings: EncoderSettings
    output: Path
    metadata: Mapping[str, str]
    clock: _Timeline
    beat: Beat

    def write(self, *, carry: bool) -> list[str]:
        """Write the file; returns notes."""
        with (
            open_source(self.source) as source,
            av.open(
                f"file:{self.output}", mode="w", format="mp4", container_options=self._options()
            ) as container,
        ):
            container.flags |= Flags.bitexact.value
            video = self._add_video(container)
            carriers: dict[int, Copier | Transcoder] = {}
            notes: list[str] = []
            if carry:
                carriers, notes = add_carriers(container, source, self.source, self.info)
            if carry and source.chapters():
                container.set_chapters(_shifted_chapters(source, Fraction(*self.info.zero_offset)))
            container.metadata.update(_kept_metadata(source, self.metadata))
            container.start_encoding()
            if (Fraction(*self.settings.time_base) / time_base_of(video)).denominator != 1:
                raise SegmentError(f"mp4 cannot count in {self.settings.time_base} s exactly")
            streams = heapq.merge(
                self._video_packets(video), self._other_packets(source, carriers), key=_order
            )
            for _, packet in streams:
                container.mux(packet)
        return notes + [note for carrier in carriers.values() for note in carrier.notes]

    def _options(self) -> dict[str, str]:
        # Offsets at the start of a track are written in the movie's time scale. The usual 1/1000 s
        # would round them, so the movie gets the video's own scale.
        scale = Fraction(*self.settings.time_base).denominator
        scale *= math.ceil(10_000 / scale)
        options = {"movflags": "+faststart"}
        if scale <= _LARGEST_TIMESCALE:
            options |= {"movie_timescale": str(scale), "video_track_timescale": str(scale)}
        return options

    def _add_video(self, container: OutputContainer) -> VideoStream:
        with _open_segment(self.segments[0].path) as first:
            video = container.add_stream_from_template(first.streams.video[0], opaque=True)
        video.time_base = Fraction(*self.settings.time_base)
        return video

    def _video_packets(self, video: VideoStream) -> "Iterator[tuple[Fraction, Packet]]":
        """(decode time in seconds, packet) of the whole track."""
        time_base = Fraction(*self.settings.time_base)
        total, durations = self.info.num_frames, self.clock.durations()
        position, last_dts = 0, None
        for part in self.segments:
            with _open_segment(part.path) as container:
                for pts, packet in _segment_packets(part, container, time_base):
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
                    if position % _BEAT_PACKETS == 0 or last:
                        self.beat("join", position, total)
                    yield dts * time_base, packet

    def _other_packets(
        self, source: InputContainer, carriers: Mapping[int, Copier | Transcoder]
    ) -> "Iterator[tuple[Fraction, Packet]]":
        """(decode time in seconds, packet) of all other streams."""
        if not carriers:
            return
        streams = [source.streams[index] for index in carriers]
        for packet in demux_all(source, *streams):
            yield from _timed(carriers[packet.stream_index].feed(packet))
        for carrier in carriers.values():
            yield from _timed(carrier.finish())


def _timed(packets: Iterator[Packet]) -> "Iterator[tuple[Fraction, Packet]]":
    for packet in packets:
        assert packet.dts is not None
        yield packet.dts * packet.time_base, packet


def _order(item: tuple[Fraction, Packet]) -> Fraction:
    return item[0]


def _shifted_chapters(source: InputContainer, zero: Fraction) -> "list[Chapter]":
    """The source's chapters, their times counted from its zero."""
    chapters = source.chapters()
    for chapter in chapters:
        if chapter["time_base"] is not None:
            ticks = round(zero / chapter["time_base"])
            chapter["start"] -= ticks
            chapter["end"] -= ticks
    return chapters


def _kept_metadata(source: InputContainer, own: Mapping[str, str]) -> dict[str, str]:
    """The source's descriptive tags, overlaid by our own."""
    kept = {k: v for k, v in source.metadata.items() if k.lower() in _CARRIED_METADATA}
    return {**kept, **own}


def check_joined(path: Path, info: VideoInfo) -> None:
    """Check a joined file's packets against the source.

    Raises:
        SegmentError: frame count or a time differs, or decode times do not rise.
    """
    with _open_segment(path) as container:
        stream = container.streams.video[0]
        scale = time_base_of(stream) / Fraction(*info.time_base)
        shown: list[int] = []
        last_dts: int | None = None
        for packet in container.demux(stream):
            if not packet.size:
                continue
            pts, dts = packet.pts, packet.dts
            if (
                pts is None
                or dts is None
                or dts > pts
                or (last_dts is not None and dts <= last_dts)
            ):
                raise SegmentError(f"{path.name}: packet at pts {pts}, dts {dts} after {last_dts}")
            last_dts = dts
            if not packet.is_discard and (pts * scale).denominator == 1:
                shown.append((pts * scale).numerator)
    if sorted(shown) != list(info.pts):
        raise SegmentError(
            f"{path.name}: {len(shown)} frames whose times are not those of the source's "
            f"{info.num_frames} frames"
        )
