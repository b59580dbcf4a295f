"""The header of an OpenEXR picture: parts, depth, channels, which red, green and blue are meant.

OpenEXR is laid out in openexr.com/en/latest/OpenEXRFileLayout.html. No numpy, so that who joins a
video need not load it.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seedvr2_core.errors import InvalidVideoError, SeedVR2Error, UnsupportedFormatError
from seedvr2_core.video.picture.still import EXR_START, MAX_PIXELS

_TILED, _DEEP_DATA, _SEVERAL_PARTS = 0x200, 0x800, 0x1000
_LINES = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)
"""In a block, by the number of the compression: none, RLE, ZIPS, ZIP, PIZ, PXR24, B44, B44A, DWAA,
DWAB."""
_TILES, _LINE_HEAD, _TILE_HEAD = struct.Struct("<2IB"), struct.Struct("<2i"), struct.Struct("<5i")
_INT = struct.Struct("<i")
_BOX, _CHANNEL, _CORNERS = struct.Struct("<4i"), struct.Struct("<iB3x2i"), struct.Struct("<8f")
_LONGEST_NAME = 256
_MOST_BLOCKS = 2**20
"""The largest picture that is taken has a quarter of that in tiles of 16x16."""
_HALF = 1
_DWA = (8, 9)
"""Numbers of the two compressions of that kind."""
_HALF_AND_FLOAT = (_HALF, 2)
_COLOURS = frozenset("RGB")
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
BT709_XY = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *_D65)
"""x and y of red, green, blue and white: what a file means that says nothing."""
_CORNERS_OF: Mapping[int, tuple[float, ...]] = {
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, *_C),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, *_C),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),
    22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *_D65),
}
"""H.273 code of primaries -> the same; BT.709 for all else."""
_ADDED = b"chromaticities\0chromaticities\0" + _INT.pack(_CORNERS.size)
_LEAST = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExrHeader:
    """What is needed of a header."""

    width: int
    """Of the display window."""
    height: int
    channels: frozenset[str]
    chromaticities: tuple[float, ...]
    table_at: int
    """Where the list of the blocks' places begins."""
    blocks: int
    """Scan lines or tiles are coded in so many blocks."""
    tiled: bool


def read_exr_header(content: bytes, name: str) -> ExrHeader:
    """Read a header, and refuse what is not taken.

    Args:
        content: the file, or its first bytes with the whole header.
        name: of the file, for messages.

    Raises:
        InvalidVideoError: it is damaged.
        UnsupportedFormatError: deep data, several parts, other channels, or too large.
    """
    try:
        flags = _INT.unpack_from(content, len(EXR_START))[0]
        _refuse_kinds(flags, name)
        attributes, table_at = _attributes(content)
        left, top, right, bottom = _BOX.unpack(attributes["displayWindow"])
        tiled = bool(flags & _TILED)
        blocks = _num_blocks(attributes, tiled=tiled)
        channels = _channels(attributes["channels"])
        _refuse_dwa(attributes, channels, name)
        told = attributes.get("chromaticities")
        chromaticities = BT709_XY if told is None else _checked(_CORNERS.unpack(told))
    except (struct.error, KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, SeedVR2Error):
            raise
        raise InvalidVideoError(
            f"{name}: the header of this EXR picture cannot be read ({error!r}); it is damaged or "
            "cut off"
        ) from error
    header = ExrHeader(
        width=right - left + 1,
        height=bottom - top + 1,
        channels=frozenset(channels),
        chromaticities=chromaticities,
        table_at=table_at,
        blocks=blocks,
        tiled=tiled,
    )
    _refuse_samples(header, channels, name)
    return header


def _checked(chromaticities: tuple[float, ...]) -> tuple[float, ...]:
    """The same, if they span colours at all."""
    x, y = chromaticities[::2], chromaticities[1::2]
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    if not (math.isfinite(area) and abs(area) > _LEAST and all(abs(one) > _LEAST for one in y)):
        raise ValueError(f"chromaticities {chromaticities}")
    return chromaticities


def _refuse_kinds(flags: int, name: str) -> None:
    for bit, what, instead in (
        (_DEEP_DATA, "deep data (several samples a pixel)", "flatten it"),
        (_SEVERAL_PARTS, "several parts", "save the part with the picture as a file of its own"),
    ):
        if flags & bit:
            raise UnsupportedFormatError(f"{name}: this EXR has {what}, not taken; {instead} first")


def _refuse_dwa(
    attributes: Mapping[str, bytes], channels: Mapping[str, tuple[int, int, int]], name: str
) -> None:
    """libav makes noise of it, without a word."""
    kind, *_ = channels.get("A", (_HALF, 1, 1))
    if kind != _HALF and attributes["compression"][0] in _DWA:
        raise UnsupportedFormatError(
            f"{name}: this EXR has alpha of floats, compressed by DWA, which cannot be read here; "
            "save it with ZIP or PIZ"
        )


