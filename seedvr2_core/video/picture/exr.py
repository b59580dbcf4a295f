"""OpenEXR pictures: linear light, half or float, becomes R'G'B' of sRGB with 16 bits a sample.

libav decodes the samples; what it does not tell stands in the header, which is read here: parts,
depth, channels, and which red, green and blue are meant. OpenEXR is laid out in
openexr.com/en/latest/OpenEXRFileLayout.html; the matrices follow SMPTE RP 177 and Bradford.
"""

import io
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.video.picture.still import EXR_START, MAX_PIXELS, StillFacts

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
_HALF_AND_FLOAT = (1, 2)
_COLOURS = frozenset("RGB")
_BT709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
"""x and y of red, green, blue and white: what a file means that says nothing."""
_SAME = 2e-3
"""Chromaticities that differ by less are taken as equal."""
_LEAST = 1e-4
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_ROWS = 256
"""That are worked through at once."""
_OPAQUE = 1 - 2**-11
_MOST = 65535


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
        told = attributes.get("chromaticities")
        chromaticities = _BT709 if told is None else _checked(_CORNERS.unpack(told))
    except (struct.error, KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, InvalidVideoError):
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
    x, y = np.array(chromaticities).reshape(4, 2).T
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    if not (np.isfinite(area) and abs(area) > _LEAST and (np.abs(y) > _LEAST).all()):
        raise ValueError(f"chromaticities {chromaticities}")
    return chromaticities


def _refuse_kinds(flags: int, name: str) -> None:
    for bit, what, instead in (
        (_DEEP_DATA, "deep data (several samples a pixel)", "flatten it"),
        (_SEVERAL_PARTS, "several parts", "save the part with the picture as a file of its own"),
    ):
        if flags & bit:
            raise UnsupportedFormatError(f"{name}: this EXR has {what}, not taken; {instead} first")


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


class ExrPicture:
    """An EXR picture; has what `pixels._Still` has."""

    colour_chunks: Mapping[bytes, bytes] = {}

    def __init__(self, content: bytes, name: str) -> None:
        """Read the header.

        Raises: as `read_exr_header`.
        """
        self._content, self._name = content, name
        self._header = read_exr_header(content, name)
        try:
            need = num_bytes_of(self._header, lambda at, count: content[at : at + count])
        except (struct.error, ValueError) as error:
            raise _cut_off(name, str(error)) from error
        if need > len(content):
            raise _cut_off(name, f"{len(content)} of at least {need} bytes are there")

    def facts(self) -> StillFacts:
        """What it says of itself; it is decoded to know what does not fit."""
        clipped = float(np.mean(_outside(self._linear())))
        notes = [LINEAR_TOLD]
        if clipped:
            notes.append(
                f"{max(clipped, 0.0001):.2%} of the picture's samples lie above 1.0 or below 0 and "
                "were clipped"
            )
        if not self._is_bt709:
            notes.append("the picture's red, green and blue are not those of sRGB; converted")
        return StillFacts(kind="exr", notes=tuple(notes))

    @property
    def _is_bt709(self) -> bool:
        return np.allclose(self._header.chromaticities, _BT709, atol=_SAME)

    def upright(self) -> np.ndarray:
        """Its pixels: (height, width, 3) uint16 with the transfer of sRGB."""
        linear = self._linear()
        coded = np.empty(linear.shape, np.uint16)
        for at in range(0, len(linear), _ROWS):
            coded[at : at + _ROWS] = _as_srgb(linear[at : at + _ROWS])
        return coded

    def _linear(self) -> np.ndarray:
        """(height, width, 3) float32, linear light of BT.709's primaries, not clipped.

        Raises:
            InvalidVideoError: it is damaged.
            UnsupportedFormatError: it lets something show through.
        """
        planes = self._planes()
        if len(planes) in (2, 4):
            self._refuse_transparent(planes[-1])
        linear = np.stack(planes[:3] if len(planes) >= 3 else [planes[0]] * 3, axis=2)
        if not self._is_bt709 and len(planes) >= 3:
            matrix = to_bt709(self._header.chromaticities)
            linear = linear @ matrix.T.astype(np.float32)
        return linear

    def _planes(self) -> list[np.ndarray]:
        """R, G, B (or Y), and alpha if there is one: (height, width) float32 each."""
        try:
            with av.open(io.BytesIO(self._content), "r", format="exr_pipe") as container:
                stream = container.streams.video[0]
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
                frame = next(container.decode(stream))
        except (av.error.FFmpegError, StopIteration, ValueError, IndexError) as error:
            raise InvalidVideoError(
                f"{self._name}: this EXR picture cannot be read ({error}); it is damaged, cut off "
                "or compressed in a rare way: save it with ZIP or PIZ"
            ) from error
        assert isinstance(frame, VideoFrame)
        order = [2, 0, 1, 3] if len(frame.planes) >= 3 else [0, 1]  # libav's are green, blue, red
        kind = np.float16 if "f16" in frame.format.name else np.float32
        if "f32" not in frame.format.name and kind is np.float32:
            raise UnsupportedFormatError(
                f"{self._name}: EXR pictures in the form {frame.format.name} are not taken"
            )
        found: list[np.ndarray] = []
        for index in order[: len(frame.planes)]:
            plane = frame.planes[index]
            rows = np.frombuffer(bytes(plane), kind).reshape(frame.height, -1)
            found.append(rows[:, : frame.width].astype(np.float32))
        return found

    def _refuse_transparent(self, alpha_HW: np.ndarray) -> None:
        if alpha_HW.size and float(alpha_HW.min()) < _OPAQUE:
            raise UnsupportedFormatError(
                f"{self._name}: the picture is transparent in places (alpha), which would be lost; "
                "put it on a background first and save it without transparency"
            )


def _cut_off(name: str, why: str) -> InvalidVideoError:
    return InvalidVideoError(f"{name}: this EXR picture is cut off or damaged ({why})")


LINEAR_TOLD = (
    "linear light is coded with the transfer of sRGB, 16 bits a sample; what lies above 1.0 or "
    "below 0 is clipped"
)
"""What is said of every EXR picture."""


def _outside(linear: np.ndarray) -> np.ndarray:
    return ~((linear >= 0) & (linear <= 1))  # also what is no number


def _as_srgb(linear: np.ndarray) -> np.ndarray:
    """uint16 of linear light, with the transfer of IEC 61966-2-1; what is no number is black."""
    light = np.clip(np.nan_to_num(linear, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(coded * _MOST).astype(np.uint16)


def to_bt709(chromaticities: tuple[float, ...]) -> np.ndarray:
    """(3, 3): linear R, G, B of these chromaticities -> those of BT.709, white on white."""
    source, target = _to_xyz(chromaticities), _to_xyz(_BT709)
    white, wanted = _BRADFORD @ source.sum(axis=1), _BRADFORD @ target.sum(axis=1)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(wanted / white) @ _BRADFORD
    return np.linalg.inv(target) @ adapted @ source


def _to_xyz(chromaticities: tuple[float, ...]) -> np.ndarray:
    """(3, 3): R, G, B -> X, Y, Z, with Y = 1 for white."""
    x, y = np.array(chromaticities).reshape(4, 2).T
    corners = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    strength = np.linalg.solve(corners[:, :3], corners[:, 3])
    return corners[:, :3] * strength
