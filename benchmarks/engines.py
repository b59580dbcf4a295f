"""Speed of the engines on the CPU against the plain way to the same pictures.

Run `python benchmarks/engines.py`. `tiny` is the production session (slices, folded weights)
against the networks as trained, each level in one call. `span` and `lanczos` are a frame of the
engine against torch's own modules without strips and sizes. Both ways take turns in one process;
the figure is the median ratio, ours over theirs: at most 1.1 is the aim.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.model.__main__ import parse
from benchmarks.model.bench import TimedSession
from benchmarks.model.setup import make_setup
from seedvr2_core.engines.lanczos import resize_rgb
from seedvr2_core.engines.span import load_span, upscale_rgb
from seedvr2_core.engines.table import span_weight_files

CPU = torch.device("cpu")
SOURCE, TARGET = (270, 480), (540, 960)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="part of an engine's name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, make in {"tiny": _tiny, "span": _span, "lanczos": _lanczos}.items():
        if options.only not in name:
            continue
        ratios: list[float] = []
        with torch.inference_mode():
            for ours, theirs in make(options.rounds + 1):
                ratios.append(_seconds(ours) / _seconds(theirs))
        middle = statistics.median(ratios[1:])  # the first round warms up
        if options.json:
            print(json.dumps({"engine": name, "ratio": middle, "ratios": ratios[1:]}), flush=True)
        else:
            shown = " ".join(f"{ratio:.2f}" for ratio in ratios[1:])
            print(f"{name:8} {middle:5.2f} of the plain way's time ({shown})", flush=True)
    return 0


Pairs = Iterator[tuple[Callable[[], object], Callable[[], object]]]


def _tiny(rounds: int) -> Pairs:
    given = ["--model", "tiny", "--device", "cpu", "--no-convs", "--windows", str(rounds)]
    sessions: list[TimedSession] = []
    for more in ([], ["--plain", "--slices", "999,999,999,999", "--chunk-tokens", "9999999"]):
        options = parse([*given, *more])
        setup = make_setup(options, CPU, None)
        sessions.append(TimedSession(options, setup, CPU, began=time.perf_counter()))
    for _ in range(rounds):
        yield sessions[0].piece, sessions[1].piece


def _span(rounds: int) -> Pairs:
    param, weights = span_weight_files()[:2]
    model = load_span(param, weights, factor=2, device="cpu")
    rgb = _picture()

    def plain() -> object:
        x_BCHW = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2).float().div_(255)
        return model(x_BCHW).mul(255).round_().clamp_(0, 255).to(torch.uint8)

    for _ in range(rounds):
        yield (
            lambda: upscale_rgb(
                rgb, models={2: model}, height=TARGET[0], width=TARGET[1], device="cpu"
            ),
            plain,
        )


def _lanczos(rounds: int) -> Pairs:
    rgb = _picture()

    def plain() -> object:
        x_BCHW = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
        return F.interpolate(x_BCHW, TARGET, mode="lanczos", antialias=True)

    for _ in range(rounds):
        yield lambda: resize_rgb(rgb, height=TARGET[0], width=TARGET[1]), plain


def _picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*SOURCE, 3), np.uint8)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
