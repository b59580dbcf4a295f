"""HDR metadata: read from what a decoder tells, written for encoders and into mp4 files.

PyAV can hand neither an encoder nor a muxer this metadata. x265 and SVT-AV1 take it as text and
write it into the stream; for players that look only at the container, the boxes `mdcv` and `clli`
(ISO/IEC 14496-12) are put into the segment's header after it was written. The output's header is
made from the first segment's, in mp4 as in Matroska, so they arrive there.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.video.info import HdrMetadata

_CHROMATICITY_UNITS, LUMINANCE_UNITS = 50_000, 10_000
"""Of a chromaticity's 1, and of 1 cd/m2: HDR metadata has whole numbers of them."""
_MASTERING = struct.Struct("=20i2i")
"""libavutil's AVMasteringDisplayMetadata: ten ratios, and which of them are known."""
_LIGHT = struct.Struct("=2I")
"""libavutil's AVContentLightMetadata."""
_HEAD = struct.Struct(">I4s")
_LARGE = struct.Struct(">Q")
_WAY = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_STSD_HEAD_BYTES = 8
_MOST_HEADER_BYTES = 2**28


def hdr_of(beside: Mapping[str, bytes]) -> HdrMetadata | None:
    """What a decoder tells beside a picture; None if it is nothing.

    Args:
        beside: kind of side data -> content, from `side_data`.
    """
    mastering = _mastering(beside.get("MASTERING_DISPLAY_METADATA", b""))
    light = beside.get("CONTENT_LIGHT_LEVEL", b"")
    level = _LIGHT.unpack_from(light) if len(light) >= _LIGHT.size else None
    if level is not None and not any(level):
        level = None
    return HdrMetadata(mastering=mastering, light_level=level) if mastering or level else None


def _mastering(content: bytes) -> tuple[int, ...] | None:
    """The ten numbers, if all are known."""
    if len(content) < _MASTERING.size:
        return None
    *ratios, has_primaries, has_luminance = _MASTERING.unpack_from(content)
    if not (has_primaries and has_luminance) or not all(ratios[1::2]):
        return None
    # libav orders them red, green, blue, white, lowest, highest luminance.
    units = [_CHROMATICITY_UNITS] * 8 + [LUMINANCE_UNITS] * 2
    numbers = [round(ratios[2 * i] * unit / ratios[2 * i + 1]) for i, unit in enumerate(units)]
    return (*numbers[:8], numbers[9], numbers[8])


def x265_hdr(hdr: HdrMetadata | None) -> dict[str, object]:
    """Parameters by which x265 writes the metadata into its header."""
    if hdr is None:
        return {}
    told: dict[str, object] = {"hdr10": 1}
    if hdr.mastering:
        red, green, blue, white = _points(hdr.mastering)
        high, low = hdr.mastering[8:]
        told["master-display"] = f"G{green}B{blue}R{red}WP{white}L({high},{low})"
    if hdr.light_level:
        told["max-cll"] = "{},{}".format(*hdr.light_level)
    return told


def svtav1_hdr(hdr: HdrMetadata | None) -> dict[str, object]:
    """The same for SVT-AV1, which takes units of 1 and cd/m2."""
    told: dict[str, object] = {}
    if hdr is not None and hdr.mastering:
        points = [value / _CHROMATICITY_UNITS for value in hdr.mastering[:8]]
        red, green, blue, white = (
            f"({x:.5f},{y:.5f})" for x, y in zip(points[::2], points[1::2], strict=True)
        )
        high, low = (value / LUMINANCE_UNITS for value in hdr.mastering[8:])
        told["mastering-display"] = f"G{green}B{blue}R{red}WP{white}L({high:.4f},{low:.4f})"
    if hdr is not None and hdr.light_level:
        told["content-light"] = "{},{}".format(*hdr.light_level)
    return told


def _points(mastering: tuple[int, ...]) -> list[str]:
    return [f"({mastering[i]},{mastering[i + 1]})" for i in range(0, 8, 2)]


def add_hdr_boxes(path: Path, hdr: HdrMetadata) -> None:
    """Put the metadata into the header of an mp4 that ends with it, as those of segments do.

    Raises:
        SegmentError: the file does not end with a header that describes a video.
    """
    with path.open("r+b") as file:
        start = position = 0
        kind = b""
        while head := file.read(_HEAD.size):
            size, kind = _HEAD.unpack(head)
            if size == 1:
                (size,) = _LARGE.unpack(file.read(_LARGE.size))
            start, position = position, position + size
            file.seek(position)
        if kind != b"moov" or position - start > _MOST_HEADER_BYTES:
            raise SegmentError(f"{path.name}: its header is not where HDR metadata can be added")
        file.seek(start)
        movie = file.read()
        file.seek(start)
        file.write(_with_boxes(movie, _hdr_boxes(hdr)))


def _hdr_boxes(hdr: HdrMetadata) -> bytes:
    """The boxes `mdcv` (green first) and `clli`."""
    boxes = b""
    if hdr.mastering:
        red, green, blue, rest = (hdr.mastering[i:j] for i, j in ((0, 2), (2, 4), (4, 6), (6, 10)))
        boxes += _HEAD.pack(32, b"mdcv") + struct.pack(">8H2I", *green, *blue, *red, *rest)
    if hdr.light_level:
        boxes += _HEAD.pack(12, b"clli") + struct.pack(
            ">2H", *(min(v, 0xFFFF) for v in hdr.light_level)
        )
    return boxes


def _with_boxes(movie: bytes, boxes: bytes) -> bytes:
    """The header with boxes behind those of its only sample entry, all sizes corrected."""
    changed = bytearray(movie)
    at, stop = 0, len(movie)
    for kind in (*_WAY, b""):
        at = _find(changed, at, stop, kind)
        (size,) = struct.unpack_from(">I", changed, at)
        stop = at + size
        struct.pack_into(">I", changed, at, size + len(boxes))
        at += _HEAD.size + (_STSD_HEAD_BYTES if kind == b"stsd" else 0)
    changed[stop:stop] = boxes
    return bytes(changed)


def _find(content: bytearray, at: int, stop: int, kind: bytes) -> int:
    """Where a box of this kind, or of any if it is b"", begins."""
    while at + _HEAD.size <= stop:
        size, found = _HEAD.unpack_from(content, at)
        if found == kind or not kind:
            return at
        at += max(size, _HEAD.size)
    raise SegmentError(f"a segment's header has no box {kind.decode() or 'of a codec'}")