def _refuse_samples(
    header: ExrHeader, channels: Mapping[str, tuple[int, int, int]], name: str
) -> None:
    if not 0 < header.width * header.height <= MAX_PIXELS or header.width < 1:
        raise UnsupportedFormatError(
            f"{name}: the picture has {header.width}x{header.height} pixels, at most {MAX_PIXELS} "
            "are taken; make it smaller first"
        )
    used = _COLOURS if channels.keys() >= _COLOURS else frozenset("Y")
    if not channels.keys() >= used or {"RY", "BY"} & channels.keys():
        told = ", ".join(sorted(channels)[:8]) or "none"
        raise UnsupportedFormatError(
            f"{name}: this EXR has no channels R, G and B, nor Y alone (it has {told}); save the "
            "colours under these names"
        )
    if any(channels[one][0] not in _HALF_AND_FLOAT or channels[one][1:] != (1, 1) for one in used):
        raise UnsupportedFormatError(
            f"{name}: the channels of this EXR are no half or float of full resolution; save them "
            "so"
        )


def _num_blocks(attributes: Mapping[str, bytes], *, tiled: bool) -> int:
    """How many blocks the picture is coded in; of pyramids, those of its full size."""
    left, top, right, bottom = _BOX.unpack(attributes["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    if not 0 < width * height <= MAX_PIXELS or width < 1:
        raise ValueError(f"a data window of {width}x{height}")
    if tiled:
        across, down, _ = _TILES.unpack(attributes["tiles"])
        blocks = math.ceil(width / across) * math.ceil(height / down)
    else:
        blocks = math.ceil(height / _LINES[attributes["compression"][0]])
    if blocks > _MOST_BLOCKS:
        raise ValueError(f"{blocks} blocks")
    return blocks


def num_bytes_of(header: ExrHeader, read_at: Callable[[int, int], bytes]) -> int:
    """How many bytes the file of a picture has at least, if it is whole.

    libav would show what is there of a file that was cut off.

    Args:
        header: of the picture.
        read_at: gives bytes of the file, by place and number.

    Raises:
        struct.error, ValueError: its list of blocks is not there, or not whole.
    """
    table = read_at(header.table_at, 8 * header.blocks)
    places = struct.unpack(f"<{header.blocks}Q", table)
    if min(places) < header.table_at + len(table):
        raise ValueError("some of its blocks were never written")
    head = _TILE_HEAD if header.tiled else _LINE_HEAD
    last = max(places)
    size = head.unpack(read_at(last, head.size))[-1]
    return last + head.size + max(0, size)


def _attributes(content: bytes) -> tuple[dict[str, bytes], int]:
    """Name -> value of each attribute of a header with one part; and where the header ends."""
    found: dict[str, bytes] = {}
    at = 2 * _INT.size
    while content[at]:
        name, at = _text(content, at)
        _, at = _text(content, at)
        (size,) = _INT.unpack_from(content, at)
        at += _INT.size
        if size < 0 or at + size > len(content):
            raise ValueError(f"{name} ends behind the file's end")
        found[name] = content[at : at + size]
        at += size
    return found, at + 1


def _text(content: bytes, at: int) -> tuple[str, int]:
    end = content.index(b"\0", at, at + _LONGEST_NAME)
    return content[at:end].decode("ascii", "replace"), end + 1


def _channels(value: bytes) -> dict[str, tuple[int, int, int]]:
    """Name -> kind of its samples, and every how many pixels it has one, across and down."""
    found: dict[str, tuple[int, int, int]] = {}
    at = 0
    while value[at]:
        name, at = _text(value, at)
        kind, _, across, down = _CHANNEL.unpack_from(value, at)
        at += _CHANNEL.size
        found[name] = (kind, across, down)
    return found


def chromaticities_of(primaries: int) -> tuple[float, ...]:
    """x and y of red, green, blue and white, as a file of our own has them.

    Args:
        primaries: H.273 code.
    """
    return _CORNERS.unpack(_CORNERS.pack(*_CORNERS_OF.get(primaries, BT709_XY)))


def with_chromaticities(content: bytes, primaries: int) -> bytes:
    """A picture of our own making with the attribute that says what its colours are.

    Args:
        content: scan lines in one part, without such an attribute.
        primaries: H.273 code.
    """
    added = _ADDED + _CORNERS.pack(*_CORNERS_OF.get(primaries, BT709_XY))
    header = read_exr_header(content, "picture")
    end, table = header.table_at - 1, 8 * header.blocks
    places = struct.unpack_from(f"<{header.blocks}Q", content, header.table_at)
    moved = struct.pack(f"<{header.blocks}Q", *(place + len(added) for place in places))
    rest = content[header.table_at + table :]
    return content[:end] + added + content[end : header.table_at] + moved + rest
