"""A natural-looking source made of numbers: two layers of 1/f noise that pan in different ways."""

import math

import numpy as np

from seedvr2_core.frames import Frame

MARGIN = 256
"""Pixels that a layer is larger than the picture, and that it can pan over."""
_SEED = 11


class PanningNoise:
    """Frames by index, the same at every call; uint8."""

    def __init__(self, height: int, width: int) -> None:
        """Make the layers (seconds for a large picture); frames are quick afterwards."""
        self._size = (height, width)
        rng = np.random.Generator(np.random.PCG64(_SEED))
        # Shares of 0.6 and 0.4, so that their sum never leaves uint8.
        self._back = (0.6 * _fractal(rng, height + MARGIN, width + MARGIN)).astype(np.uint8)
        self._front = (0.4 * _fractal(rng, height + MARGIN, width + MARGIN)).astype(np.uint8)

    def frame(self, index: int, pts: int) -> Frame:
        """The frame of that index; moves by two to three pixels from the one before."""
        back = self._crop(self._back, index, 400, 300)
        front = self._crop(self._front, -2 * index, 370, 430)
        return Frame(back + front, pts, index)

    def _crop(self, layer: np.ndarray, time: int, period_y: int, period_x: int) -> np.ndarray:
        top, left = (
            round(MARGIN / 2 * (1 + 0.99 * math.sin(2 * math.pi * time / period)))
            for period in (period_y, period_x)
        )
        height, width = self._size
        return layer[top : top + height, left : left + width]


def _fractal(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) in [0, 255]: amplitude 1/f as in photographs, colours mostly alike."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    planes = [_shaped(rng, falloff, height, width) for _ in range(4)]
    channels = [0.9 * planes[0] + 0.4 * plane for plane in planes[1:]]
    return np.clip(128 + 48 * np.stack(channels, axis=-1), 0, 255)


def _shaped(rng: np.random.Generator, falloff: np.ndarray, height: int, width: int) -> np.ndarray:
    """Noise with that spectrum, mean 0 and deviation 1."""
    noise = rng.standard_normal((height, width), dtype=np.float32)
    plane = np.fft.irfft2(np.fft.rfft2(noise) * falloff, s=(height, width))
    return (plane - plane.mean()) / plane.std()
