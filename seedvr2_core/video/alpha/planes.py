"""Alpha planes in libav's pictures: taken out of those that are decoded, put into those to encode.

Shape legend: H W pixels.
"""

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from seedvr2_core.video.picture.color import has_alpha

_OWN_PLANE = 3
"""Of alpha, in formats that have one."""
_MOST_BITS = 16


def alpha_of(picture: VideoFrame, dtype: np.dtype) -> np.ndarray | None:
    """The alpha of a decoded picture: (H, W), uint8 or uint16, its most is opaque.

    Args:
        picture: as decoded.
        dtype: of the result.

    Returns:
        None if the picture's format has none.
    """
    name = picture.format.name
    if not has_alpha(name):
        return None
    alpha = next((part for part in VideoFormat(name).components if part.is_alpha), None)
    if alpha is None or alpha.plane != _OWN_PLANE or alpha.bits > _MOST_BITS:
        bits = 16 if alpha is not None and alpha.bits > 8 else 8
        packed = VideoReformatter().reformat(
            picture, format="rgba" if bits == 8 else "rgba64le", threads=1
        )
        return rescaled(packed.to_ndarray()[:, :, 3], bits, dtype)
    kind = np.dtype(np.uint8 if alpha.bits <= 8 else (">u2" if name.endswith("be") else "<u2"))
    return rescaled(levels_of(picture.planes[_OWN_PLANE], kind), alpha.bits, dtype)


def rescaled(levels: np.ndarray, bits: int, dtype: np.dtype) -> np.ndarray:
    """Levels of so many bits with the most that `dtype` holds as their most; rounded, a copy."""
    old, new = 2**bits - 1, int(np.iinfo(dtype).max)
    if old == new:
        return levels.astype(dtype)
    if not new % old:
        return levels.astype(dtype) * dtype.type(new // old)
    return ((levels.astype(np.uint32) * new + old // 2) // old).astype(dtype)


def to_bits(levels: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `rescaled`: uint8 or uint16 levels as an encoder of `bits` wants them."""
    old, new = int(np.iinfo(levels.dtype).max), 2**bits - 1
    kind = np.uint8 if bits <= 8 else np.uint16
    if old == new:
        return levels.astype(kind)
    return ((levels.astype(np.uint32) * new + old // 2) // old).astype(kind)


def levels_of(plane: VideoPlane, kind: np.dtype) -> np.ndarray:
    """(height, width) of a plane whose samples are of this kind, sharing its memory."""
    # A plane is a buffer, which its type does not say.
    samples = np.frombuffer(plane, kind)  # type: ignore[call-overload]
    rows = samples.reshape(-1, plane.line_size // kind.itemsize)
    return rows[: plane.height, : plane.width]


def write_plane(plane: VideoPlane, levels: np.ndarray) -> None:
    """Fill a plane with levels of its size."""
    levels_of(plane, levels.dtype)[:] = levels
