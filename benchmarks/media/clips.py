"""The clips that these benchmarks measure on, and how they are chosen on the command line."""

import argparse
import os
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames

ROOT = Path(__file__).parents[2]
CLIPS = Path(os.environ.get("SEEDVR2_SHARED", ROOT.parent / "shared")) / "clips"


def parser_of(doc: str | None, *, only: str = "part of a clip's name") -> argparse.ArgumentParser:
    """The options `--clips`, `--only` and `--json`.

    Args:
        doc: of the benchmark; its first paragraph is the command's description.
        only: what `--only` is a part of, in words.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--only", default="", help=only)
    parser.add_argument("--json", action="store_true")
    return parser


def run_ffmpeg(*options: object, given: bytes = b"") -> bytes:
    """Run ffmpeg quietly, with something on its stdin; returns its stdout."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, options)]
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout


def videos_in(folder: Path, only: str) -> list[Path]:
    """The clips of a folder whose name has `only` in it, by name."""
    videos = (path for path in folder.iterdir() if path.suffix in (".mp4", ".mkv"))
    return sorted(path for path in videos if only in path.name)


def spread_pictures(clip: Path, count: int) -> list[np.ndarray]:
    """So many frames of a clip, the first and the last among them: (H, W, 3) uint8."""
    info = probe_video(clip)
    wanted = {round(k * (info.num_frames - 1) / (count - 1)) for k in range(count)}
    frames = read_frames(clip, info, 0, info.num_frames)
    return [frame.rgb for frame in frames if frame.index in wanted]
