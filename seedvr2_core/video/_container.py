"""Opens sources safely: local files in known containers only, never what a file points at.

The demuxers are limited to real containers (no playlists, no concat scripts, no image globs) and
all protocols are off: FFmpeg reads through our own reader of one file, so that a hostile "video"
cannot make it read another file or URL.
"""

import contextlib
import io
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import av
import av.error
from av.codec.context import CodecContext
from av.codec.context import Flags as CodecFlags
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.errors import InvalidVideoError, SeedVR2Error, UnsupportedFormatError
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.video._reasons import why_not_opened
from seedvr2_core.video.info import Timeline
from seedvr2_core.video.picture.opening import media_of, open_file
from seedvr2_core.video.picture.still import MAX_PIXELS, kind_of_ours

if TYPE_CHECKING:
    from seedvr2_core.video.sequence.virtual import PictureFile

S = TypeVar("S", bound=Stream)

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif,apng,mxf,nut,ivf,"
    "yuv4mpegpipe,dv,rm,wtv,h264,hevc,mpegvideo,m4v"
)
"""FFmpeg demuxers a source may use."""

_AS_IT_IS = Timeline()
_OPEN_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": CONTAINERS}
_BUFFER_BYTES = 2**16
_LATE_STREAMS = (b"FLV", b"\0\0\1\xba")
"""How FLV and MPEG-PS begin. Their headers need not name all streams, so more is looked at."""
_LATE_OPTIONS = {"probesize": str(2**25), "analyzeduration": str(100 * 10**6)}
"""Bytes and microseconds; 5 MB and some seconds where nothing is said."""
_ALPHA_MODE = "alpha_mode"
"""What Matroska says of a track with alpha beside each packet: "1"."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
UNSEEN: Mapping[str, str] = {"skip_loop_filter": "all"}
"""Options of a decoder whose pictures are counted and not looked at. The edges of blocks are not
smoothed, which saves a third of the time of H.264 and HEVC."""
_LARGEST_PIXEL_BYTES = 8
_LARGE_PICTURE_BYTES = 2**28
"""Sixteen threads with a picture of that size each hold 4 GB; 7680x4320 has less."""


@contextlib.contextmanager
def open_source(path: Path, *, on_bytes: OnBytes = no_bytes) -> Iterator[InputContainer]:
    """Open a source for reading, for the length of a `with` block.

    Args:
        path: the source.
        on_bytes: called with the position and the file's length before every read.

    Raises:
        InvalidVideoError: missing, empty, no video container and no picture; one sentence says
            why.
        UnsupportedFormatError: a picture that is not taken, too large for example.
        FileReadError: the machine failed to read it, now or inside the block.
    """
    with open_file(path, on_bytes) as file:
        media = media_of(file, path.name, on_bytes)
        late = _LATE_OPTIONS if media.head.startswith(_LATE_STREAMS) else {}
        allowed = {} if media.demuxer is None else {"format_whitelist": media.demuxer}
        try:
            options = {**_OPEN_OPTIONS, **late, **allowed}
            container = open_container(media.file, options=options, format_name=media.demuxer)
        except MemoryError as error:
            raise InvalidVideoError(
                f"{path.name}: to open it takes more memory than there is; its index is damaged or "
                "huge"
            ) from error
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, SeedVR2Error):
                raise
            raise InvalidVideoError(f"{path.name}: {why_not_opened(path, error)}") from error
        with container:
            yield container
        if failed := media.failed:  # and a demuxer has swallowed it
            raise failed


def open_container(
    file: "FileReader | PictureFile | io.BytesIO",
    *,
    options: Mapping[str, str] | None = None,
    format_name: str | None = None,
) -> InputContainer:
    """Let libav read a file through our own reader; PyAV raises what a read raises."""
    return av.open(
        file,
        mode="r",
        format=format_name,
        options=dict(options or {}),
        metadata_errors="replace",
        buffer_size=_BUFFER_BYTES,
    )


def is_cover(stream: Stream) -> bool:
    """Whether a video stream is an attached picture (cover art), not a video."""
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def main_video(
    container: InputContainer, path: Path, *, stills: Collection[int] = ()
) -> VideoStream:
    """The video stream to restore: the default one, else the first; never a cover picture.

    A stream whose header says that it has one picture is taken for a cover where there is another.

    Args:
        container: open.
        path: of the file.
        stills: indices of streams that are known to be covers, though nothing marks them.

    Raises:
        InvalidVideoError: there is none.
        UnsupportedFormatError: its pictures are too large.
    """
    videos = list(container.streams.video)
    real = [s for s in videos if not is_cover(s) and s.index not in stills]
    if not real:
        what = "only a cover picture, no video" if videos else "no video stream"
        raise InvalidVideoError(f"{path.name}: the file holds {what}; a video stream is needed")
    # A stream without a decoder has no codec context, whatever the stubs say.
    decodable = [stream for stream in real if stream.codec_context is not None]
    if not decodable:
        raise InvalidVideoError(f"{path.name}: no decoder is known for its video stream")
    films = [stream for stream in decodable if stream.frames != 1] or decodable
    marked = [stream for stream in films if stream.disposition & Disposition.default]
    chosen = (marked or films)[0]
    _check_size(chosen, path)
    return chosen


def video_of(container: InputContainer, path: Path, index: int) -> VideoStream:
    """The video stream with this index, which `main_video` has chosen.

    Raises:
        InvalidVideoError: the file has no such stream any more.
        UnsupportedFormatError: its pictures are too large.
    """
    stream = container.streams[index] if index < len(container.streams) else None
    if not isinstance(stream, VideoStream):
        raise InvalidVideoError(f"{path.name}: its stream {index} is no video; has it changed?")
    _check_size(stream, path)
    return stream


def _check_size(stream: VideoStream, path: Path) -> None:
    """Refuse pictures that would not fit into memory.

    The decoder gets the same limit, because pictures can be larger than the header says.
    """
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise UnsupportedFormatError(
            f"{path.name}: its pictures have {width}x{height} = {width * height} pixels, at most "
            f"{MAX_PIXELS} are taken; scale the video down"
        )
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}


def _nobody() -> None:
    """Do nothing about late streams: the default of `on_late`."""


def demux_all(
    container: InputContainer,
    *streams: S,
    timeline: Timeline = _AS_IT_IS,
    on_late: Callable[[], None] = _nobody,
) -> "Iterator[Packet[S]]":
    """Every packet of the streams (all if none given), in file order, without flush packets.

    Where the file is cut off or damaged, the iteration ends without an error.

    Args:
        container: before its first packet.
        streams: of that container.
        timeline: moves the packets' times.
        on_late: called at the end if streams appeared that `container` does not know.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    for packet in _moved(_packets(container, *streams, on_late=on_late), timeline):
        if _is_there(packet):
            yield packet


