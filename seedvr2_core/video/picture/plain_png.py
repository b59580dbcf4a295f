"""PNGs whose pixels are stored as they are: made in no time, and of a size that is known before.

That libav reads pictures from them keeps one way for all kinds of pictures and of colours. Numpy is
loaded for them alone: who joins a video needs no more than the form of a chunk.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")
_BLOCK_BYTES = 65535
_BLOCK = struct.Struct("<BHH")
_STORED = b"\x78\x01"
_COLOUR_TYPES = {3: 2, 4: 6}
"""Channels -> PNG's number of what they are: R'G'B', and the same with alpha."""


def plain_png(pixels: "np.ndarray", chunks: Mapping[bytes, bytes]) -> bytes:
    """A PNG of these pixels.

    Args:
        pixels: (height, width, 3 or 4) uint8 or uint16, full range.
        chunks: that stand between header and pixels, such as what the colours are.
    """
    import numpy as np

    height, width, channels = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    lines = np.zeros((height, 1 + width * channels * pixels.dtype.itemsize), np.uint8)
    big_endian = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
    lines[:, 1:] = big_endian.view(np.uint8).reshape(height, -1)
    header = struct.pack(">2I5B", width, height, bits, _COLOUR_TYPES[channels], 0, 0, 0)
    before = [(b"IHDR", header), *chunks.items()]
    parts: list[bytes | memoryview] = [PNG_START]
    for kind, content in before:
        parts += png_chunk(kind, content)
    return b"".join(
        [*parts, *png_chunk(b"IDAT", *_stored(lines.data.cast("B"))), *png_chunk(b"IEND")]
    )


def _stored(data: memoryview) -> list[bytes | memoryview]:
    """zlib's form of data that is not compressed, always of the same length (RFC 1950, 1951)."""
    parts: list[bytes | memoryview] = [_STORED]
    for at in range(0, len(data), _BLOCK_BYTES):
        block = data[at : at + _BLOCK_BYTES]
        is_last = at + len(block) == len(data)
        parts += [_BLOCK.pack(is_last, len(block), len(block) ^ 0xFFFF), block]
    return [*parts, struct.pack(">I", zlib.adler32(data))]


def png_chunk(kind: bytes, *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """A chunk of a PNG, in parts that are to be joined."""
    checked = zlib.crc32(kind)
    for part in parts:
        checked = zlib.crc32(part, checked)
    length = sum(len(part) for part in parts)
    return [_HEAD.pack(length, kind), *parts, struct.pack(">I", checked)]
