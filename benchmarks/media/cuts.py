"""How many cuts are found, and how many are that are none, in films joined from known clips.

`python -m benchmarks.media.cuts [--clips FOLDER] [--json]`

Clips without a cut of their own are joined in an order drawn from a seed, so every cut is known.
Each row is one film:

shots           of 10 to 50 frames
shots of n      of 1 to 5 frames, each between two of 12
flashes         one shot with white frames in it, one or two at once, as of a camera: no cut
fades           out to black and in again: one cut each, anywhere in it
dissolves       of half a second: one cut each, anywhere in it
60 in 60        a shot a frame for 60 frames, between two longer shots

A cut counts as found where the first frame of the new shot is named, to the frame; in fades and
dissolves, one anywhere inside. Precision is the share of what was found that are cuts; recall the
share of the cuts that were found.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.media.clips import CLIPS, run_ffmpeg
from seedvr2_core.video.cuts import detect_cuts
from seedvr2_core.video.probe import probe_video

WIDTH, HEIGHT = 320, 180
FADE, DISSOLVE = 12, 12
"""Frames of the whole way out and in, and of a dissolve."""
SHORT = (1, 2, 3, 4, 5)
NAMES = (
    *("bunny_1280x720_25.mp4", "carphone_176x144_2997_sar.mp4", "coffee_1280x720_2997.mp4"),
    *("eyes_212x120_25.mp4", "flower_960x540_2997.mp4", "friday_640x480_30.mp4"),
    *("nasa_320x180_25_2audio.mp4", "sign_640x480_30_fullrange.mkv", "walkers_384x288_25.mp4"),
)


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Frames of one clip, (T, HEIGHT, WIDTH, 3) uint8."""

    name: str
    frames: np.ndarray


@dataclass(kw_only=True)
class Film:
    """Frames that are put together, with the places where a cut is right."""

    frames: list[np.ndarray] = field(default_factory=list)
    cuts: list[range] = field(default_factory=list)
    """For each cut the frames that may be named."""

    def shot(self, frames: np.ndarray, *, cut: bool = True) -> None:
        """Add a shot, after a hard cut if there is something before it."""
        if self.frames and cut:
            self.cuts.append(range(len(self.frames), len(self.frames) + 1))
        self.frames += list(frames)


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a detector has found of a film's cuts."""

    cuts: int
    right: int
    wrong: int

    @property
    def precision(self) -> float:
        """Share of what was found that are cuts."""
        found = self.right + self.wrong
        return self.right / found if found else 1.0

    @property
    def recall(self) -> float:
        """Share of the cuts that were found."""
        return self.right / self.cuts if self.cuts else 1.0


def read_clip(path: Path, frames: int = 100) -> Shots:
    """The first frames of a clip, small."""
    scaled = ["-frames:v", frames, "-vf", f"scale={WIDTH}:{HEIGHT}", "-pix_fmt", "rgb24"]
    raw = run_ffmpeg("-i", path, *scaled, "-f", "rawvideo", "-")
    return Shots(name=path.name, frames=np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3))


def films(clips: Sequence[Shots], seed: int = 1) -> Mapping[str, Film]:
    """All films, by the name of their row."""
    made = {"shots of 10 to 50": _film_of_shots(clips, seed)}
    for count in SHORT:
        made[f"shots of {count}"] = _film_of_short_shots(clips, seed, count)
    made["flashes"] = _film_of_flashes(clips)
    made["fades"] = _film_of_fades(clips, seed)
    made["dissolves"] = _film_of_dissolves(clips, seed)
    made["60 in 60"] = _film_of_single_frames(clips, seed)
    return made


def _shuffled(clips: Sequence[Shots], seed: int) -> Iterator[tuple[Shots, random.Random]]:
    """Clips without end, none twice in a row."""
    draw, last = random.Random(seed), None
    while True:
        order = draw.sample(clips, len(clips))
        if order[0] is last:
            order.reverse()
        for last in order:
            yield last, draw


def _part(clip: Shots, draw: random.Random, count: int) -> np.ndarray:
    start = draw.randrange(max(1, len(clip.frames) - count))
    return clip.frames[start : start + count]


def _film_of_shots(clips: Sequence[Shots], seed: int) -> Film:
    film = Film()
    for clip, draw in itertools.islice(_shuffled(clips, seed), 40):
        film.shot(_part(clip, draw, draw.randint(10, min(50, len(clip.frames)))))
    return film


