"""What the packets of a video tell about its pictures, without decoding the film.

Whether they change their shape on the way: key packets begin with what the decoder has to know
(sequence headers, parameter sets), and where that is another than before, this one packet is
decoded. And whether there are captions in them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av.error
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.video._container import MAX_PIXELS
from seedvr2_core.video.picture.facts import plausible_sar

_HEAD_BYTES = 2**16
_MOST_CHANGES = 16
_SEARCHED_PACKETS = 1000
"""Captions that are there at all are there all the time, if only to say that nobody speaks."""
_CAPTIONS = (b"GA94\3", b"\0\0\1\xb2CC\1\xf8")
"""As broadcasts (ATSC A/53) and as DVDs have them."""
_START_CODE = b"\0\0\1"
_MPEG2_SEQUENCE = b"\0\0\1\xb3"
_MPEG4_LAYERS = range(0x20, 0x30)
_H264_PARAMETERS = 7
_HEVC_PARAMETERS = 33
_AV1_SEQUENCE = 1
_VP9_SIZE_BYTES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownShape:
    """Size and sample aspect ratio of a picture as its codec gives them."""

    width: int
    height: int
    sar: Fraction | None

    @property
    def aspect(self) -> Fraction:
        """Width over height, as shown."""
        return Fraction(self.width, self.height) * (self.sar or 1)


class PacketWatch:
    """Looks at the packets of a video while they are read.

    Args:
        stream: the video.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._codec = stream.codec_context.codec.name
        self._extradata = stream.codec_context.extradata
        self._headers = _HEADERS.get(stream.codec_context.codec.canonical_name)
        self._last: bytes | None = None
        self._seen: dict[bytes, ShownShape | None] = {}
        self._first: ShownShape | None = None
        self._changed: tuple[ShownShape, Fraction] | None = None
        self._searched = 0
        self._captions = False

    def add(self, packet: "Packet[VideoStream]") -> None:
        """Look at a packet."""
        if self._searched < _SEARCHED_PACKETS and not self._captions:
            self._searched += 1
            content = bytes(packet)
            self._captions = any(mark in content for mark in _CAPTIONS)
        if self._headers is None or not packet.is_keyframe or self._changed:
            return
        headers = self._headers(bytes(memoryview(packet)[:_HEAD_BYTES]), self._extradata or b"")
        if packet.has_sidedata("new_extradata"):
            headers += bytes(packet.get_sidedata("new_extradata"))
        if not headers or headers == self._last or len(self._seen) >= _MOST_CHANGES:
            return
        self._last = headers
        if headers not in self._seen:
            self._seen[headers] = self._decoded(packet)
        self._compare(self._seen[headers], packet)

    def _compare(self, shape: ShownShape | None, packet: "Packet[VideoStream]") -> None:
        if shape is None:
            return
        if self._first is None:
            self._first = shape
        elif shape.aspect != self._first.aspect:
            ticks = packet.pts if packet.pts is not None else packet.dts or 0
            self._changed = shape, ticks * packet.time_base

    def _decoded(self, packet: "Packet[VideoStream]") -> ShownShape | None:
        """The shape of a packet's picture; None if it cannot be decoded alone."""
        context = CodecContext.create(self._codec, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = self._extradata
        context.options = {"max_pixels": str(MAX_PIXELS)}
        try:
            frames: Sequence[object] = [*context.decode(packet), *context.decode(None)]
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            return None
        for frame in frames:
            if isinstance(frame, VideoFrame):
                sar = plausible_sar(context.sample_aspect_ratio)
                return ShownShape(width=frame.width, height=frame.height, sar=sar)
        return None

    def warnings(self, zero: Fraction) -> tuple[str, ...]:
        """Sentences about what the packets have told.

        Args:
            zero: seconds that count as 0.
        """
        told = ("the pictures hold closed captions, which are not carried over",)
        if self._first is None or self._changed is None:
            return told if self._captions else ()
        shape, time = self._changed
        return (
            *(told if self._captions else ()),
            f"the picture changes its shape on the way (at {float(time - zero):.1f} s from "
            f"{_told(self._first)} to {_told(shape)}); pictures of another shape than the first "
            "are shown whole, with black bars",
        )


def _told(shape: ShownShape) -> str:
    if shape.sar in (None, 1):
        return f"{shape.width}x{shape.height}"
    assert shape.sar is not None
    return f"{shape.width}x{shape.height} with pixels {shape.sar.numerator}:{shape.sar.denominator}"


def _units(data: bytes, length_bytes: int) -> list[bytes]:
    """NAL units: behind start codes, or behind their length where `length_bytes` is not 0."""
    if not length_bytes:
        return [unit for unit in data.split(_START_CODE)[1:] if unit]
    units: list[bytes] = []
    position = 0
    while position + length_bytes < len(data):
        size = int.from_bytes(data[position : position + length_bytes])
        position += length_bytes
        units.append(data[position : position + size])
        position += size
    return units


def _h264(data: bytes, extradata: bytes) -> bytes:
    length = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > 4 else 0
    units = _units(data, length)
    return b"".join(u.rstrip(b"\0") for u in units if u and u[0] & 31 == _H264_PARAMETERS)


def _hevc(data: bytes, extradata: bytes) -> bytes:
    length = (extradata[21] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > 21 else 0
    units = _units(data, length)
    return b"".join(u.rstrip(b"\0") for u in units if u and u[0] >> 1 & 63 == _HEVC_PARAMETERS)


def _mpeg2(data: bytes, extradata: bytes) -> bytes:
    """Size (12 bits each) and aspect of the sequence header."""
    at = data.find(_MPEG2_SEQUENCE)
    head = data[at + 4 : at + 8] if at >= 0 else b""
    return head[:3] + bytes([head[3] & 0xF0]) if len(head) == 4 else b""


def _mpeg4(data: bytes, extradata: bytes) -> bytes:
    """The header of the video object layer."""
    return b"".join(unit for unit in _units(data, 0) if unit[0] in _MPEG4_LAYERS)


def _vp8(data: bytes, extradata: bytes) -> bytes:
    return data[6:10]


def _vp9(data: bytes, extradata: bytes) -> bytes:
    """Sync code, colour and size; without the bits that change from frame to frame."""
    head = data[1:_VP9_SIZE_BYTES]
    return head[:-1] + bytes([head[-1] & 0xF0]) if head else b""


def _av1(data: bytes, extradata: bytes) -> bytes:
    """The sequence header among the open bitstream units."""
    position = 0
    while position < len(data):
        kind, extended, sized = data[position] >> 3 & 15, data[position] & 4, data[position] & 2
        position += 2 if extended else 1
        size = shift = 0
        while sized and position < len(data):
            byte = data[position]
            size, shift, position = size | (byte & 127) << shift, shift + 7, position + 1
            if byte < 128:
                break
        if kind == _AV1_SEQUENCE:
            return data[position : position + size]
        if not sized:
            break
        position += size
    return b""


def _jpeg(data: bytes, extradata: bytes) -> bytes:
    """The frame header: precision, size, components."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[position + 4 : position + 2 + size]
        position += 2 + size
    return b""


def _png(data: bytes, extradata: bytes) -> bytes:
    """Width and height."""
    return data[16:24]


_HEADERS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "h264": _h264,
    "hevc": _hevc,
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
    "mpeg4": _mpeg4,
    "vp8": _vp8,
    "vp9": _vp9,
    "av1": _av1,
    "mjpeg": _jpeg,
    "png": _png,
}
"""Codec -> what in the beginning of a key packet, and in the stream's header, tells the shape."""
