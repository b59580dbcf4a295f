"""OpenEXR pictures: linear light, half or float, becomes R'G'B' of sRGB with 16 bits a sample.

libav decodes the samples; what it does not tell stands in the header (`exr_header.py`). The
matrices follow SMPTE RP 177 and Bradford.
"""

import io
import struct
from collections.abc import Mapping

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.video.foreign import libav_heard
from seedvr2_core.video.picture.exr_header import BT709_XY, num_bytes_of, read_exr_header
from seedvr2_core.video.picture.light import (
    LINEAR,
    SRGB,
    coded_of,
    is_light,
    planes_of_light,
    straight_light,
)
from seedvr2_core.video.picture.still import MAX_PIXELS, StillFacts

LINEAR_TOLD = (
    "linear light is coded with the transfer of sRGB, 16 bits a sample; what lies above 1.0 or "
    "below 0 is clipped"
)
"""What is said of every EXR picture."""
_SAME = 2e-3
"""Chromaticities that differ by less are taken as equal."""
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_ROWS = 256
"""That are worked through at once."""
_OPAQUE = 1 - 2**-11


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
        clipped = float(np.mean(_outside(self._linear()[0])))
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
        return np.allclose(self._header.chromaticities, BT709_XY, atol=_SAME)

    def upright(self) -> np.ndarray:
        """Its pixels: (height, width, 3 or 4) uint16 with the transfer of sRGB, alpha straight."""
        linear, alpha = self._linear()
        channels = 3 if alpha is None else 4
        coded = np.empty((*linear.shape[:2], channels), np.uint16)
        for at in range(0, len(linear), _ROWS):
            coded[at : at + _ROWS, :, :3] = coded_of(linear[at : at + _ROWS], SRGB)
            if alpha is not None:
                coded[at : at + _ROWS, :, 3] = coded_of(alpha[at : at + _ROWS], LINEAR)
        return coded

    def _linear(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(height, width, 3) float32, linear light of BT.709's primaries, not clipped; and alpha.

        In an EXR colours are multiplied by alpha; here they are divided by it, and black where
        nothing is visible.

        Raises:
            InvalidVideoError: it is damaged.
        """
        planes = self._planes()
        linear = np.stack(planes[:3] if len(planes) >= 3 else [planes[0]] * 3, axis=2)
        if not self._is_bt709 and len(planes) >= 3:
            matrix = to_bt709(self._header.chromaticities)
            linear = linear @ matrix.T.astype(np.float32)
        if len(planes) not in (2, 4):
            return linear, None
        alpha = planes[-1]
        if alpha.size and float(alpha.min()) >= _OPAQUE:
            return linear, np.ones_like(alpha)
        return straight_light(linear, alpha), alpha

    def _planes(self) -> list[np.ndarray]:
        """R, G, B (or Y), and alpha if there is one: (height, width) float32 each."""
        try:
            # Lines that cannot be unpacked are logged and left black, so the log is listened to:
            # that of this thread.
            with (
                libav_heard() as logged,
                av.open(io.BytesIO(self._content), "r", format="exr_pipe") as container,
            ):
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
                frame = next(container.decode(stream))
        except (av.error.FFmpegError, StopIteration, ValueError, IndexError) as error:
            raise self._unreadable(str(error)) from error
        if logged:
            raise self._unreadable(logged[0][2].strip())
        assert isinstance(frame, VideoFrame)
        if not is_light(frame.format.name):
            raise UnsupportedFormatError(
                f"{self._name}: EXR pictures in the form {frame.format.name} are not taken"
            )
        return planes_of_light(frame)

    def _unreadable(self, why: str) -> InvalidVideoError:
        return InvalidVideoError(
            f"{self._name}: this EXR picture cannot be read ({why}); it is damaged, cut off or "
            "compressed in a rare way: save it with ZIP or PIZ"
        )


def _cut_off(name: str, why: str) -> InvalidVideoError:
    return InvalidVideoError(f"{name}: this EXR picture is cut off or damaged ({why})")


def _outside(linear: np.ndarray) -> np.ndarray:
    return ~((linear >= 0) & (linear <= 1))  # also what is no number


def to_bt709(chromaticities: tuple[float, ...]) -> np.ndarray:
    """(3, 3): linear R, G, B of these chromaticities -> those of BT.709, white on white."""
    source, target = _to_xyz(chromaticities), _to_xyz(BT709_XY)
    white, wanted = _BRADFORD @ source.sum(axis=1), _BRADFORD @ target.sum(axis=1)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(wanted / white) @ _BRADFORD
    return np.linalg.inv(target) @ adapted @ source


def _to_xyz(chromaticities: tuple[float, ...]) -> np.ndarray:
    """(3, 3): R, G, B -> X, Y, Z, with Y = 1 for white."""
    x, y = np.array(chromaticities).reshape(4, 2).T
    corners = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    strength = np.linalg.solve(corners[:, :3], corners[:, 3])
    return corners[:, :3] * strength
