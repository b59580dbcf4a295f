"""Between our 16-bit R'G'B', where 65535 is white, and that of swscale, where it is less.

swscale makes 16 bits of fewer by shifting, so white of video range becomes 235 -> 255 << 8 = 65280,
and white of 10 bits of full range 1023 << 6 = 65472. Left as it is, a picture would be up to 0.4 %
too dark for the engines and, on the way back, too bright by up to 1.7 of 1023 levels. Measured with
these steps there and back: at most 0.6 levels of the depth that is written.
"""

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from seedvr2_core.video.output.formats import is_rgb_format
from seedvr2_core.video.picture.color import bit_depth

_WIDE_BITS = 16
_ROWS = 64
"""Rows at once: what is computed of them stays in the processor's caches."""
_VIDEO_RANGE_BITS = 8
"""Video range is defined for eight bits; more bits are appended."""


def shifted_bits(pix_fmt: str, *, full_range: bool) -> int:
    """Of how many bits swscale makes 16 by shifting; 16 where white is white.

    Args:
        pix_fmt: FFmpeg's name, of what swscale reads or writes beside 16-bit R'G'B'.
        full_range: of its Y'CbCr. Grey pictures have full range for swscale, whatever is said.
    """
    if is_rgb_format(pix_fmt):
        return min(_WIDE_BITS, bit_depth(pix_fmt))
    grey = len([part for part in VideoFormat(pix_fmt).components if not part.is_alpha]) == 1
    return bit_depth(pix_fmt) if full_range or grey else _VIDEO_RANGE_BITS


def rgb_planes(picture: VideoFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Red, green and blue of a gbrp16le picture, each (H, W) uint16, sharing its memory."""
    # A plane is a buffer, which its type does not say.
    green, blue, red = (
        np.frombuffer(plane, np.uint16).reshape(-1, plane.line_size // 2)  # type: ignore[call-overload]
        for plane in picture.planes
    )
    height, width = picture.height, picture.width
    return red[:height, :width], green[:height, :width], blue[:height, :width]


def from_shifted(levels: np.ndarray, bits: int, out: np.ndarray) -> None:
    """swscale's uint16 levels, whose white is 2 ** bits - 1 shifted, with 65535 as white.

    Args:
        levels: uint16 of any shape.
        bits: from `shifted_bits`.
        out: takes the result, of the same shape.
    """
    if bits >= _WIDE_BITS:
        out[:] = levels
        return
    white = (2**bits - 1) << (_WIDE_BITS - bits)
    np.minimum(levels, white, out=out)
    out += out >> bits


def to_shifted(levels: np.ndarray, bits: int, out: np.ndarray) -> None:
    """The inverse of `from_shifted`."""
    if bits >= _WIDE_BITS:
        out[:] = levels
        return
    for start in range(0, len(levels), _ROWS):
        rows = levels[start : start + _ROWS]
        np.subtract(rows, rows >> bits, out=out[start : start + _ROWS])