def _film_of_short_shots(clips: Sequence[Shots], seed: int, count: int) -> Film:
    film = Film()
    for place, (clip, draw) in enumerate(itertools.islice(_shuffled(clips, seed), 31)):
        film.shot(_part(clip, draw, count if place % 2 else 12))
    return film


def _film_of_flashes(clips: Sequence[Shots]) -> Film:
    """Each clip is a shot, with cuts between them and flashes inside of them."""
    film = Film()
    for place, clip in enumerate(clips):
        frames = clip.frames[:45].copy()
        for at in (15, 30):
            lit = frames[at : at + 1 + place % 2].astype(np.uint16)
            frames[at : at + 1 + place % 2] = np.minimum(255, lit // 4 + 190)
        film.shot(frames)
    return film


def _film_of_fades(clips: Sequence[Shots], seed: int) -> Film:
    film = Film()
    half = FADE // 2
    for place, (clip, draw) in enumerate(itertools.islice(_shuffled(clips, seed), 16)):
        frames = _part(clip, draw, 40).astype(np.float32)
        light = np.ones(len(frames), np.float32)
        light[-half:] = np.linspace(1, 0, half)
        if place:
            light[:half] = np.linspace(0, 1, half)
            film.cuts.append(range(len(film.frames) - half, len(film.frames) + half + 1))
        film.frames += list((frames * light[:, None, None, None]).astype(np.uint8))
    return film


def _film_of_dissolves(clips: Sequence[Shots], seed: int) -> Film:
    film = Film()
    for place, (clip, draw) in enumerate(itertools.islice(_shuffled(clips, seed), 16)):
        frames = _part(clip, draw, 44)
        if not place:
            film.frames += list(frames)
            continue
        before = np.stack(film.frames[-DISSOLVE:]).astype(np.float32)
        share = np.linspace(0, 1, DISSOLVE + 2)[1:-1, None, None, None]
        mixed = before * (1 - share) + frames[:DISSOLVE] * share
        film.cuts.append(range(len(film.frames) - DISSOLVE, len(film.frames) + 1))
        film.frames[-DISSOLVE:] = list(mixed.astype(np.uint8))
        film.frames += list(frames[DISSOLVE:])
    return film


def _film_of_single_frames(clips: Sequence[Shots], seed: int) -> Film:
    film = Film()
    shuffled = _shuffled(clips, seed)
    first, draw = next(shuffled)
    film.shot(_part(first, draw, 30))
    for clip, draw in itertools.islice(shuffled, 60):
        film.shot(_part(clip, draw, 1))
    film.shot(_part(next(shuffled)[0], draw, 30))
    return film


def write_film(film: Film, path: Path) -> None:
    """Encode a film as x264 does it by default."""
    size = ["-s", f"{WIDTH}x{HEIGHT}", "-r", "25"]
    run_ffmpeg(
        *["-f", "rawvideo", "-pix_fmt", "rgb24", *size, "-i", "-", "-c:v", "libx264"],
        *["-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", path],
        given=b"".join(frame.tobytes() for frame in film.frames),
    )


def compared(film: Film, found: Sequence[int]) -> Score:
    """Hold what was found against what is there; a place that is named twice is wrong once."""
    left = list(found)
    right = 0
    for places in film.cuts:
        if named := [frame for frame in left if frame in places]:
            left.remove(named[0])
            right += 1
    return Score(cuts=len(film.cuts), right=right, wrong=len(left))


def measure(film: Film, folder: Path) -> Score:
    """Write a film, look for its cuts, and compare."""
    path = folder / "film.mp4"
    write_film(film, path)
    info = probe_video(path)
    assert info.num_frames == len(film.frames)
    return compared(film, detect_cuts(path, info, beat=lambda phase, done, total: None))


def main() -> int:
    """Print one row a film, and all together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    clips = [read_clip(arguments.clips / name) for name in NAMES]
    rows: dict[str, Score] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, film in films(clips, arguments.seed).items():
            rows[name] = measure(film, Path(folder))
    counts = [(row.cuts, row.right, row.wrong) for row in rows.values()]
    cuts, right, wrong = (sum(column) for column in zip(*counts, strict=True))
    rows["all"] = Score(cuts=cuts, right=right, wrong=wrong)
    if arguments.json:
        print(json.dumps({name: [row.precision, row.recall] for name, row in rows.items()}))
        return 0
    print(f"{'film':20} {'cuts':>5} {'found':>6} {'wrong':>6} {'precision':>10} {'recall':>7}")
    for name, row in rows.items():
        counted = f"{row.cuts:5} {row.right:6} {row.wrong:6}"
        print(f"{name:20} {counted} {row.precision:10.3f} {row.recall:7.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
