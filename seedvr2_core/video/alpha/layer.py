"""Alpha that HEVC has in a layer of its own, beside the pictures (Apple's "HEVC with alpha").

The decoder gives it as a fourth plane where it can. Where it cannot, it says nothing and gives the
pictures alone, so whether there is such a layer is read here: encoders announce it by a message
(ITU-T H.265, SEI "alpha channel information") in the file's header or before the first picture.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video._container import open_source, video_of
from seedvr2_core.video.alpha.facts import AlphaFacts
from seedvr2_core.video.info import VideoInfo

_MESSAGES, _ALPHA = 39, 165
"""Kinds of a unit with messages, and of the message."""
_HEADER_BYTES, _RECORD_BYTES = 2, 23
"""Of a unit, and of the record before its lists of units."""
_RECORD = 1
"""How the record in mp4 and Matroska begins; other files have units alone."""
_START_CODE = b"\0\0\1"
_ESCAPED, _PLAIN = b"\0\0\3", b"\0\0"
_LOOKED_AT = 2**20
"""Bytes of the first packet: messages stand before the picture."""


def with_alpha_layer(path: Path, info: VideoInfo, on_bytes: OnBytes) -> VideoInfo:
    """Note alpha that nobody reads: of HEVC whose pictures come without any.

    Args:
        path: the video.
        info: what else is known of it; its pictures have no alpha.
        on_bytes: called before every read.

    Raises:
        FileReadError: the machine failed to read it.
    """
    if info.codec != "hevc":
        return info
    with open_source(path, on_bytes=on_bytes) as container:
        stream = video_of(container, path, info.stream_index)
        header = stream.codec_context.extradata or b""
        packet = next((packet for packet in container.demux(stream) if packet.size), None)
        first = b"" if packet is None else bytes(packet)[:_LOOKED_AT]
    if not any(map(_announces_alpha, (*_of_header(header), *_of_packet(first, header)))):
        return info
    return replace(info, alpha=AlphaFacts(unread=True))


def _of_header(header: bytes) -> Iterator[bytes]:
    """The units of a record, or of a header that is units alone; strange ones are passed over."""
    if header[:1] != bytes([_RECORD]) or len(header) < _RECORD_BYTES:
        yield from header.split(_START_CODE)[1:]
        return
    at = _RECORD_BYTES
    for _ in range(header[_RECORD_BYTES - 1]):
        count, at = int.from_bytes(header[at + 1 : at + 3]), at + 3
        for _ in range(count):
            size = int.from_bytes(header[at : at + 2])
            yield header[at + 2 : at + 2 + size]
            at += 2 + size
            if at >= len(header):
                return


def _of_packet(packet: bytes, header: bytes) -> Iterator[bytes]:
    """The units of a packet, behind their lengths or behind start codes."""
    if header[:1] != bytes([_RECORD]) or len(header) < _RECORD_BYTES:
        yield from packet.split(_START_CODE)[1:]
        return
    at, length = 0, (header[_RECORD_BYTES - 2] & 3) + 1
    while at + length < len(packet):
        size = int.from_bytes(packet[at : at + length])
        yield packet[at + length : at + length + size]
        at += length + size


def _announces_alpha(unit: bytes) -> bool:
    """Whether a unit has the message that says that there is alpha."""
    if len(unit) <= _HEADER_BYTES or unit[0] >> 1 & 63 != _MESSAGES:
        return False
    content, at = unit[_HEADER_BYTES:].replace(_ESCAPED, _PLAIN), 0
    while at + 2 < len(content):
        numbers = []
        for _ in ("kind", "size"):
            value = 0
            while at < len(content) and content[at] == 255:
                value, at = value + 255, at + 1
            numbers.append(value + (content[at] if at < len(content) else 0))
            at += 1
        kind, size = numbers
        if kind == _ALPHA and at < len(content):
            return not content[at] & 0x80  # the first bit takes back what was said
        at += size
    return False
