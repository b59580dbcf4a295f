"""How close the small engines come to the original, on clips that were halved and coded.

`python -m benchmarks.media.small_engines [--clips FOLDER] [--only TEXT] [--picture FILE] [--json]`

Each clip is brought to its size here, halved bicubically and coded: with x264 at several qualities,
with noise before it or none, with MPEG-2 and as JPEGs. The engines double what is decoded; PSNR is
over R'G'B' of some frames, against the clip before it was halved. `bits` are those of the coded
file for each pixel, which is what `seedvr2_core/engines/small.py` goes by; the last column is the
engine that it chooses. At the end: what the choice, and each engine alone, lose against the best of
the row, on average.

`--picture` draws a detail of one clip beside it: as coded, by each engine, and the original.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.media.clips import parser_of, run_ffmpeg
from seedvr2_core.engines import small_engine
from seedvr2_core.engines.lanczos import resize_rgb
from seedvr2_core.engines.span import load_span, upscale_rgb
from seedvr2_core.engines.table import span_weight_files, waifu2x_weight_files
from seedvr2_core.engines.waifu2x import load_waifu2x, restore_rgb
from seedvr2_core.video.probe import probe_video

SIZES = {
    "bunny_1280x720_25.mp4": (640, 360),
    "coffee_1280x720_2997.mp4": (640, 360),
    "flower_960x540_2997.mp4": (640, 360),
    "walkers_384x288_25.mp4": (384, 288),
    "sign_640x480_30_fullrange.mkv": (640, 480),
    "friday_640x480_30.mp4": (480, 360),
    "nasa_320x180_25_2audio.mp4": (320, 180),
}
FRAMES, LOOKED_AT = 26, (5, 15, 25)
BICUBIC = "flags=bicubic+accurate_rnd+full_chroma_int"
NOISE = "noise=alls=8:allf=t,"
CODINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"x264 crf {crf}": ("", ("libx264", "-crf", str(crf))) for crf in (10, 18, 23, 28, 32)},
    **{f"noise, crf {crf}": (NOISE, ("libx264", "-crf", str(crf))) for crf in (23, 32)},
    **{f"mpeg2 q {q}": ("", ("mpeg2video", "-q:v", str(q))) for q in (2, 8)},
    **{f"mjpeg q {q}": ("", ("mjpeg", "-q:v", str(q))) for q in (2, 8)},
}
Engine = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One clip, coded in one way."""

    clip: str
    coding: str
    bits: float
    psnr: dict[str, float]
    seconds: dict[str, float]
    chosen: str

    @property
    def lost(self) -> dict[str, float]:
        """dB below the best engine, of each and of the one that is chosen."""
        best = max(self.psnr.values())
        return {name: best - value for name, value in self.psnr.items()} | {
            "chosen": best - self.psnr[self.chosen]
        }


def main() -> int:
    """Measure, print."""
    parser = parser_of(__doc__, only="part of a row's name, as '32' or 'coffee'")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Scored] = []
    for row in _rows(options.clips, options.only, options.picture):
        rows.append(row)
        print(json.dumps({**vars(row)}) if options.json else _line(row), flush=True)
    if rows and not options.json:
        print(_summary(rows))
    return 0


def _rows(clips: Path, only: str, picture: Path | None) -> Iterator[Scored]:
    with tempfile.TemporaryDirectory() as folder:
        for clip, (width, height) in SIZES.items():
            for coding, (noise, encoder) in CODINGS.items():
                if only not in f"{clip} {coding}":
                    continue
                truth = _decode(clips / clip, (width, height), f"scale={width}:{height}:{BICUBIC}")
                coded = Path(folder) / "coded.mkv"
                _encode(clips / clip, coded, (width, height), noise, encoder)
                yield _measure(clip.partition("_")[0], coding, coded, truth, picture)


