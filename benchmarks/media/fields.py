"""How well interlaced video, film with pulldown and progressive video are told apart.

`python -m benchmarks.media.fields [--clips FOLDER]`

The thresholds of `probing/fields.py` were found on moving test patterns. Here real clips, which
nobody looked at for that, become what tape, discs and broadcasts are, and are probed. Fields are
taken from neighbouring frames of the clip, so motion between them is larger than a camera's.
Printed is a table of what they are against what was found, and each sample that was taken for
something else.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.media.clips import CLIPS, run_ffmpeg
from seedvr2_core.video.fields.facts import Fields
from seedvr2_core.video.probe import probe_video

NAMES = (
    *("bunny_1280x720_25.mp4", "coffee_1280x720_2997.mp4", "friday_640x480_30.mp4"),
    *("nasa_320x180_25_2audio.mp4", "sign_640x480_30_fullrange.mkv", "walkers_384x288_25.mp4"),
)
_ILME = ("-flags", "+ilme+ildct")
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20")
_MPEG2 = ("-c:v", "mpeg2video", "-b:v", "6M")
_PAL, _NTSC = "scale=720:576,setsar=16/15", "scale=720:480,setsar=8/9"
_TAPE = "gblur=sigma=1:sigmaV=0.1,noise=alls=14:allf=t"
"""What VHS does to a line, and its noise."""

KINDS: Mapping[str, tuple[str, str, str, Sequence[str]]] = {
    "progressive": ("progressive", "25", _PAL, _X264),
    "progressive, marked": ("progressive", "25", _PAL, (*_X264, *_ILME, "-x264-params", "tff=1")),
    "progressive tape": ("progressive", "25", f"{_PAL},{_TAPE}", _X264),
    "dvd, top first": (
        *("top", "50"),
        f"{_PAL},tinterlace=interleave_top,setfield=tff",
        (*_MPEG2, *_ILME),
    ),
    "dv, bottom first": (
        *("bottom", "60000/1001"),
        f"{_NTSC},tinterlace=interleave_bottom,setfield=bff",
        (*_X264, *_ILME, "-x264-params", "bff=1"),
    ),
    "captured, unmarked": (
        *("top", "50"),
        f"{_PAL},tinterlace=interleave_top,setfield=prog",
        _X264,
    ),
    "tape": (
        *("bottom", "50"),
        f"{_PAL},{_TAPE},tinterlace=interleave_bottom,setfield=bff",
        (*_MPEG2, *_ILME),
    ),
    "film": (
        *("film", "24000/1001"),
        f"{_NTSC},telecine=pattern=23:first_field=top,setfield=tff",
        (*_X264, *_ILME, "-x264-params", "tff=1"),
    ),
}
"""Name -> (what it is, pictures a second that the clip is given, filters, encoder)."""


def make_sample(clip: Path, kind: str, path: Path) -> None:
    """Make a sample of a kind of a clip."""
    _, rate, filters, encoder = KINDS[kind]
    # -r before the input counts frames anew, and drops none.
    given = ["-r", rate, "-i", clip, "-an", "-frames:v", "160", "-vf", filters]
    run_ffmpeg(*given, "-pix_fmt", "yuv420p", *encoder, path)


def said(fields: Fields) -> str:
    """What was found, in the words of `KINDS`."""
    if not fields.interlaced:
        return "progressive"
    if fields.film:
        return "film"
    return {True: "top", False: "bottom", None: "unknown order"}[fields.top_first]


def table(counts: Counter[tuple[str, str]]) -> str:
    """What samples are (rows) against what was found (columns)."""
    found = ("progressive", "top", "bottom", "film", "unknown order")
    lines = [f"{'':14}" + "".join(f"{name:>14}" for name in found)]
    for kind in ("progressive", "top", "bottom", "film"):
        cells = "".join(f"{counts[kind, name]:14}" for name in found)
        lines.append(f"{kind:14}{cells}")
    return "\n".join(lines)


def measure(clips: Sequence[Path], folder: Path) -> tuple[Counter[tuple[str, str]], list[str]]:
    """(what is, what was found) -> how often; and a line for each that differs."""
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    for clip in clips:
        for kind, (is_, *_) in KINDS.items():
            path = folder / "sample.mkv"
            make_sample(clip, kind, path)
            fields = probe_video(path).fields
            counts[is_, said(fields)] += 1
            if said(fields) != is_:
                wrong.append(f"{clip.name}, {kind}: {said(fields)} ({fields})")
    return counts, wrong


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, default=CLIPS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = measure([arguments.clips / name for name in NAMES], Path(folder))
    print(table(counts))
    print("\n".join(wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main())
