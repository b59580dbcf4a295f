"""How large the output picture is, and what the output file is called.

A resolution is a name (`720p` to `4k` for an area, `short:720` to `short:2160` for the shorter
side), a factor of the source's size (`2x`, `1.5x`) or a box that the picture has to fit into
(`1920x1080`). Pools, limits and times know the four areas alone; `budget_for` says to which of them
a picture belongs.
"""

import difflib
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import PurePath

from seedvr2_core.errors import PlanError
from seedvr2_core.video.info import VideoInfo, VideoOutline
from seedvr2_core.video.output.formats import CODECS
from seedvr2_core.words import counted

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
"""The budget that a 16:9 picture has with each of these."""
NAMED = (*BUDGETS_PX, *SHORT_SIDES_PX)
"""Resolutions that are names; the others are factors and boxes."""
MAX_BUDGETS = 4
"""Times the budget that a picture may have whose shorter side is given."""
MAX_SIDE_PX = 16_384
"""Longest side of a picture that the encoder takes (x264)."""
MAX_OUTPUT_PX = 7680 * 4320
"""Most pixels of a picture whose size is a factor or a box: four times those of 4k."""
MIN_FACTOR, MAX_FACTOR = Fraction(1, 4), 16
MIN_BOX_PX = 16
BUDGET_TOLERANCE = 1.02
"""A picture belongs to a budget that it exceeds by so little: 1920x1088 is no larger than 1080p."""
OWN_SIZE_PATTERN = r"[0-9]{1,2}(\.[0-9]{1,3})?[xX]|[0-9]{2,5}[xX][0-9]{2,5}"
"""What a factor or a box looks like, as a regular expression of any language."""
RESOLUTION_PATTERN = f"^({'|'.join(NAMED)}|{OWN_SIZE_PATTERN})$"

_FACTOR = re.compile(r"(\d{1,2}(?:\.\d{1,3})?)x")
_BOX = re.compile(r"(\d{2,5})x(\d{2,5})")
_OTHER_NAMES = {
    "hd": "720p",
    **dict.fromkeys(("fhd", "fullhd", "full-hd"), "1080p"),
    **dict.fromkeys(("qhd", "1440", "1440p"), "2k"),
    **dict.fromkeys(("uhd", "2160", "2160p"), "4k"),
}
"""What people call our resolutions."""


def meant_resolution(given: str) -> str | None:
    """The resolution that was probably meant by an unknown name; None if none is close."""
    name = given.lower().strip()
    if factor := re.fullmatch(r"x\s*(\d[\d.]*)|(\d[\d.]*)\s+x", name):
        return f"{factor[1] or factor[2]}x"
    close = difflib.get_close_matches(name, NAMED, n=1)
    return _OTHER_NAMES.get(name) or next(iter(close), None)


def parse_resolution(given: str) -> str:
    """A resolution as jobs keep it: in lower case, one way of writing for one size.

    Raises:
        ValueError: it is none; the sentence says what there is.
    """
    name = given.lower().strip()
    if name in NAMED:
        return name
    if factor := _factor(name):
        if not MIN_FACTOR <= factor <= MAX_FACTOR:
            raise ValueError(
                f"a factor lies between {float(MIN_FACTOR):g}x and {MAX_FACTOR}x; one that makes "
                "the picture smaller is taken as well"
            )
        return f"{float(factor):g}x"
    if box := _box(name):
        if not MIN_BOX_PX <= min(box) <= max(box) <= MAX_SIDE_PX:
            raise ValueError(f"the sides of a box have {MIN_BOX_PX} to {MAX_SIDE_PX} pixels")
        return f"{box[0]}x{box[1]}"
    meant = meant_resolution(given)
    raise ValueError(
        (f"did you mean {meant}? " if meant else "")
        + f"expected one of {', '.join(NAMED)}, a factor such as 2x or 1.5x, or a box such as "
        "1920x1080 that the picture fits into"
    )


def _factor(resolution: str) -> Fraction | None:
    """The factor that a resolution names; None if it names none."""
    found = _FACTOR.fullmatch(resolution)
    return Fraction(found[1]) if found else None


def _box(resolution: str) -> tuple[int, int] | None:
    """The width and height that a resolution names; None if it names none."""
    found = _BOX.fullmatch(resolution)
    return (int(found[1]), int(found[2])) if found else None


def budget_of_size(width: int, height: int) -> str:
    """The smallest budget that a picture fits into; the largest for what is larger than all."""
    pixels = width * height / BUDGET_TOLERANCE
    return next(
        (name for name, budget in BUDGETS_PX.items() if pixels <= budget), [*BUDGETS_PX][-1]
    )


