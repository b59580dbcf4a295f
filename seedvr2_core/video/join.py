"""Joins finished segments and the source's other streams into the output, without re-encoding.

The packets of all segments follow each other; their decode times are rewritten over the whole
track: packet i (file order) gets the (i - D)-th presentation time, D = reorder depth, and the first
D lie before the first picture at the nominal distance.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.container.core import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from seedvr2_core.errors import FileReadError, SeedVR2Error, SegmentError
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.files.space import is_full
from seedvr2_core.video._container import demux_all, open_source, time_base_of
from seedvr2_core.video._segments import (
    FilmClock,
    JoinPart,
    film_packets,
    open_segment,
    segment_pictures,
    times_in_file_order,
)
from seedvr2_core.video.carry.about import About, chapters_told, write_about
from seedvr2_core.video.carry.fed import RefusedStreamError, decode_order, timed
from seedvr2_core.video.carry.losses import unsaid_losses
from seedvr2_core.video.carry.streams import Carried, add_carriers, stream_name
from seedvr2_core.video.carry.trial import TrialResult, try_streams
from seedvr2_core.video.carry.way import CarryWay, Cut
from seedvr2_core.video.info import EncoderSettings, OutputSettings, VideoInfo
from seedvr2_core.video.output.encoders import tag_of
from seedvr2_core.video.output.file import (
    IndexRoomError,
    finish_output,
    index_room,
    muxer_options,
    open_output,
)
from seedvr2_core.video.output.formats import CONTAINERS, ContainerSpec, counts_frames, holds_alpha
from seedvr2_core.video.output.gate import (
    Expected,
    ExpectedStream,
    check_joined,
    expected_of,
)
from seedvr2_core.video.output.said import check_said
from seedvr2_core.video.output.sequence import (
    check_sequence,
    check_still,
    write_sequence,
    write_still,
)
from seedvr2_core.video.output.track import TrackClock

_log = logging.getLogger(__name__)

_NOTED_DELAY = frozenset({"opus"})
"""Codecs of sound whose samples before the start Matroska has a place for."""


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
    wanted: OutputSettings | None = None,
    on_bytes: OnBytes = no_bytes,
) -> JoinResult:
    """Write the output: all segments' packets plus the source's audio and text.

    Args:
        segments: in order, covering every frame of `info`.
        source: the file that `info` describes.
        info: from `probe_video`.
        settings: those the segments were encoded with.
        output: where to write, whatever the suffix; removed again on failure.
        metadata: of the container; wins over the source's own title, artist and so on.
        wanted: container and sound of the output; None: mp4 with all sound.
        on_bytes: called with the position in the file that is read or written, and its length,
            at every read and every write.

    Raises:
        SegmentError: the segments do not give exactly the frames of `info`, or disagree; or the
            finished file is not what it should be.
        FileReadError: the machine failed to read a segment or the source, or the source has lost
            packets since it was probed.
    """
    times = times_in_file_order(segments, FilmClock(settings, info.pts), on_bytes)
    if sorted(times) != list(info.pts):
        raise SegmentError(
            f"the segments hold {len(times)} frames whose times are not those of the source's "
            f"{info.num_frames} frames; redo the segments"
        )
    clock = TrackClock.of(times, info)
    wanted = wanted or OutputSettings()
    way = CarryWay(container=CONTAINERS[wanted.container], audio=wanted.audio, cut=Cut.of(info))
    single = way.container.single
    trials = {} if single else try_streams(source, info, way, on_bytes=on_bytes)
    job = _Joining(segments, source, info, settings, output, metadata, way, clock, trials, on_bytes)
    try:
        write, check = _ways(way.container)
        written = write(job)
        check(output, job.expected(written.others), on_bytes=on_bytes)
        lost = check_said(output, written.about, way, on_bytes=on_bytes)
    except MemoryError:
        output.unlink(missing_ok=True)
        raise
    except av.error.FFmpegError as error:
        output.unlink(missing_ok=True)
        raise SegmentError(f"the segments cannot be joined: {error}") from error
    except BaseException:
        output.unlink(missing_ok=True)
        raise
    return JoinResult(notes=(*written.notes, *lost))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one attempt has written."""

    notes: list[str]
    others: list[ExpectedStream]
    """The streams beside the video, in the order of the file."""
    about: About = field(default_factory=About)
    """What the file should say."""


