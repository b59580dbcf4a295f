"""How large the output picture is, and what the output file is called."""

import difflib
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import PurePath

from seedvr2_core.errors import PlanError
from seedvr2_core.video.info import VideoInfo, VideoOutline

BUDGETS_PX: Mapping[str, int] = {
    "720p": 1280 * 720,
    "1080p": 1920 * 1080,
    "2k": 2560 * 1440,
    "4k": 3840 * 2160,
}
"""Pixels of the output picture for each resolution that a request can ask for. The sides follow the
displayed aspect ratio of the source."""
SHORT_SIDES_PX: Mapping[str, int] = {
    "short:720": 720,
    "short:1080": 1080,
    "short:1440": 1440,
    "short:2160": 2160,
}
"""Pixels of the output picture's shorter side, for each resolution that names it."""
BUDGET_NAMES: Mapping[str, str] = dict(zip(SHORT_SIDES_PX, BUDGETS_PX, strict=True))
"""The budget that a 16:9 picture has with each of these: what runs one can run the other."""
MAX_BUDGETS = 4
"""Times the budget that a picture may have whose shorter side is given."""
MAX_SIDE_PX = 16_384
"""Longest side of a picture that the encoder takes (x264)."""


_OTHER_NAMES = {
    **dict.fromkeys(("hd", "1280x720"), "720p"),
    **dict.fromkeys(("fhd", "fullhd", "full-hd", "1920x1080"), "1080p"),
    **dict.fromkeys(("qhd", "1440", "1440p", "2560x1440"), "2k"),
    **dict.fromkeys(("uhd", "2160", "2160p", "3840x2160"), "4k"),
}
"""What people call our resolutions."""


def meant_resolution(given: str) -> str | None:
    """The resolution that was probably meant by an unknown name; None if none is close."""
    name = given.lower().strip()
    close = difflib.get_close_matches(name, [*BUDGETS_PX, *SHORT_SIDES_PX], n=1)
    return _OTHER_NAMES.get(name) or next(iter(close), None)


def budget_name(resolution: str) -> str:
    """The budget that a resolution belongs to, by which pools and limits are chosen."""
    return BUDGET_NAMES.get(resolution, resolution)


def target_size(info: VideoInfo | VideoOutline, resolution: str) -> tuple[int, int]:
    """(width, height) of the output for a source, both even.

    The picture, as it is displayed (rotated, with square pixels), is scaled to the resolution's
    number of pixels, or so that its shorter side has the length that the resolution names.

    Raises:
        PlanError: the picture is so wide or high that its shorter side would make it too large,
            or its longer one is longer than the encoder takes.
    """
    return size_for(*info.display_size, resolution)


def size_for(width: int | Fraction, height: int | Fraction, resolution: str) -> tuple[int, int]:
    """As `target_size`, for a picture that is displayed at this size."""
    if resolution in SHORT_SIDES_PX:
        scale = SHORT_SIDES_PX[resolution] / float(min(width, height))
    else:
        scale = math.sqrt(BUDGETS_PX[resolution] / float(width * height))
    sides = (max(2, 2 * round(float(side) * scale / 2)) for side in (width, height))
    size = next(sides), next(sides)
    budget = budget_name(resolution)
    if resolution in SHORT_SIDES_PX and math.prod(size) > MAX_BUDGETS * BUDGETS_PX[budget]:
        raise PlanError(
            f"resolution {resolution} would make this picture {size[0]}x{size[1]}, more than "
            f"{MAX_BUDGETS} times the pixels of {budget}; use {budget}"
        )
    if max(size) > MAX_SIDE_PX:
        raise PlanError(
            f"resolution {resolution} would make this picture {size[0]}x{size[1]}; its sides may "
            f"have {MAX_SIDE_PX} pixels, which is the most that the encoder takes"
        )
    return size


def size_note(width: int | Fraction, height: int | Fraction, resolution: str) -> str:
    """What a resolution means for a picture that is not 16:9; "" where there is nothing to say."""
    if resolution in SHORT_SIDES_PX:
        return ""
    made = size_for(width, height, resolution)
    short = next(name for name, budget in BUDGET_NAMES.items() if budget == resolution)
    named = SHORT_SIDES_PX[short]
    if abs(min(made) - named) <= named / 50:
        return ""
    try:
        other = size_for(width, height, short)
    except PlanError:
        return ""
    return (
        f"{resolution} sets the number of pixels: this picture becomes {made[0]}x{made[1]}; "
        f"resolution {short} makes it {other[0]}x{other[1]}"
    )


def output_name(source_name: str, resolution: str, key: str, *, ending: str = ".mp4") -> str:
    """Name of the output file: `<stem>_<resolution>_<first 12 digits of the job key><ending>`.

    The stem is the source's, with everything but ASCII letters, digits, ".", "_" and "-" replaced.
    The resolution loses its colon, which some file systems do not take.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePath(source_name).stem).strip("._-")[:80]
    size = resolution.replace(":", "")
    return f"{stem or 'video'}_{size}_{key[:12]}{ending}"
