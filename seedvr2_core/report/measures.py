"""Measures of a result against its source, of two neighbouring frames at a time.

No measure rates the model: it re-renders, and against a ground truth a plain enlargement is nearer.
They find what nobody wants: flicker where pieces meet, colours that drift, detail that is lost,
frames that are black or stand still.

Shape legend: H W pixels, h w cells of a coarse grid.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from seedvr2_core.frames import CB_RANGE, CR_RANGE, LUMA_WEIGHTS
from seedvr2_core.report.chosen_frames import Neighbours
from seedvr2_core.report.record import Sight

GRID = (32, 18)
"""Cells (across, down) in which low frequencies are compared."""
BLACK_LEVEL, DARK_LEVEL = 2.0, 8.0
"""A frame below the first is black, a source above the second is not."""
STILL, MOVED = 0.02, 1.0
"""Mean change of the luma, in levels, of frames that are the same and of frames that are not."""
_LUMA = np.array(LUMA_WEIGHTS, np.float32)
_SMALLEST = 1e-3
"""A level's thousandth: keeps the logarithm of nothing finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two neighbouring frames of the source and of the result, (H, W, 3) uint8 R'G'B'."""

    before: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray]


def measure_pair(pair: Pair, place: Neighbours, seconds: float) -> Sight:
    """Measure one place; `seconds` is the time of its frame."""
    size = common_size(pair.before[1], pair.after[1])
    source = [luma(scaled(picture, size)) for picture in pair.before]
    result = [luma(scaled(picture, size)) for picture in pair.after]
    coarse = [
        scaled(after, GRID).astype(np.float32) - scaled(before, GRID).astype(np.float32)
        for before, after in zip(pair.before, pair.after, strict=True)
    ]
    fine, fine_before = finest(result[1]).std(), finest(source[1]).std()
    moved = [float(np.abs(pictures[1] - pictures[0]).mean()) for pictures in (source, result)]
    return Sight(
        frame=place.frame,
        seconds=round(seconds, 3),
        join=place.join,
        flicker=_rounded(np.abs(luma(coarse[1]) - luma(coarse[0])).mean()),
        drift=_drift(coarse[1]),
        difference=_rounded(np.abs(result[1] - source[1]).mean()),
        detail_db=_rounded(20 * np.log10((fine + _SMALLEST) / (fine_before + _SMALLEST))),
        beyond=_rounded(_beyond(pair.after[1], result[1])),
        source_detail=_rounded(fine_before / (source[1].std() + _SMALLEST)),
        black=bool(result[1].mean() < BLACK_LEVEL and source[1].mean() > DARK_LEVEL),
        frozen=moved[1] < STILL and moved[0] > MOVED,
    )


def common_size(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """(width, height) at which both are compared: on each side the smaller one."""
    return min(before.shape[1], after.shape[1]), min(before.shape[0], after.shape[0])


def scaled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at another (width, height): to the grid means of areas, else by Lanczos.

    A result that was enlarged by Lanczos comes back with about all the detail that it had before.
    """
    if picture.shape[1::-1] == size:
        return picture
    kind = Image.Resampling.BOX if size == GRID else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, kind))


def luma(picture: np.ndarray) -> np.ndarray:
    """(H, W) float32 luma (BT.709 weights on coded values), in levels."""
    return picture.astype(np.float32) @ _LUMA


def finest(plane: np.ndarray) -> np.ndarray:
    """(H, W) what is lost when a plane goes to half its size and back: its finest octave."""
    height, width = plane.shape
    image = Image.fromarray(plane)
    half = image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BOX)
    return plane - np.asarray(half.resize((width, height), Image.Resampling.BICUBIC))


def largest_change(pair: Pair) -> tuple[float, float]:
    """Where the result differs most from the source: (across, down) as shares of the picture."""
    grids = [luma(scaled(picture, GRID)) for picture in (pair.before[1], pair.after[1])]
    fine = [
        np.asarray(
            Image.fromarray(np.abs(finest(luma(scaled(picture, _seen(picture)))))).resize(
                GRID, Image.Resampling.BOX
            )
        )
        for picture in (pair.before[1], pair.after[1])
    ]
    change = np.abs(grids[1] - grids[0]) + np.abs(fine[1] - fine[0])
    down, across = np.unravel_index(int(change.argmax()), change.shape)
    return (float(across) + 0.5) / GRID[0], (float(down) + 0.5) / GRID[1]


def _seen(picture: np.ndarray) -> tuple[int, int]:
    """A size of at most 640 pixels across, for a look at where detail is."""
    width = min(640, picture.shape[1])
    return width, max(1, picture.shape[0] * width // picture.shape[1])


def _drift(coarse: np.ndarray) -> tuple[float, float, float]:
    """Mean (Y', Cb, Cr) of a coarse difference (h, w, 3), in levels."""
    red, _, blue = (float(value) for value in coarse.mean(axis=(0, 1)))
    y = float(luma(coarse).mean())
    return _rounded(y), _rounded((blue - y) / CB_RANGE), _rounded((red - y) / CR_RANGE)


def _beyond(picture: np.ndarray, small: np.ndarray) -> float:
    """Standard deviation of what a result has beyond its own reduced luma."""
    whole = luma(picture)
    if whole.shape == small.shape:
        return 0.0
    size = (whole.shape[1], whole.shape[0])
    return float(
        (whole - np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))).std()
    )


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)