def _write(job: "_Joining") -> _Attempt:
    """Write the file with all that can be carried over.

    Each stream was tried alone, so hardly anything is refused here; what is costs that stream. What
    the machine fails to read or to write is raised: it is no reason to go on without the sound.
    """
    left_out: dict[int, str] = {}
    name = job.way.container.ending.removeprefix(".")
    while True:
        try:
            written = _write_once(job, left_out)
            return replace(written, notes=[*left_out.values(), *written.notes])
        except RefusedStreamError as refused:
            (stream,) = (s for s in job.info.streams if s.index == refused.index)
            told = f"{stream_name(stream)} is not carried over: {name} refuses it beside the video"
            left_out[refused.index] = told
        except (av.error.FFmpegError, ValueError) as error:
            if is_full(error) or isinstance(error, (SeedVR2Error, MemoryError)):
                raise
            _log.info("the video is written alone", exc_info=True)
            break
    lost = "no" if job.way.container.pictures else "neither chapters nor"
    told = f"{lost} other streams are carried over: {name} refuses them together"
    written = _write_once(job, {}, alone=True)
    return replace(written, notes=[told, *written.notes], others=[])


def _write_folder(job: "_Joining") -> _Attempt:
    """Write the pictures, and beside them a file with all that can be carried over."""
    sound = job.output.with_name(f"{job.output.name}.sound.part")
    try:
        beside = _write(replace(job, output=sound))
        write_sequence(
            job.output,
            segment_pictures(job.segments, job.on_bytes),
            job.expected(beside.others),
            sound=sound,
            on_bytes=job.on_bytes,
        )
    finally:
        sound.unlink(missing_ok=True)
    return beside


def _write_picture(job: "_Joining") -> _Attempt:
    """Write the only frame as a file of its own; it has no room for anything else."""
    (picture,) = segment_pictures(job.segments, job.on_bytes)
    write_still(job.output, picture, job.settings, on_bytes=job.on_bytes)
    streams = [stream for stream in job.info.streams if stream.num_packets]
    told = [f"{stream_name(stream)} is not carried over: a picture has none" for stream in streams]
    return _Attempt(told, [])


def _ways(
    container: ContainerSpec,
) -> tuple[Callable[["_Joining"], _Attempt], Callable[..., None]]:
    """How an output of this kind is written, and how it is checked."""
    if container.single:
        return _write_picture, check_still
    return (_write_folder, check_sequence) if container.pictures else (_write, check_joined)


def _write_once(job: "_Joining", left_out: Collection[int], *, alone: bool = False) -> _Attempt:
    """Write the file, with room for the index at its front if that is worth it."""
    reserved = index_room(job.info, job.way.container, job.num_bytes())
    if reserved:
        try:
            return job.write(left_out=left_out, alone=alone, reserved=reserved)
        except IndexRoomError:
            _log.warning("the room for the index was too small; the file is written once more")
    return job.write(left_out=left_out, alone=alone)


