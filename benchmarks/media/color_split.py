"""Which frequencies the colour correction should take from the source: 5/3 scales, or others.

`python -m benchmarks.media.color_split [--clips FOLDER] [--only TEXT] [--json]`

The wavelet correction takes luma coarser than some scales from the source, and chroma coarser than
others: five and three by default. No weights are at hand, so a model's output is imitated in three
ways, each where the truth is known. Each clip is brought to its size here; its halved or thirded
and coded copy (x264, crf 28) is the source:

drift S   the clip itself, as a model that restores perfectly would give it, with a drift of
          brightness and saturation that varies over the picture with grains of S pixels: what the
          correction is there to remove. Two S show where one split wins over another.
waifu2x   what this network makes of the source, and so with the errors of a real network.
span      the same of SPAN.

Each column is a split, luma/chroma. A figure is PSNR in dB against the clip, first of luma, then of
both colour differences; `raw` is the imitation without a correction. The last rows are the means,
and how often 4/3 is closer than 5/3.
"""

import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.media.clips import parser_of, run_ffmpeg
from seedvr2_core.engines.seedvr2.color import wavelet_split
from seedvr2_core.engines.span import load_span, upscale_rgb
from seedvr2_core.engines.table import span_weight_files, waifu2x_weight_files
from seedvr2_core.engines.waifu2x import load_waifu2x, restore_rgb
from seedvr2_core.frames import CB_RANGE, CR_RANGE, LUMA_WEIGHTS, resize

SIZES = {
    "bunny_1280x720_25.mp4": (480, 270),
    "coffee_1280x720_2997.mp4": (480, 270),
    "flower_960x540_2997.mp4": (480, 270),
    "walkers_384x288_25.mp4": (384, 288),
    "sign_640x480_30_fullrange.mkv": (384, 288),
    "friday_640x480_30.mp4": (384, 288),
    "nasa_320x180_25_2audio.mp4": (318, 180),
}
SPLITS = ((5, 3), (4, 3), (4, 4), (3, 3))
DRIFTS = (4, 16, 64)
FACTORS = (2, 3)
FRAMES, LOOKED_AT = 14, (13,)
Picture = Tensor
"""Float32 (3, H, W) in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """One imitation of a model's output for one clip."""

    clip: str
    factor: int
    output: str
    raw: tuple[float, float]
    split: Mapping[str, tuple[float, float]]
    """"5/3" -> PSNR of luma, and of chroma."""


