"""The common scale of quality, x264's CRF, in the numbers that each encoder has of its own."""

import itertools
from collections.abc import Mapping, Sequence

_LEAST_X264_CRF = 1
"""With 0 it would be lossless, for which the profile High has no place."""
_LEAST_AV1_CRF, _MOST_AV1_CRF = 4, 63
_MOST_NVENC_CQ: Mapping[str, int] = {"h264": 51, "hevc": 51, "av1": 63}
"""Of its scale of constant quality; 0 would let it choose."""
_MOST_JPEG = 31
"""libav's coarsest quantiser."""
_WEBP = ((0, 100), (12, 82), (18, 70), (23, 44), (28, 15), (34, 2), (40, 0))
"""CRF of x264, and the quality of libwebp that is as good: PSNR of the luma, three clips."""
_VP9 = ((0, 0), (4, 4), (12, 13), (18, 26), (23, 36), (28, 45), (34, 56), (40, 63))
"""CRF of x264, and that of libvpx that is as good: PSNR of the luma, 24 frames of five clips
(`python -m benchmarks.media.scales`). From 40 on x264 is worse than libvpx can be."""
_VP9_AS_BEFORE = 34
"""Up to here earlier versions took the same numbers."""


def x264_crf(crf: int) -> int:
    """x264's own CRF."""
    return max(_LEAST_X264_CRF, crf)


def av1_crf(crf: int) -> int:
    """SVT-AV1's own CRF for the quality that x264 has with this one.

    Measured on a clip (50 frames, VMAF and PSNR of the luma): 18 is as good as 16 there, and 28 as
    49.
    """
    return (
        max(_LEAST_AV1_CRF, round(16 * crf / 18))
        if crf <= 18
        else min(_MOST_AV1_CRF, round(16 + 3.3 * (crf - 18)))
    )


def nvenc_cq(codec: str, crf: int) -> int:
    """The encoder's own quality for a CRF of x264: the same share of its scale, not measured."""
    return max(1, round(crf * _MOST_NVENC_CQ[codec] / 51))


def jpeg_quantiser(crf: int) -> int:
    """libav's quantiser, 1 the best, for the quality that x264 has with this CRF.

    It doubles every six steps, as x264's own does. Measured on pictures of three clips (PSNR of the
    luma): 18 is as good as 6 to 7, and 28 as 19.
    """
    return min(_MOST_JPEG, max(1, round(6 * 2 ** ((crf - 18) / 6))))


def webp_quality(crf: int) -> int:
    """libwebp's own scale, 100 the best, for the quality that x264 has with this CRF."""
    return _between(_WEBP, crf)


def vp9_crf(crf: int) -> int:
    """libvpx's own CRF, 0 the best, for the quality that x264 has with this one."""
    return _between(_VP9, crf)


def scale_told(codec: str, crf: int) -> dict[str, int]:
    """What keys have where earlier versions took another number for the same CRF."""
    return {"scale": 2} if codec == "vp9" and crf > _VP9_AS_BEFORE else {}


def _between(scale: Sequence[tuple[int, int]], crf: int) -> int:
    """What a scale has at a CRF, by straight lines; behind its end, its last value."""
    for (left, first), (right, last) in itertools.pairwise(scale):
        if crf <= right:
            return round(first + (last - first) * (crf - left) / (right - left))
    return scale[-1][1]