def refuse_size(codec: str, width: int, height: int, *, other: str) -> None:
    """Refuse a picture that is too large or too small for a codec; `other` takes any size.

    Raises:
        PlanError: what the codec can hold, and what to choose.
    """
    spec = CODECS[codec]
    most, (least_width, least_height) = spec.most_side, spec.least_size
    if most and max(width, height) > most:
        fault = f"a side of codec {codec} has at most {most}; choose a smaller resolution"
    elif width < least_width or height < least_height:
        least = f"{least_width}x{least_height}"
        fault = f"a picture of codec {codec} has at least {least}; choose a larger resolution"
    else:
        return
    raise PlanError(f"the output would have {width}x{height} pixels, and {fault}, or codec {other}")


def budget_for(resolution: str, source: tuple[int | Fraction, int | Fraction] | None = None) -> str:
    """The budget by which pools and limits are chosen, of the pixels that come out.

    Args:
        resolution: as `parse_resolution` gives it.
        source: (width, height) of the source as displayed. None: not known yet. Then it is the
            budget of a 16:9 picture for a shorter side, and the most that can come out for a box or
            a factor.

    Raises:
        PlanError: the source cannot have this resolution.
    """
    if resolution in BUDGETS_PX:
        return resolution
    if source is not None:
        return budget_of_size(*size_for(*source, resolution))
    if box := _box(resolution):
        return budget_of_size(*box)
    return BUDGET_NAMES.get(resolution, [*BUDGETS_PX][-1])


def target_size(info: VideoInfo | VideoOutline, resolution: str) -> tuple[int, int]:
    """(width, height) of the output for a source, both even.

    The picture, as it is displayed (rotated, with square pixels), is scaled to the resolution's
    number of pixels, so that its shorter side has the length that the resolution names, by its
    factor, or to the largest that fits into its box.

    Raises:
        PlanError: the picture would have too many pixels, or its longer side is longer than the
            encoder takes.
    """
    return size_for(*info.display_size, resolution)


def size_for(width: int | Fraction, height: int | Fraction, resolution: str) -> tuple[int, int]:
    """As `target_size`, for a picture that is displayed at this size."""
    if box := _box(resolution):
        size = _inside(width, height, box)
    else:
        scale = _scale(width, height, resolution)
        sides = (max(2, 2 * round(float(side) * scale / 2)) for side in (width, height))
        size = next(sides), next(sides)
    _refuse_too_large(size, resolution)
    return size


def _scale(width: int | Fraction, height: int | Fraction, resolution: str) -> float:
    """By how much a picture's sides grow."""
    if resolution in SHORT_SIDES_PX:
        return SHORT_SIDES_PX[resolution] / float(min(width, height))
    if factor := _factor(resolution):
        return float(factor)
    return math.sqrt(BUDGETS_PX[resolution] / float(width * height))


def _inside(width: int | Fraction, height: int | Fraction, box: tuple[int, int]) -> tuple[int, int]:
    """The largest even size of this shape inside a box; a thin ribbon keeps two pixels."""
    scale = min(Fraction(box[0]) / Fraction(width), Fraction(box[1]) / Fraction(height))
    wanted = (Fraction(width) * scale, Fraction(height) * scale)
    sides = [
        max(2, min(2 * round(side / 2), bound // 2 * 2))
        for side, bound in zip(wanted, box, strict=True)
    ]
    return sides[0], sides[1]


def _refuse_too_large(size: tuple[int, int], resolution: str) -> None:
    """Raise a PlanError if this is more than a picture of this resolution may have."""
    would = f"resolution {resolution} would make this picture {size[0]}x{size[1]}"
    budget = BUDGET_NAMES.get(resolution)
    if budget and math.prod(size) > MAX_BUDGETS * BUDGETS_PX[budget]:
        raise PlanError(
            f"{would}, more than {MAX_BUDGETS} times the pixels of {budget}; use {budget}"
        )
    if max(size) > MAX_SIDE_PX:
        raise PlanError(
            f"{would}; its sides may have {MAX_SIDE_PX} pixels, which is the most that the encoder "
            "takes"
        )
    if resolution not in NAMED and math.prod(size) > MAX_OUTPUT_PX:
        raise PlanError(
            f"{would}, {counted(math.prod(size), 'pixel')}; at most {MAX_OUTPUT_PX} are made "
            f"(7680x4320); choose a smaller factor or box, or 4k"
        )


def size_note(width: int | Fraction, height: int | Fraction, resolution: str) -> str:
    """What a resolution means for a picture that is not 16:9; "" where there is nothing to say."""
    if resolution not in BUDGETS_PX:
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
