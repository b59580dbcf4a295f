"""Puts two pictures beside each other: whole, with square pixels, of one height, with labels.

Shape legend: H W pixels.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

from seedvr2_core.compare.label import drawn_label
from seedvr2_core.report.measures import luma
from seedvr2_core.video.info import VideoInfo

DIVIDER_PX = 4
MAX_PANEL_PX = 3840
"""Most columns of a picture: encoders and players take no much wider video than two of these."""
_LABEL_SHARE, _MIN_LABEL_PX = 28, 12
"""The letters' height is this part of the picture's, and at least so many pixels."""
_MAX_LABEL_CHARS = 60
_DEEP = 257
"""What a level of 255 is of 65535."""


@dataclass(frozen=True, slots=True)
class SheetLayout:
    """Where the two pictures are in the sheet."""

    height: int
    widths: tuple[int, int]

    @property
    def width(self) -> int:
        """Of the sheet."""
        return sum(self.widths) + DIVIDER_PX


def layout_of(a: VideoInfo, b: VideoInfo, most_rows: int) -> SheetLayout:
    """Both as tall as the taller one, at most `most_rows`; all sizes even, as 4:2:0 needs them."""
    shapes = [width / height for width, height in (a.display_size, b.display_size)]
    tallest = max(a.display_size[1], b.display_size[1])
    height = min(tallest, Fraction(most_rows), MAX_PANEL_PX / max(shapes))
    rows = _even(height)
    return SheetLayout(rows, (_even(rows * shapes[0]), _even(rows * shapes[1])))


class Panel:
    """One of the two places: scales pictures into it and writes the label.

    Args:
        width: of the place.
        height: of the place.
        label: what is written into the top left corner.
        deep: whether pictures are uint16.
    """

    def __init__(self, width: int, height: int, label: str, *, deep: bool) -> None:
        self._size = (width, height)
        self._deep = deep
        self._label = _drawn(label, height)[:, :width]

    def scaled(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) of the picture's type and of the place's size, by Lanczos."""
        if picture.shape[1::-1] == self._size:
            return np.ascontiguousarray(picture)
        if not self._deep:
            shown = Image.fromarray(np.ascontiguousarray(picture))
            return np.asarray(shown.resize(self._size, Image.Resampling.LANCZOS))
        # Pillow has no colour of 16 bits: each channel goes alone.
        channels = [
            Image.fromarray(picture[..., channel].astype(np.float32)).resize(
                self._size, Image.Resampling.LANCZOS
            )
            for channel in range(3)
        ]
        return (
            np.stack([np.asarray(one) for one in channels], -1)
            .round()
            .clip(0, 65535)
            .astype(np.uint16)
        )

    def labelled(self, scaled: np.ndarray) -> np.ndarray:
        """A copy with the label."""
        shown = scaled.copy()
        rows, columns = self._label.shape[:2]
        shown[:rows, :columns] = self._label * np.uint16(_DEEP) if self._deep else self._label
        return shown


def beside(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two pictures of one height and type with a white line between them."""
    white = np.iinfo(a.dtype).max
    divider = np.full((a.shape[0], DIVIDER_PX, 3), white, a.dtype)
    return np.concatenate([a, divider, b], axis=1)


def shallow(picture: np.ndarray) -> np.ndarray:
    """The picture as uint8."""
    return picture if picture.dtype == np.uint8 else (picture // _DEEP).astype(np.uint8)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of the luma of two uint8 pictures, in levels; b at the size of a."""
    one, other = luma(a), luma(b)
    if one.shape != other.shape:
        size = (one.shape[1], one.shape[0])
        other = np.asarray(Image.fromarray(other).resize(size, Image.Resampling.LANCZOS))
    return float(np.abs(one - other).mean())


def _even(size: float | Fraction) -> int:
    return max(2, round(size / 2) * 2)


def _drawn(text: str, height: int) -> np.ndarray:
    """The label of a picture of this height, (h, w, 3) uint8."""
    shown = text if len(text) <= _MAX_LABEL_CHARS else text[: _MAX_LABEL_CHARS - 3] + "..."
    return drawn_label(shown, max(_MIN_LABEL_PX, height // _LABEL_SHARE))[:height]
