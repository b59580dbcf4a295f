"""Colour of a source: resolves its tags, refuses unsupported kinds, gives swscale its numbers.

Codes are those of ITU-T H.273 (FFmpeg's AVCOL_*).
"""

from dataclasses import dataclass

from av.video.format import VideoFormat
from av.video.reformatter import ColorRange, Interpolation

from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.video.info import ColorInfo

BT709, UNSPECIFIED, BT470BG, SMPTE170M, BT2020_NCL, BT2020_CL = 1, 2, 5, 6, 9, 10
_BT2020_PRIMARIES = 9
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

# H.273 matrix -> swscale's own number (SWS_CS_*).
_SWS_COLORSPACE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7}

_MATCHING_TAGS = {1: (1, 1), 4: (4, 4), 5: (5, 6), 6: (6, 6), 7: (7, 7)}
"""Matrix -> (primaries, transfer) of the same standard, for tags that are missing."""

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


def is_rgb_format(pix_fmt: str) -> bool:
    """Whether the pixel format stores R'G'B' (palettes included), not Y'CbCr or grey."""
    return VideoFormat(pix_fmt).is_rgb or pix_fmt == "pal8"


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
        UnsupportedFormatError: HDR, BT.2020 or a matrix that swscale does not know.
    """
    if tags.transfer in _HDR_TRANSFERS:
        kind = f"HDR video ({_HDR_TRANSFERS[tags.transfer]} transfer)"
    elif tags.primaries == _BT2020_PRIMARIES or tags.matrix in (BT2020_NCL, BT2020_CL):
        kind = "wide-gamut video (BT.2020)"
    elif tags.matrix not in (0, UNSPECIFIED, 3) and tags.matrix not in _SWS_COLORSPACE:
        kind = f"video with colour matrix {tags.matrix}"
    else:
        return
    raise UnsupportedFormatError(
        f"{name}: {kind} is not supported yet; convert it to SDR BT.709 first"
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
    matrix = tags.matrix
    if rgb or matrix not in _SWS_COLORSPACE:
        matrix = _matrix_by_size(width, height)
    primaries, transfer = _MATCHING_TAGS[matrix]
    full = pix_fmt.startswith("yuvj") or tags.range == ColorRange.JPEG
    return ColorInfo(
        full_range=full and not rgb,
        matrix=matrix,
        primaries=primaries if tags.primaries in (0, UNSPECIFIED, 3) else tags.primaries,
        transfer=transfer if tags.transfer in (0, UNSPECIFIED, 3) else tags.transfer,
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
