"""How many bits a pixel of a master takes, on clips that an engine has enlarged.

`python -m benchmarks.media.masters [--clips FOLDER] [--only TEXT] [--json]`

Each clip is enlarged to twice its size, and the frames are written as a job's masters are
(`seedvr2_core/video/output/master.py`): of 8 bits, and of 16. FFV1 codes each picture on its own,
so a few frames from all over the clip stand for it. At the end: the mean and the largest, which
`_MASTER_BITS` of `seedvr2_core/job/space.py` guesses from.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.media.clips import parser_of, spread_pictures, videos_in
from seedvr2_core.engines.lanczos import resize_rgb
from seedvr2_core.engines.span import load_span, upscale_rgb
from seedvr2_core.engines.table import span_weight_files, waifu2x_weight_files
from seedvr2_core.engines.waifu2x import load_waifu2x, restore_rgb
from seedvr2_core.video.output.master import MasterWriter

FACTOR, PICTURES = 2, 2
HEIGHT, WIDTH = 180, 320
"""Of larger pictures the middle is taken, as the networks are slow."""


@dataclass(frozen=True, kw_only=True)
class Sized:
    """What the master of a clip takes."""

    clip: str
    engine: str
    bits_of_8: float
    bits_of_16: float


def main() -> int:
    """Measure, print."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(2)
    rows: list[Sized] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in _rows(videos_in(options.clips, options.only), Path(folder)):
            rows.append(row)
            print(json.dumps(vars(row)) if options.json else _line(row), flush=True)
    if rows and not options.json:
        print(_summary(rows))
    return 0


def _rows(clips: Sequence[Path], folder: Path) -> Iterator[Sized]:
    for clip in clips:
        pictures = [_middle(rgb) for rgb in spread_pictures(clip, PICTURES)]
        for name, enlarge in _engines(pictures[0].shape).items():
            shallow = [enlarge(rgb) for rgb in pictures]
            deep = [enlarge(rgb.astype(np.uint16) * 257) for rgb in pictures]
            yield Sized(
                clip=clip.name.partition("_")[0],
                engine=name,
                bits_of_8=_bits(shallow, folder / "shallow.mkv"),
                bits_of_16=_bits(deep, folder / "deep.mkv"),
            )


def _middle(rgb: np.ndarray) -> np.ndarray:
    """The middle of a picture that is larger than what is measured."""
    height, width, _ = rgb.shape
    top, left = max(0, height - HEIGHT) // 2, max(0, width - WIDTH) // 2
    return np.ascontiguousarray(rgb[top : top + HEIGHT, left : left + WIDTH])


def _engines(shape: tuple[int, ...]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    height, width = FACTOR * shape[0], FACTOR * shape[1]
    span = {2: load_span(*span_weight_files()[:2], factor=2, device="cpu")}
    waifu2x = load_waifu2x(*waifu2x_weight_files(), device="cpu")
    return {
        "lanczos": lambda rgb: resize_rgb(rgb, height=height, width=width),
        "span": lambda rgb: upscale_rgb(rgb, models=span, height=height, width=width, device="cpu"),
        "waifu2x": lambda rgb: restore_rgb(
            rgb, model=waifu2x, height=height, width=width, device="cpu"
        ),
    }


def _bits(pictures: Sequence[np.ndarray], path: Path) -> float:
    """Bits a pixel of the file that a master of these pictures is."""
    height, width, _ = pictures[0].shape
    with MasterWriter(path, width, height, deep=pictures[0].dtype == np.uint16) as writer:
        for rgb in pictures:
            writer.write(rgb)
    return path.stat().st_size * 8 / (height * width * len(pictures))


def _line(row: Sized) -> str:
    return f"{row.clip:9} {row.engine:8} 8 bits {row.bits_of_8:5.2f}  16 bits {row.bits_of_16:5.2f}"


def _summary(rows: Sequence[Sized]) -> str:
    told: list[str] = []
    for name, values in (
        ("8 bits", [row.bits_of_8 for row in rows]),
        ("16 bits", [row.bits_of_16 for row in rows]),
    ):
        told.append(f"{name}: mean {statistics.fmean(values):.2f}, most {max(values):.2f}")
    return "bits a pixel; " + "; ".join(told)


if __name__ == "__main__":
    sys.exit(main())
