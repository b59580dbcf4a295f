"""Colour of a source: resolves its tags, refuses unsupported kinds, gives swscale its numbers.

Codes are those of ITU-T H.273 (FFmpeg's AVCOL_*).
"""

from dataclasses import dataclass

from av.video.format import VideoFormat
from av.video.reformatter import ColorRange, Interpolation

from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.video.info import BT2020, HDR_TRANSFERS, ColorInfo
from seedvr2_core.video.output.formats import is_rgb_format

BT709, UNSPECIFIED, BT470BG, SMPTE170M = 1, 2, 5, 6
_UNKNOWN = (0, UNSPECIFIED, 3)
"""Codes of primaries and transfers that say nothing."""

# H.273 matrix -> swscale's own number (SWS_CS_*).
_SWS_COLORSPACE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, BT2020: 9}

_MATCHING_TAGS = {1: (1, 1), 4: (4, 4), 5: (5, 6), 6: (6, 6), 7: (7, 7), BT2020: (BT2020, 14)}
"""Matrix -> (primaries, transfer) of the same standard, for tags that are missing."""

_RARE_MATRICES = {8: "YCgCo colours", 10: "BT.2020 constant luminance", 14: "ICtCp colours"}

# Measured against the formulas on 4:2:0: mean error 0.25 levels (rounding alone), no bias, chroma
# interpolated at its own place. Without these flags swscale repeats chroma and truncates (bias -0.5
# to -1.4 levels); bicubic costs twice the time and overshoots at chroma edges.
TO_RGB = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
# For the way back. A picture converted there and back has a mean error of 0.06 levels, a bias of
# 0.02, and its chroma in place. Bilinear with accurate rounding has an error of 0.09 and takes 1.7
# times as long; without accurate rounding it has a bias.
FROM_RGB = Interpolation.AREA | Interpolation.FULL_CHR_H_INP


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorTags:
    """Colour tags as the file has them; each may be unspecified."""

    range: int
    matrix: int
    primaries: int
    transfer: int


def has_alpha(pix_fmt: str) -> bool:
    """Whether the pixel format has an alpha plane or channel, or a palette that has one."""
    return pix_fmt == "pal8" or any(
        component.is_alpha for component in VideoFormat(pix_fmt).components
    )


def bit_depth(pix_fmt: str) -> int:
    """Bits of the deepest component; a palette counts as 8."""
    if pix_fmt == "pal8":
        return 8
    return max(component.bits for component in VideoFormat(pix_fmt).components)


def refuse_unsupported(name: str, tags: ColorTags) -> None:
    """Refuse colour that this system cannot carry through.

    Raises:
        UnsupportedFormatError: a matrix that swscale does not know.
    """
    if tags.matrix in _UNKNOWN or tags.matrix in _SWS_COLORSPACE:
        return
    kind = _RARE_MATRICES.get(tags.matrix, f"colour matrix {tags.matrix}")
    raise UnsupportedFormatError(
        f"{name}: video with {kind} is not supported; convert it to BT.709 or, if it is HDR, to "
        "BT.2020 with non-constant luminance first"
    )


def resolve_color(tags: ColorTags, *, pix_fmt: str, width: int, height: int) -> ColorInfo:
    """Complete the colour tags: what is tagged stays, gaps are filled with what players assume.

    For R'G'B' sources the result says how the Y'CbCr output has to be tagged.

    Args:
        tags: from the first decoded frame.
        pix_fmt: FFmpeg's name.
        width: coded, in pixels.
        height: coded, in pixels.
    """
    rgb = is_rgb_format(pix_fmt)
    matrix, hdr = tags.matrix, tags.transfer in HDR_TRANSFERS
    if rgb or matrix not in _SWS_COLORSPACE:
        wide = tags.primaries == BT2020 or (hdr and tags.primaries in _UNKNOWN)
        matrix = BT2020 if wide else _matrix_by_size(width, height)
    primaries, transfer = _MATCHING_TAGS[matrix]
    if hdr:
        primaries = BT2020
    full = pix_fmt.startswith("yuvj") or tags.range == ColorRange.JPEG
    return ColorInfo(
        full_range=full and not rgb,
        matrix=matrix,
        primaries=primaries if tags.primaries in _UNKNOWN else tags.primaries,
        transfer=transfer if tags.transfer in _UNKNOWN else tags.transfer,
    )


def _matrix_by_size(width: int, height: int) -> int:
    """What players assume for an untagged picture: HD is BT.709, PAL and NTSC are BT.601."""
    if height >= 720 or width >= 1280:
        return BT709
    return BT470BG if height == 576 else SMPTE170M


def sws_colorspace(matrix: int) -> int:
    """swscale's number of an H.273 matrix that `resolve_color` may give."""
    return _SWS_COLORSPACE[matrix]


def sws_range(full_range: bool) -> int:
    """swscale's number of a range."""
    return int(ColorRange.JPEG if full_range else ColorRange.MPEG)
