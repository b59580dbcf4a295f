"""Small sources of every depth, and small outputs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seedvr2_core.planning import sizes
from tests.kits.media import ffmpeg
from tests.kits.pipeline import KeepTorch
from tests.kits.videos.oracle import HDR10, MAX_CLL

SIZE = (320, 180)
INSIDE = "format=gbrp16le,lutrgb=r=10000+val*0.7:g=10000+val*0.7:b=10000+val*0.7,gblur=2"
"""Colours that do not reach the end of what R'G'B' holds."""
_IN_2020 = f"{INSIDE},scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le"
_PQ = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc:range=tv"
_HLG = "setparams=color_primaries=bt2020:color_trc=arib-std-b67:colorspace=bt2020nc:range=tv"
_PICTURE = ["-f", "lavfi", "-i", f"testsrc2=s={SIZE[0]}x{SIZE[1]}:r=25:d=1.2"]
_TONE = ["-f", "lavfi", "-i", "sine=f=440:d=1.2"]
_X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1"]
_QUIET = "log-level=error"

LONG_FRAMES = 600


def _long(pix_fmt: str) -> list[str]:
    """One shot, small."""
    picture = f"testsrc2=s=64x36:r=25:d={LONG_FRAMES / 25}"
    return ["-f", "lavfi", "-i", picture, "-pix_fmt", pix_fmt, "-c:v", "ffv1"]


RECIPES: dict[str, list[str]] = {
    "long.mkv": _long("yuv420p"),
    "long10.mkv": _long("yuv420p10le"),
    "sdr.mp4": [*_PICTURE, *_TONE, "-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac"],
    "ntsc.mp4": [
        *["-f", "lavfi", "-i", "testsrc2=s=320x180:r=30000/1001:d=0.2"],
        *["-c:v", "libx264", "-preset", "veryfast"],
    ],
    "hdr10.mp4": [
        *[*_PICTURE, *_TONE, "-vf", f"{_IN_2020},{_PQ}", *_X265],
        *["-x265-params", f"{_QUIET}:hdr10=1:master-display={HDR10}:max-cll={MAX_CLL}"],
        *["-c:a", "aac"],
    ],
    "hlg.mp4": [
        *[*_PICTURE, "-vf", f"{_IN_2020},{_HLG}", *_X265, "-x265-params", _QUIET],
    ],
    "ten.mkv": [
        *[*_PICTURE, *_TONE, "-vf", "format=yuv420p10le", "-c:v", "ffv1", "-c:a", "pcm_s16le"],
    ],
}

GetSource = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> GetSource:
    """Get a source by its name in `RECIPES`; it is made once."""
    folder = tmp_path_factory.mktemp("media")

    def get(name: str) -> Path:
        path = folder / name
        if not path.exists():
            ffmpeg(*RECIPES[name], path)
        return path

    return get


@pytest.fixture(scope="module", autouse=True)
def small_outputs() -> Iterator[None]:
    """Plans for 720p have as many pixels as the sources, so that nothing is resized."""
    with pytest.MonkeyPatch.context() as monkeypatch, KeepTorch():
        monkeypatch.setattr(sizes, "BUDGETS_PX", {**sizes.BUDGETS_PX, "720p": SIZE[0] * SIZE[1]})
        yield