def main() -> int:
    """Measure, print."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(1)
    rows: list[Imitation] = []
    for row in _rows(options.clips, options.only):
        rows.append(row)
        print(json.dumps(vars(row)) if options.json else _line(row), flush=True)
    if rows and not options.json:
        print(_summary(rows))
    return 0


def _rows(clips: Path, only: str) -> Iterator[Imitation]:
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            if only not in name:
                continue
            truth = _decode(clips / name, size)
            for factor in FACTORS:
                coded = Path(folder) / "coded.mkv"
                small = (size[0] // factor, size[1] // factor)
                _encode(clips / name, coded, size, small)
                yield from _of_clip(name.partition("_")[0], factor, truth, _decode(coded, small))


def _of_clip(clip: str, factor: int, truth: np.ndarray, small: np.ndarray) -> Iterator[Imitation]:
    _, height, width, _ = truth.shape
    for name, imitate in _outputs(height, width).items():
        raws: list[tuple[float, float]] = []
        splits: dict[str, list[tuple[float, float]]] = {_named(pair): [] for pair in SPLITS}
        for index in LOOKED_AT:
            want, source = _picture(truth[index]), resize(_picture(small[index]), (height, width))
            output = imitate(truth[index], small[index])
            raws.append(_psnr(output, want))
            for luma, chroma in SPLITS:
                done = _corrected(output, source, luma, chroma)
                splits[_named((luma, chroma))].append(_psnr(done, want))
        yield Imitation(
            clip=clip,
            factor=factor,
            output=name,
            raw=_mean(raws),
            split={pair: _mean(values) for pair, values in splits.items()},
        )


def _corrected(output: Picture, source: Picture, luma: int, chroma: int) -> Picture:
    return wavelet_split(output, source, luma_stages=luma, chroma_stages=chroma).clamp(-1, 1)


def _outputs(height: int, width: int) -> dict[str, Callable[[np.ndarray, np.ndarray], Picture]]:
    """Name -> what makes the imitation of the clip's picture and of the source's."""
    files = span_weight_files()
    span = {2: load_span(*files[:2], factor=2, device="cpu")}
    span[4] = load_span(*files[2:4], factor=4, device="cpu")
    waifu2x = load_waifu2x(*waifu2x_weight_files(), device="cpu")
    size = {"height": height, "width": width, "device": "cpu"}
    drifts = {
        f"drift {grain}": lambda truth, _, grain=grain: _drifted(_picture(truth), grain)
        for grain in DRIFTS
    }
    return {
        **drifts,
        "waifu2x": lambda _, small: _picture(restore_rgb(small, model=waifu2x, **size)),
        "span": lambda _, small: _picture(upscale_rgb(small, models=span, **size)),
    }


def _drifted(picture: Picture, grain: int) -> Picture:
    """With brightness and saturation that drift over the picture, smooth over `grain` pixels."""
    _, height, width = picture.shape
    random = torch.Generator().manual_seed(grain)
    rough = torch.randn((2, -(-height // grain) + 3, -(-width // grain) + 3), generator=random)
    shape = [length * grain for length in rough.shape[1:]]
    field = F.interpolate(rough[None], shape, mode="bicubic", align_corners=False)[0]
    light, color = field[:, grain : grain + height, grain : grain + width]
    r, g, b = picture
    y = LUMA_WEIGHTS[0] * r + LUMA_WEIGHTS[1] * g + LUMA_WEIGHTS[2] * b
    more = 1.15 + 0.1 * color  # the model is known to give more saturation than the source has
    moved = y + 0.03 + 0.03 * light
    return (moved + (picture - y) * more).clamp(-1, 1)


def _picture(rgb: np.ndarray) -> Picture:
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 127.5 - 1


def _psnr(got: Picture, want: Picture) -> tuple[float, float]:
    """Of luma, and of both colour differences together."""
    errors = [a - b for a, b in zip(_split(got), _split(want), strict=True)]
    return _db(errors[:1]), _db(errors[1:])


def _split(picture: Picture) -> list[Tensor]:
    r, g, b = picture
    y = LUMA_WEIGHTS[0] * r + LUMA_WEIGHTS[1] * g + LUMA_WEIGHTS[2] * b
    return [y, (b - y) / CB_RANGE, (r - y) / CR_RANGE]


def _db(errors: Sequence[Tensor]) -> float:
    mean = float(torch.cat([error.flatten() for error in errors]).square().mean())
    return 10 * math.log10(4 / max(mean, 1e-12))


def _mean(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    luma, chroma = (statistics.fmean(column) for column in zip(*values, strict=True))
    return round(luma, 3), round(chroma, 3)


def _named(pair: tuple[int, int]) -> str:
    return f"{pair[0]}/{pair[1]}"


def _decode(clip: Path, size: tuple[int, int]) -> np.ndarray:
    """The first frames at a size: (T, H, W, 3) uint8."""
    graph = f"scale={size[0]}:{size[1]}:flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24"
    raw = run_ffmpeg(
        *("-i", clip, "-vf", graph, "-frames:v", FRAMES),
        *("-fps_mode", "passthrough", "-f", "rawvideo", "-"),
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


def _encode(clip: Path, out: Path, size: tuple[int, int], small: tuple[int, int]) -> None:
    sizes = [
        f"scale={width}:{height}:flags=bicubic+accurate_rnd" for width, height in (size, small)
    ]
    run_ffmpeg(
        *("-i", clip, "-vf", f"{','.join(sizes)},format=yuv444p", "-an", "-frames:v", FRAMES),
        *("-c:v", "libx264", "-crf", "28", "-fps_mode", "passthrough", out),
    )


def _line(row: Imitation) -> str:
    shown = {"raw": row.raw, **row.split}
    values = "  ".join(
        f"{name} {luma:5.2f} {chroma:5.2f}" for name, (luma, chroma) in shown.items()
    )
    return f"{row.clip:8} x{row.factor} {row.output:9} {values}"


def _summary(rows: Sequence[Imitation]) -> str:
    """The means of each imitation, and how often 4/3 is closer than 5/3."""
    lines: list[str] = []

    for (output, factor), group in itertools.groupby(
        sorted(rows, key=lambda row: (row.output, row.factor)),
        key=lambda row: (row.output, row.factor),
    ):
        found = list(group)
        splits = {name: _mean([row.split[name] for row in found]) for name in found[0].split}
        mean = Imitation(
            clip="mean",
            factor=factor,
            output=output,
            raw=_mean([row.raw for row in found]),
            split=splits,
        )
        better = sum(row.split["4/3"][0] > row.split["5/3"][0] for row in found)
        lines.append(f"{_line(mean)}  4/3 closer in luma on {better} of {len(found)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
