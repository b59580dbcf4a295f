"""How large the output picture is, and what the output file is called."""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import PurePath

from seedvr2_core.video.info import VideoInfo

BUDGETS_PX: Mapping[str, int] = {
    "720p": 1280 * 720,
    "1080p": 1920 * 1080,
    "2k": 2560 * 1440,
    "4k": 3840 * 2160,
}
"""Pixels of the output picture for each resolution that a request can ask for. The sides follow the
displayed aspect ratio of the source."""
OUTPUT_ENDINGS = (".mp4",)
"""Endings of the files that we write; another one would promise another container."""


def target_size(info: VideoInfo, resolution: str) -> tuple[int, int]:
    """(width, height) of the output for a source, both even.

    The picture, as it is displayed (rotated, with square pixels), is scaled to the resolution's
    number of pixels.
    """
    return size_for(*info.display_size, resolution)


def size_for(width: int | Fraction, height: int | Fraction, resolution: str) -> tuple[int, int]:
    """As `target_size`, for a picture that is displayed at this size."""
    scale = math.sqrt(BUDGETS_PX[resolution] / float(width * height))
    sides = (max(2, 2 * round(float(side) * scale / 2)) for side in (width, height))
    return next(sides), next(sides)


def output_name(source_name: str, resolution: str, key: str) -> str:
    """Name of the output file: `<stem>_<resolution>_<first 12 digits of the job key>.mp4`.

    The stem is the source's, with everything but ASCII letters, digits, ".", "_" and "-" replaced.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePath(source_name).stem).strip("._-")[:80]
    return f"{stem or 'video'}_{resolution}_{key[:12]}.mp4"
