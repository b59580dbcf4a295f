"""A small file that asks for endless work: an mp4 whose index names the same few bytes forever.

The index of an mp4 has runs ("so many samples of 12 bytes, one tick each"), and chunks of samples
may lie over each other. So the length of the file says nothing of how many frames it orders.
"""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE = 16
"""Width and height of its picture."""
_UNITY = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SEI = 6


def write_endless(path: Path, *, num_chunks: int, per_chunk: int = 560, rate: int = 25) -> int:
    """Write the file; returns how many frames it orders.

    Args:
        path: where.
        num_chunks: each takes 4 bytes of the file.
        per_chunk: samples of a chunk; all chunks are the same bytes.
        rate: frames per second.
    """
    sample, config = _picture()
    count = num_chunks * per_chunk
    head = _box(b"ftyp", b"isom", bytes(4), b"isomavc1")
    data = _box(b"mdat", sample * per_chunk)
    offset = len(head) + 8
    entry = _box(
        b"avc1",
        struct.pack(">6xH16xHHIIIH32sHh", 1, SIDE, SIDE, 72 << 16, 72 << 16, 0, 1, b"", 24, -1),
        _box(b"avcC", config),
    )
    stbl = _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), entry),
        _full(b"stts", 0, struct.pack(">III", 1, count, 1)),
        _full(b"stsc", 0, struct.pack(">IIII", 1, 1, per_chunk, 1)),
        _full(b"stsz", 0, struct.pack(">II", len(sample), count)),
        _full(b"stco", 0, struct.pack(">I", num_chunks), struct.pack(">I", offset) * num_chunks),
    )
    handler = _full(b"hdlr", 0, struct.pack(">I4s12xx", 0, b"vide"))
    url = _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))
    minf = _box(b"minf", _full(b"vmhd", 1, bytes(8)), _box(b"dinf", url), stbl)
    mdhd = _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, rate, count, 0x55C4, 0))
    tkhd = _full(
        b"tkhd",
        3,
        struct.pack(">IIIII8xhhhH", 0, 0, 1, 0, count, 0, 0, 0, 0),
        _UNITY,
        struct.pack(">II", SIDE << 16, SIDE << 16),
    )
    mvhd = _full(
        b"mvhd",
        0,
        struct.pack(">IIIIIH10x", 0, 0, rate, count, 1 << 16, 1 << 8),
        _UNITY,
        struct.pack(">24xI", 2),
    )
    trak = _box(b"trak", tkhd, _box(b"mdia", mdhd, handler, minf))
    path.write_bytes(head + data + _box(b"moov", mvhd, trak))
    return count


def _picture() -> tuple[bytes, bytes]:
    """One grey picture as an H.264 sample of an mp4 (12 bytes), and its avcC."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width = encoder.height = SIDE
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = {"x264-params": "annexb=0:repeat-headers=0"}
    encoder.flags |= av.codec.context.Flags.global_header
    grey = np.full((SIDE * 3 // 2, SIDE), 128, np.uint8)
    frame = av.VideoFrame.from_ndarray(grey, "yuv420p")
    frame.pts = 0
    (packet,) = [*encoder.encode(frame), *encoder.encode(None)]
    units, sample = bytes(packet), b""
    while units:  # x264 begins with a long message about itself
        size = 4 + int.from_bytes(units[:4], "big")
        sample += units[:size] if units[4] & 31 != _SEI else b""
        units = units[size:]
    return sample, bytes(encoder.extradata or b"")


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), name) + body


def _full(name: bytes, flags: int, *content: bytes) -> bytes:
    """A box with version 0 and flags."""
    return _box(name, struct.pack(">I", flags), *content)