def _measure(
    clip: str, coding: str, coded: Path, truth: np.ndarray, picture: Path | None
) -> Scored:
    _, height, width, _ = truth.shape
    small = _decode(coded, (width // 2, height // 2), "null")
    kept = [index for index in LOOKED_AT if index < min(len(small), len(truth))]
    psnr: dict[str, float] = {}
    seconds: dict[str, float] = {}
    shown = {"original": truth[kept[-1]]}
    for name, engine in _engines(height, width).items():
        began = time.process_time()
        results = [engine(small[index]) for index in kept]
        seconds[name] = (time.process_time() - began) / len(kept)
        psnr[name] = statistics.fmean(map(_psnr, results, (truth[index] for index in kept)))
        shown[name] = results[-1]
    if picture:
        _draw(picture, shown)
    info = probe_video(coded)
    chosen, _ = small_engine(info.codec, info.bits_per_pixel)
    return Scored(
        **{"clip": clip, "coding": coding, "bits": info.bits_per_pixel, "chosen": chosen},
        psnr=psnr,
        seconds=seconds,
    )


def _engines(height: int, width: int) -> dict[str, Engine]:
    span = {2: load_span(*span_weight_files()[:2], factor=2, device="cpu")}
    param, weights = waifu2x_weight_files()
    waifu2x = load_waifu2x(param, weights, device="cpu")
    return {
        "lanczos": lambda rgb: resize_rgb(rgb, height=height, width=width),
        "span": lambda rgb: upscale_rgb(rgb, models=span, height=height, width=width, device="cpu"),
        "waifu2x": lambda rgb: restore_rgb(
            rgb, model=waifu2x, height=height, width=width, device="cpu"
        ),
    }


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / float(np.mean((a.astype(np.float64) - b) ** 2)))


def _decode(clip: Path, size: tuple[int, int], graph: str) -> np.ndarray:
    """The first frames: (T, H, W, 3) uint8."""
    raw = run_ffmpeg(
        *("-i", clip, "-vf", f"{graph},format=rgb24", "-frames:v", FRAMES),
        *("-fps_mode", "passthrough", "-f", "rawvideo", "-"),
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


def _encode(
    clip: Path, out: Path, size: tuple[int, int], noise: str, encoder: Sequence[str]
) -> None:
    width, height = size
    pixels = "yuvj420p" if encoder[0] == "mjpeg" else "yuv420p"
    graph = f"scale={width}:{height}:{BICUBIC},scale={width // 2}:{height // 2}:{BICUBIC}"
    run_ffmpeg(
        *("-i", clip, "-vf", f"{graph},{noise}format={pixels}", "-an", "-frames:v", FRAMES),
        *("-c:v", *encoder, "-fps_mode", "passthrough", out),
    )


def _draw(path: Path, shown: dict[str, np.ndarray]) -> None:
    """A detail, twice as large: lanczos, span, waifu2x and the original side by side."""
    height, width, _ = shown["original"].shape
    top, left, side = height // 4, width // 3, height // 2
    parts = [
        shown[name][top : top + side, left : left + side].repeat(2, 0).repeat(2, 1)
        for name in ("lanczos", "span", "waifu2x", "original")
    ]
    picture = np.concatenate(parts, axis=1)
    size = f"{picture.shape[1]}x{picture.shape[0]}"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size)
    run_ffmpeg(*raw, "-i", "-", "-q:v", "3", path, given=picture.tobytes())


def _line(row: Scored) -> str:
    values = "".join(f"{name} {value:5.2f}  " for name, value in row.psnr.items())
    return f"{row.clip:8} {row.coding:13} bits {row.bits:5.3f}  {values}{row.chosen}"


def _summary(rows: list[Scored]) -> str:
    lost = {
        name: statistics.fmean(row.lost[name] for row in rows)
        for name in ("lanczos", "span", "waifu2x", "chosen")
    }
    ratio = statistics.median(row.seconds["waifu2x"] / row.seconds["span"] for row in rows)
    told = ", ".join(f"{name} {value:.2f}" for name, value in lost.items())
    return f"dB below the best, mean: {told}; CPU time of waifu2x over span's: {ratio:.2f}"


if __name__ == "__main__":
    sys.exit(main())