@dataclass(frozen=True, slots=True)
class _Joining:
    """One output to write; `write` may be called again, without one of the streams for example."""

    segments: Sequence[JoinPart]
    source: Path
    info: VideoInfo
    settings: EncoderSettings
    output: Path
    metadata: Mapping[str, str]
    way: CarryWay
    clock: TrackClock
    trials: Mapping[int, TrialResult]
    on_bytes: OnBytes

    def num_bytes(self) -> int:
        """Of all segments."""
        return sum(part.path.stat().st_size for part in self.segments)

    def expected(self, others: Sequence[ExpectedStream]) -> Expected:
        """What the output must hold; `others` are the streams beside the video."""
        kind = self.way.container
        told = chapters_told(self.source, self.info, self.way.cut) if kind.pictures else []
        return Expected(
            info=self.info, settings=self.settings, container=kind, others=others, chapters=told
        )

    def write(
        self, *, left_out: Collection[int] = (), alone: bool = False, reserved: int = 0
    ) -> _Attempt:
        """Write the file.

        Args:
            left_out: streams of the source that are not carried over.
            alone: write the video and nothing else.
            reserved: bytes to keep for the index before the media; 0: the media are written first
                and moved afterwards.

        Raises:
            IndexRoomError: the index needs more than was reserved.
            RefusedStreamError: the container refused a carried stream.
        """
        kind = self.way.container
        options = muxer_options(kind, self.settings.time_base, reserved)
        with (
            open_source(self.source, on_bytes=self.on_bytes) as source,
            open_output(
                self.output, muxer=kind.muxer, options=options, on_bytes=self.on_bytes
            ) as container,
        ):
            container.flags |= Flags.bitexact.value
            video = None if kind.pictures else self._add_video(container)
            carried = Carried(carriers={}, notes=())
            if not alone:
                others = (self.info, self.trials, self.way)
                carried = add_carriers(container, self.source, source, *others, left_out=left_out)
            about = (self.info, self.way, self.metadata)
            said = write_about(container, source, *about, names=carried.names, chapters=not alone)
            written: list[ExpectedStream] = []
            if video is not None or carried.carriers:
                container.start_encoding()
                self._check_clock(video)
                written = self._mux(container, video, source, carried)
                finish_output(container, reserved=reserved)
            losses = unsaid_losses(self.source, source, self.info, carried.kept)
        carriers = carried.carriers.values()
        told = [
            *carried.notes,
            *said.notes,
            *losses,
            *(note for carrier in carriers for note in carrier.notes),
        ]
        return _Attempt(told, written, said)

    def _check_clock(self, video: VideoStream | None) -> None:
        """Refuse a file that cannot count as the source does, where it has to."""
        if video is None or self.way.container.clock is not None:
            return
        scale = Fraction(*self.settings.time_base) / time_base_of(video)
        if scale.denominator != 1:
            raise SegmentError(
                f"{self.way.container.muxer} cannot count in {self.settings.time_base} s"
            )

    def _mux(
        self,
        container: OutputContainer,
        video: VideoStream | None,
        source: InputContainer,
        others: Carried,
    ) -> list[ExpectedStream]:
        """Write all packets in the order of their decode times; tells what the others were."""
        owners = {carrier.stream.index: index for index, carrier in others.carriers.items()}
        written = {c.stream.index: expected_of(c.stream) for c in others.carriers.values()}
        shown = iter(()) if video is None else self._video_packets(video)
        packets = heapq.merge(shown, self._other_packets(source, others), key=decode_order)
        for _, packet in packets:
            owner = owners.get(packet.stream_index)
            if owner is not None:
                if self._is_before_start(packet, written[packet.stream_index].codec):
                    continue
                written[packet.stream_index].add(packet)
            try:
                container.mux(packet)
            except (av.error.FFmpegError, ValueError) as error:
                if owner is None or is_full(error) or isinstance(error, SeedVR2Error):
                    raise
                raise RefusedStreamError(owner) from error
        return list(written.values())

    def _is_before_start(self, packet: Packet, codec: str) -> bool:
        """Whether a packet lies before time 0 where the container has no edit list to hide it.

        Encoders of sound begin with some samples that nobody hears. Kept, all streams would begin
        later by them. Of Opus, Matroska notes how many these are.
        """
        if self.way.container.has_index or codec in _NOTED_DELAY or packet.pts is None:
            return False
        return packet.pts < 0

    def _add_video(self, container: OutputContainer) -> VideoStream:
        with open_segment(self.segments[0].path) as first:
            video = container.add_stream_from_template(first.streams.video[0], opaque=True)
        video.time_base = Fraction(*self.settings.time_base)
        if counts_frames(self.settings.codec) and holds_alpha(self.settings):
            video.codec_context.pix_fmt = self.settings.pix_fmt  # by which WebM says "alpha"
        # The template's tag is forgotten; of ProRes it also says which of its kinds this is.
        tag = tag_of(self.settings)
        if tag and (self.way.container.has_index or self.settings.codec == "prores"):
            video.codec_context.codec_tag = tag
        return video

    def _video_packets(self, video: VideoStream) -> "Iterator[tuple[Fraction, Packet]]":
        """(decode time in seconds, packet) of the whole track."""
        total, durations = self.info.num_frames, self.clock.durations()
        position, last_dts, time_base = 0, None, Fraction(*self.settings.time_base)
        clock = FilmClock(self.settings, self.info.pts)
        for part, pts, packet in film_packets(self.segments, clock, self.on_bytes):
            dts = self.clock.dts(position)
            if dts > pts or (last_dts is not None and dts <= last_dts):
                raise SegmentError(
                    f"{part.path.name}: packet {position} would be decoded at {dts} after "
                    f"{last_dts} and shown at {pts}; decode times must rise"
                )
            position, last_dts = position + 1, dts
            packet.pts, packet.dts, packet.time_base = pts, dts, time_base
            packet.duration = self.info.last_duration if position == total else durations[pts]
            packet.stream = video
            yield dts * time_base, packet

    def _other_packets(
        self, source: InputContainer, others: Carried
    ) -> "Iterator[tuple[Fraction, Packet]]":
        """(decode time in seconds, packet) of all other streams."""
        carriers = others.carriers
        if not carriers:
            return
        streams = [source.streams[index] for index in carriers]
        counts: Counter[int] = Counter()
        cut, zero = self.way.cut, Fraction(*self.info.zero_offset)
        for packet in demux_all(source, *streams, timeline=self.info.timeline):
            index = packet.stream_index
            counts[index] += 1
            if cut is None or index in others.timeless or cut.touches(packet, zero):
                yield from timed(index, carriers[index].feed(packet))
        self._check_counts(counts, carriers)
        for index, carrier in carriers.items():
            yield from timed(index, carrier.finish())

    def _check_counts(self, counts: Mapping[int, int], carried: Iterable[int]) -> None:
        """Refuse to leave out packets that the probe has read."""
        for stream in self.info.streams:
            if stream.index in carried and counts[stream.index] < stream.num_packets:
                raise FileReadError(
                    f"{self.source.name}: {counts[stream.index]} of {stream.num_packets} packets "
                    f"of stream {stream.index} ({stream.codec}) could be read; the file has "
                    "changed, or the disk it lies on fails"
                )
