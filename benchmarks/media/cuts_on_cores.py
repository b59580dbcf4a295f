"""How much sooner a film's cuts are found by all cores than by one.

`python -m benchmarks.media.cuts_on_cores [--clips FOLDER] [--frames N] [--pairs N] [--json]`

A film of known clips (as `benchmarks.media.cuts` joins them) is looked through twice in each pair:
with one thread of torch, so that one window is looked at while the next pictures are decoded, and
with as many as there are cores. Nothing else should run. Printed are the seconds of each pair, the
first over the second, and the median of these ratios. What the network says must be the same bits.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.media.clips import CLIPS
from benchmarks.media.cuts import NAMES, Film, films, read_clip, write_film
from seedvr2_core.video.cuts import STEP, CutSearch
from seedvr2_core.video.probe import probe_video


def film_of(clips: Path, num_frames: int) -> Film:
    """Shots of 10 to 50 frames, again and again until there are so many frames."""
    shots = [read_clip(clips / name) for name in NAMES]
    frames: list[np.ndarray] = []
    for seed in itertools.count(1):
        frames += films(shots, seed)["shots of 10 to 50"].frames
        if len(frames) >= num_frames:
            return Film(frames=frames[:num_frames])
    raise AssertionError


def looked_at(path: Path, threads: int) -> tuple[float, bytes]:
    """Seconds, and what was found as bytes, with so many threads of torch."""
    torch.set_num_threads(threads)
    info = probe_video(path)
    search = CutSearch(path, info)
    began = time.monotonic()
    whole = range(math.ceil(info.num_frames / STEP))
    logits, jumps = search.at(whole, beat=lambda done: None)
    return time.monotonic() - began, logits.tobytes() + repr(jumps).encode()


def main() -> int:
    """Measure, print; 1 where one core and several do not find the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_film(film_of(options.clips, options.frames), path)
        for _ in range(options.pairs):
            (one, said), (several, said_too) = (looked_at(path, n) for n in (1, cores))
            if said != said_too:
                print("one core and several do not find the same", file=sys.stderr)
                return 1
            pairs.append((one, several))
            if not options.json:
                print(f"1 core {one:.1f} s, {cores} cores {several:.1f} s: {one / several:.2f}")
    ratio = statistics.median(one / several for one, several in pairs)
    if options.json:
        print(json.dumps({"cores": cores, "pairs": pairs, "ratio": round(ratio, 2)}))
    else:
        print(f"{options.frames} frames, the same bits; median {ratio:.2f} on {cores} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
