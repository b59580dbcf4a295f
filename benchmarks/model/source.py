"""A source for benchmarks that needs no file: two layers of noise that move over each other.

The noise has the spectrum of photographs (amplitude 1/f), so the model meets activations of a
natural size; the layers move differently, so that no two frames are alike.
"""

import math

import numpy as np

from seedvr2_core.frames import Frame

MARGIN = 256
"""By how many pixels a layer is larger than the picture in each direction, so that it can move."""
_SEED = 11


class PanningNoise:
    """Makes frames, [height, width, 3] uint8; the same index gives the same frame every time."""

    def __init__(self, height: int, width: int) -> None:
        """Make the layers.

        That takes seconds for a large picture; frames are only cut out of them and added.

        Args:
            height: of the frames, in pixels.
            width: of the frames, in pixels.
        """
        self._size = (height, width)
        rng = np.random.Generator(np.random.PCG64(_SEED))
        # 0.6 of one and 0.4 of the other, so that their sum always fits uint8.
        self._back = (0.6 * _fractal(rng, height + MARGIN, width + MARGIN)).astype(np.uint8)
        self._front = (0.4 * _fractal(rng, height + MARGIN, width + MARGIN)).astype(np.uint8)

    def frame(self, index: int, pts: int) -> Frame:
        """Make the frame with this index; from frame to frame the layers move by a few pixels."""
        back = self._crop(self._back, index, 400, 300)
        front = self._crop(self._front, -2 * index, 370, 430)
        return Frame(back + front, pts, index)

    def _crop(self, layer: np.ndarray, time: int, period_y: int, period_x: int) -> np.ndarray:
        """Cut the picture out of a layer; its place swings to and fro, a period being in frames."""
        top, left = (
            round(MARGIN / 2 * (1 + 0.99 * math.sin(2 * math.pi * time / period)))
            for period in (period_y, period_x)
        )
        height, width = self._size
        return layer[top : top + height, left : left + width]


def _fractal(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Make a picture of noise.

    Its amplitude falls with the frequency as in photographs (1/f). The three colours are nearly
    alike, as in photographs too.

    Returns:
        [height, width, 3] float, 0 to 255.
    """
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    planes = [_shaped(rng, falloff, height, width) for _ in range(4)]
    channels = [0.9 * planes[0] + 0.4 * plane for plane in planes[1:]]
    return np.clip(128 + 48 * np.stack(channels, axis=-1), 0, 255)


def _shaped(rng: np.random.Generator, falloff: np.ndarray, height: int, width: int) -> np.ndarray:
    """Noise whose amplitude follows `falloff`; [height, width] with mean 0 and deviation 1."""
    noise = rng.standard_normal((height, width), dtype=np.float32)
    plane = np.fft.irfft2(np.fft.rfft2(noise) * falloff, s=(height, width))
    return (plane - plane.mean()) / plane.std()
