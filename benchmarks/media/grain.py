"""How much grain a film has, how much an engine leaves of it, and how much `grain` gives back.

`python -m benchmarks.media.grain [--clips FOLDER] [--only TEXT] [--json]`

Each clip is enlarged to twice its size: by Lanczos, which keeps what is there, and by waifu2x,
which takes noise away, as models do. Grain is measured in the luma of blocks in which the picture
itself has the least detail: the standard deviation, in levels of 255, of what a blur of about three
pixels leaves. What is not grain (edges, the compression of the clip) is in the figure as well, so
look at the differences. `ms` is what grain costs a frame.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.media.clips import parser_of, spread_pictures, videos_in
from seedvr2_core.engines.lanczos import resize_rgb
from seedvr2_core.engines.table import waifu2x_weight_files
from seedvr2_core.engines.waifu2x import load_waifu2x, restore_rgb
from seedvr2_core.frames import LUMA_WEIGHTS
from seedvr2_core.video.output.grain import Grain

FACTOR, PICTURES, BLOCK = 2, 3, 32
STRENGTHS = (0.25, 0.5, 1.0)
FLAT_SHARE = 0.2
"""Of the blocks, those with the least detail."""


@dataclass(frozen=True, kw_only=True)
class Grained:
    """One clip."""

    clip: str
    lanczos: float
    waifu2x: float
    grained: dict[str, float]
    ms: float


def main() -> int:
    """Measure, print."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(1)
    for row in _rows(options.clips, options.only):
        print(json.dumps(vars(row)) if options.json else _line(row), flush=True)
    return 0


def _rows(clips: Path, only: str) -> Iterator[Grained]:
    waifu2x = load_waifu2x(*waifu2x_weight_files(), device="cpu")
    for clip in videos_in(clips, only):
        pictures = spread_pictures(clip, PICTURES)
        height, width = (FACTOR * side for side in pictures[0].shape[:2])
        plain = [resize_rgb(rgb, height=height, width=width) for rgb in pictures]
        made = [
            restore_rgb(rgb, model=waifu2x, height=height, width=width, device="cpu")
            for rgb in pictures
        ]
        flat = [_flat_blocks(rgb) for rgb in made]
        films = {
            strength: Grain(strength, 100, height=height, width=width) for strength in STRENGTHS
        }
        for film in films.values():
            film.on(made[0], 0)  # draws the plate
        began = time.process_time()
        grained = {
            f"{strength:g}": [film.on(rgb, k) for k, rgb in enumerate(made)]
            for strength, film in films.items()
        }
        spent = time.process_time() - began
        yield Grained(
            clip=clip.name.partition("_")[0],
            lanczos=_grain(plain, flat),
            waifu2x=_grain(made, flat),
            grained={name: _grain(values, flat) for name, values in grained.items()},
            ms=round(1000 * spent / len(made) / len(films), 1),
        )


def _luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array(LUMA_WEIGHTS)


def _blurred(y_HW: np.ndarray) -> np.ndarray:
    """By [1, 2, 1] / 4 three times along each axis."""
    for _ in range(3):
        for axis in (0, 1):
            y_HW = 0.5 * y_HW + 0.25 * (np.roll(y_HW, 1, axis) + np.roll(y_HW, -1, axis))
    return y_HW


def _blocks(y_HW: np.ndarray) -> np.ndarray:
    """(blocks, values), without what does not fill a block."""
    rows, columns = (side // BLOCK for side in y_HW.shape)
    whole = y_HW[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return whole.swapaxes(1, 2).reshape(rows * columns, BLOCK * BLOCK)


def _flat_blocks(rgb: np.ndarray) -> np.ndarray:
    """Indices of the blocks with the least detail, which are neither black nor white."""
    blocks = _blocks(_blurred(_luma(rgb)))
    detail, level = blocks.std(axis=1), blocks.mean(axis=1)
    detail[(level < 40) | (level > 215)] = np.inf
    return np.argsort(detail)[: max(1, round(FLAT_SHARE * len(blocks)))]


def _grain(pictures: list[np.ndarray], flat: list[np.ndarray]) -> float:
    """Median deviation of the flat blocks, in levels."""
    found: list[float] = []
    for rgb, where in zip(pictures, flat, strict=True):
        y_HW = _luma(rgb)
        found.append(float(np.median(_blocks(y_HW - _blurred(y_HW))[where].std(axis=1))))
    return round(statistics.fmean(found), 2)


def _line(row: Grained) -> str:
    given = "  ".join(f"grain {name} {value:5.2f}" for name, value in row.grained.items())
    return (
        f"{row.clip:9} lanczos {row.lanczos:5.2f}  waifu2x {row.waifu2x:5.2f}  {given}  "
        f"{row.ms:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
