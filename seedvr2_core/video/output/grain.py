"""Film grain that is added to restored pictures: what a model has taken away with the noise.

The grain of a frame is a function of the seed, of the frame's number in the whole film and of the
picture's size. So it is the same in any division into segments, on any worker and after any
interruption, and masters are kept without it. It is made of whole numbers up to the last step, from
a generator whose bits numpy promises never to change.

It is the same in R', G' and B', so brightness has it and colour has none. Its mean is zero: it is
as strong upward as downward, and no stronger than the nearest of black and white is away.
"""

import functools
import math

import numpy as np

LEVELS = 10.0
"""Standard deviation of grain 1 in mid-grey, in levels of 255."""
_FULL_HD = 1080
"""Rows of a picture whose grain is smoothed once; larger pictures have larger grains."""
_SLACK = 512
"""How far the plate can be moved, down and across."""
_STRIP_ROWS = 128
"""Rows at once: what is computed of them stays in the processor's caches."""
_BYTES_SUMMED = 4
"""Random bytes that make one value: their sum is nearly normal."""
_BYTE_VARIANCE = (256**2 - 1) / 12


class Grain:
    """Adds grain to the pictures of a film."""

    def __init__(self, strength: float, seed: int, *, height: int, width: int) -> None:
        """Draw nothing yet.

        Args:
            strength: 0 to 1; 1 has a standard deviation of `LEVELS` in mid-grey.
            seed: 0 <= seed < 2**64.
            height: rows of the pictures.
            width: columns of the pictures.
        """
        self._strength, self._seed = strength, seed
        self._height, self._width = height, width

    def on(self, rgb: np.ndarray, number: int) -> np.ndarray:
        """A picture with its grain.

        Args:
            rgb: (height, width, 3) R'G'B' over the full range, uint8 or uint16; it is not changed.
            number: of the frame in the whole film.

        Returns:
            The same shape and type. Luma is changed alone: all three samples of a pixel by one
            number.
        """
        out = np.empty_like(rgb)
        first, second = self._places(number)
        plate, turned = self._plate, self._plate[::-1, ::-1]
        weights = _weights(self._strength, rgb.dtype.itemsize)
        for start in range(0, self._height, _STRIP_ROWS):
            rows = slice(start, min(start + _STRIP_ROWS, self._height))
            count = rows.stop - start
            grain_HW = plate[first[0] + start :, first[1] :][:count, : self._width].astype(
                np.float32
            )
            grain_HW += turned[second[0] + start :, second[1] :][:count, : self._width]
            _add(rgb[rows], grain_HW, weights, out[rows])
        return out

    def _places(self, number: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where on the plate, and on the turned plate, the grain of a frame begins."""
        draw = np.random.Philox(key=np.array([self._seed, number + 1], np.uint64)).random_raw(4)
        a, b, c, d = (int(value % _SLACK) for value in draw)
        return (a, b), (c, d)

    @functools.cached_property
    def _plate(self) -> np.ndarray:
        """Noise with grains of the picture's size: int16 (H + slack, W + slack), 1024 a deviation.

        Two parts of it, of which one is turned, are added for each frame. So the film is no
        repetition of one pattern, and a frame costs no random numbers.
        """
        shape = (self._height + _SLACK, self._width + _SLACK)
        count = math.prod(shape)
        raw = np.random.Philox(key=np.array([self._seed, 0], np.uint64)).random_raw(
            -(-count * _BYTES_SUMMED // 8)
        )
        parts = raw.view(np.uint8)[: count * _BYTES_SUMMED].reshape(*shape, _BYTES_SUMMED)
        noise = parts.sum(axis=2, dtype=np.int32)
        noise -= _BYTES_SUMMED * 255 // 2
        passes = _passes(self._height, self._width)
        for _ in range(passes):
            for axis in (0, 1):
                noise = 2 * noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
        # A chain of n kernels [1, 2, 1] has the coefficients of (1 + x)^2n, whose squares add up
        # to that in the middle of (1 + x)^4n; once for each axis.
        deviation = math.sqrt(_BYTES_SUMMED * _BYTE_VARIANCE) * math.comb(4 * passes, 2 * passes)
        return np.rint(noise * (1024 / deviation)).astype(np.int16)


def _passes(height: int, width: int) -> int:
    """How often the noise is smoothed: the width of a grain grows with the picture's side."""
    return min(4, max(1, round((min(height, width) / _FULL_HD) ** 2)))


@functools.cache
def _weights(strength: float, itemsize: int) -> np.ndarray:
    """What grain is multiplied by at each of 256 brightnesses: float32 (256,).

    It is strongest in mid-grey, and falls to nothing at black and white as film's does.
    """
    y = np.arange(256) / 255
    white = 256**itemsize - 1
    scale = strength * LEVELS / 255 * white / (1024 * math.sqrt(2))  # of two parts of the plate
    return (scale * np.sqrt(4 * y * (1 - y))).astype(np.float32)


def _add(rgb: np.ndarray, grain_HW: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Add grain to some rows; `grain_HW` is overwritten."""
    white = np.iinfo(rgb.dtype).max
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    # BT.709's luma in 256ths; its highest eight bits are enough to look up the strength.
    luma_HW = r.astype(np.uint32) * 54
    luma_HW += g.astype(np.uint32) * 183
    luma_HW += b.astype(np.uint32) * 19
    luma_HW >>= 8 * rgb.dtype.itemsize
    grain_HW *= weights[luma_HW]
    np.rint(grain_HW, out=grain_HW)
    room_HW = np.minimum(np.minimum(r, g), b)
    np.minimum(room_HW, white - np.maximum(np.maximum(r, g), b), out=room_HW)
    room_HW = room_HW.astype(np.float32)
    np.clip(grain_HW, -room_HW, room_HW, out=grain_HW)
    change_HW = grain_HW.astype(np.int32)
    for channel in range(3):
        out[..., channel] = rgb[..., channel] + change_HW
