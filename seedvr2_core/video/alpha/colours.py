"""Colours and alpha: what is put on a colour, shown to people, and filled before it is enlarged.

Alpha is straight, as PNG, WebP, FFV1 and WebM have it: a pixel's colour does not depend on it. So
colour and alpha can be enlarged apart, if the colour does not end where the alpha does. Files often
have black there, and black would be drawn into the edge of what is visible as a dark fringe.
Therefore hidden colours are replaced by what is around before anything is enlarged (`filled`).

Shape legend: H W pixels, 3 channels in R, G, B order.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from seedvr2_core.frames import Frame
from seedvr2_core.video.alpha.wish import BLACK

_HIDDEN_SHARE = 32
"""Below this part of full alpha a colour is mixed with those around: codecs leave traces of alpha
where there was none, with colours that nobody has seen."""
_SQUARE, _LIGHT, _DARK = 8, 204, 153
"""Side and levels of the squares that stand for nothing; people know them from image editors."""


def flattened(rgb: np.ndarray, alpha: np.ndarray, colour: str) -> np.ndarray:
    """The picture on a colour.

    Args:
        rgb: (H, W, 3) uint8 or uint16.
        alpha: (H, W) of the same type.
        colour: such as "#00ff00"; like all colours here, in the source's own R'G'B'.

    Returns:
        (H, W, 3) of the same type, rounded.
    """
    levels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    behind = np.broadcast_to(np.array(levels, np.uint32), rgb.shape)
    return _over(rgb, alpha, behind)


def shown(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The picture on grey squares, for people: (H, W, 3) of the same type."""
    rows, columns = (np.arange(side) // _SQUARE for side in alpha.shape)
    squares = (rows[:, None] + columns) % 2
    behind = np.where(squares, np.uint32(_DARK), np.uint32(_LIGHT))[..., None]
    return _over(rgb, alpha, np.broadcast_to(behind, rgb.shape))


def as_shown(frame: Frame) -> np.ndarray:
    """A frame as people are to see it: what is transparent is on grey squares."""
    return frame.rgb if frame.alpha is None else shown(frame.rgb, frame.alpha)


def on_black(frame: Frame) -> np.ndarray:
    """A frame of which nothing is left that its alpha hides."""
    return frame.rgb if frame.alpha is None else flattened(frame.rgb, frame.alpha, BLACK)


def each_plane(frame: Frame, change: Callable[[np.ndarray], np.ndarray]) -> Frame:
    """A frame whose colours (H, W, 3) and whose alpha (H, W) are changed in the same way."""
    alpha = None if frame.alpha is None else change(frame.alpha)
    return replace(frame, rgb=change(frame.rgb), alpha=alpha)


def _over(rgb: np.ndarray, alpha: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """The picture before another one, whose levels go up to 255."""
    white = np.uint32(np.iinfo(rgb.dtype).max)
    out_CHW = np.empty((3, *alpha.shape), rgb.dtype)
    wide = alpha.astype(np.uint32)
    for channel, out_HW in enumerate(out_CHW):
        back = behind[:, :, channel] * (white // np.uint32(255))
        mixed = rgb[:, :, channel] * wide + back * (white - wide)  # at most 2 ** 32 - 2 ** 17
        out_HW[:] = (mixed + white // 2) // white
    return _ordered(out_CHW)


def filled(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The picture with other colours where nothing shows: those of the visible pixels around.

    What is visible keeps its colour to the bit. The colours come from ever coarser means of the
    visible pixels, so they have no edges and depend on this picture alone.

    Args:
        rgb: (H, W, 3) uint8 or uint16.
        alpha: (H, W) of the same type.

    Returns:
        (H, W, 3) of the same type; `rgb` itself where there is nothing to fill or to fill it with.
    """
    white = int(np.iinfo(rgb.dtype).max)
    least = white // _HIDDEN_SHARE
    if not alpha.size or int(alpha.min()) >= least or not int(alpha.max()):
        return rgb
    weight_HW = alpha.astype(np.float32) / white
    own = np.minimum(alpha.astype(np.float32) / least, 1)
    hidden = own < 1
    out_CHW = np.ascontiguousarray(rgb.transpose(2, 0, 1)).copy()
    around_CHW = _around(out_CHW.astype(np.float32) * weight_HW, weight_HW)
    for out_HW, around_HW in zip(out_CHW, around_CHW, strict=True):
        mixed = out_HW[hidden] * own[hidden] + around_HW[hidden] * (1 - own[hidden])
        out_HW[hidden] = np.clip(np.rint(mixed), 0, white).astype(rgb.dtype)
    return _ordered(out_CHW)


def _ordered(rgb_CHW: np.ndarray) -> np.ndarray:
    """(H, W, 3), in memory as frames of its type usually are: by planes if deep, else by pixels."""
    rgb = rgb_CHW.transpose(1, 2, 0)
    return rgb if rgb.dtype == np.uint16 else np.ascontiguousarray(rgb)


def _around(sums_CHW: np.ndarray, weight_HW: np.ndarray) -> np.ndarray:
    """Mean colours of what is visible near each pixel: where nothing is, of a wider surrounding.

    Args:
        sums_CHW: colours times their weight, float32.
        weight_HW: 0 to 1, float32, not 0 everywhere.
    """
    if max(weight_HW.shape) == 1:
        return sums_CHW / weight_HW
    coarse = _around(*_coarser(sums_CHW, weight_HW))
    wide_CHW = _doubled(coarse)[:, : weight_HW.shape[0], : weight_HW.shape[1]]
    return sums_CHW + wide_CHW * (1 - weight_HW)


def _coarser(sums_CHW: np.ndarray, weight_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both of squares of four pixels: one of them that is wholly visible decides the colour."""
    sums, weight = _sums_of_four(sums_CHW), _sums_of_four(weight_HW)
    share = 1 / np.maximum(weight, 1)
    return sums * share, weight * share


def _sums_of_four(values: np.ndarray) -> np.ndarray:
    """Sums of squares of four, the last two axes; an odd side's last line counts twice."""
    for axis in (-2, -1):
        length = values.shape[axis]
        pairs = np.arange(0, length, 2)
        other = np.minimum(pairs + 1, length - 1)
        values = np.take(values, pairs, axis=axis) + np.take(values, other, axis=axis)
    return values


def _doubled(values: np.ndarray) -> np.ndarray:
    """Twice as many lines along the last two axes, by linear interpolation."""
    for axis in (-2, -1):
        length = values.shape[axis]
        before = np.take(values, np.maximum(np.arange(length) - 1, 0), axis=axis)
        after = np.take(values, np.minimum(np.arange(length) + 1, length - 1), axis=axis)
        both = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis=-1)
        if axis == -2:
            both = np.moveaxis(both, -1, -2)
        shape = list(values.shape)
        shape[axis] = 2 * length
        values = both.reshape(shape)
    return values