def _is_there(packet: "Packet[S]") -> bool:
    """Whether it is a packet of the file, not one that makes a decoder give its last frames."""
    return bool(packet.size) or packet.pts is not None or packet.dts is not None


def _moved(packets: "Iterator[Packet[S]]", timeline: Timeline) -> "Iterator[Packet[S]]":
    """The packets at the times that a timeline gives them."""
    if not timeline.shifts:
        yield from packets
        return
    added = {shift.stream: timeline.seconds(shift.stream) for shift in timeline.shifts}
    for packet in packets:
        if packet.stream_index in added and _is_there(packet):
            ticks = round(next(added[packet.stream_index]) / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        yield packet


def _packets(
    container: InputContainer, *streams: S, on_late: Callable[[], None] = _nobody
) -> "Iterator[Packet[S]]":
    """As `demux_all`, with the empty packets at the end that make decoders give their last frames.

    They do not come where the file is damaged so badly that the demuxer gives up.
    """
    packets = cast("Iterator[Packet[S]]", container.demux(*streams))
    while True:
        try:
            packet = next(packets, None)
        except IndexError:
            on_late()  # at the file's end PyAV trips over a stream that appeared after the start
            return
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            return  # bad data: what the machine fails to read is no FFmpegError (see FileReader)
        if packet is None:
            return
        yield packet


def time_base_of(stream: Stream) -> Fraction:
    """The stream's time base; a stream without one cannot be timed.

    Raises:
        InvalidVideoError: the container gives none.
    """
    if stream.time_base is None:
        raise InvalidVideoError(f"stream {stream.index} has no time base, its times are unknown")
    return stream.time_base


def container_zero(container: InputContainer) -> Fraction:
    """The time, in exact seconds, at which the container's presentation begins.

    Broadcast containers (MPEG-TS, MPEG-PS) start at any time: their zero is the earliest start of
    an audio or video stream. All others count from 0.
    """
    if not container.format.flags & Flags.ts_discont.value:
        return Fraction(0)
    starts = [
        stream.start_time * stream.time_base
        for stream in container.streams
        if stream.type in ("video", "audio")
        and stream.start_time is not None
        and stream.time_base is not None
    ]
    return min(starts, default=Fraction(0))


def decode_pictures(
    container: InputContainer,
    stream: VideoStream,
    *,
    from_key: bool = False,
    skip: int = 0,
    timeline: Timeline = _AS_IT_IS,
) -> Iterator[VideoFrame]:
    """Pictures of a stream in presentation order; packets that cannot be decoded are passed over.

    Args:
        container: positioned where decoding is to begin.
        stream: of that container.
        from_key: after a seek: begin at the first key packet and leave out pictures that are
            presented before it (they may depend on pictures that were not read).
        skip: packets that are read and not decoded.
        timeline: moves the pictures' times; only from the file's start.

    Yields:
        Pictures; the `opaque` of each is the sample aspect ratio that the codec gives it, or None:
        PyAV shows that of the decoder alone.
    """
    earliest: int | None = None
    decoder: VideoCodecContext | None = None
    for packet in itertools.islice(_moved(_packets(container, stream), timeline), skip, None):
        if from_key and earliest is None:
            if not packet.is_keyframe or packet.pts is None:
                continue
            earliest = packet.pts
        if packet.has_sidedata("encryption_info"):
            continue  # it may decode, to noise
        if decoder is None:
            decoder = decoder_for(stream, packet)
        try:
            pictures = decoder.decode(packet)
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            continue
        for picture in pictures:
            if earliest is None or (picture.pts is not None and picture.pts >= earliest):
                picture.opaque = stream.codec_context.sample_aspect_ratio
                yield picture


def decoder_for(stream: VideoStream, packet: Packet) -> VideoCodecContext:
    """What decodes a stream: the container's own decoder, with two exceptions.

    The alpha of WebM is a second video beside each packet, which libav's own decoders pass over.
    And the tracks of our own segments with pictures for which libav has no name in any container
    are called PNG.

    Args:
        stream: of an open container.
        packet: its first one.
    """
    usual = stream.codec_context
    name = usual.codec.canonical_name
    if name in _ALPHA_DECODERS and _has_alpha_beside(stream):
        decoder = _other_decoder(_ALPHA_DECODERS[name])
        decoder.extradata = usual.extradata
        decoder.color_primaries, decoder.color_trc = usual.color_primaries, usual.color_trc
    elif name == "png" and (kind := kind_of_ours(bytes(packet))) in ("webp", "exr"):
        decoder = _other_decoder(kind)
    else:
        decoder = usual
    # Without it the decoder rounds what it cuts off on the left to what is fast to reach.
    decoder.flags |= CodecFlags.unaligned.value
    return decoder


def _has_alpha_beside(stream: VideoStream) -> bool:
    """Whether each packet has a second one with alpha; programs that copy a file shout the word."""
    return any(
        key.lower() == _ALPHA_MODE and value == "1" for key, value in stream.metadata.items()
    )


def _other_decoder(name: str) -> VideoCodecContext:
    decoder = CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    return decoder


def thread_kind(stream: VideoStream) -> str:
    """How a stream is decoded: a picture in each thread, or, if these are huge, one at a time."""
    context = stream.codec_context
    num_bytes = context.width * context.height * _LARGEST_PIXEL_BYTES
    return "SLICE" if num_bytes > _LARGE_PICTURE_BYTES else "AUTO"


def codec_name(stream: Stream) -> str:
    """FFmpeg's name of the stream's codec, "unknown" where it has no decoder."""
    # Streams without a decoder have no codec context, whatever the stubs say.
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else "unknown"
