"""Every kind of clip through the whole flow: the same frames, times, colours and sound come out.

What is right is told by an ffmpeg process, which shares no code path with the system: it says which
frames a file presents and when, shows them upright, and scales them with its own Lanczos filter.
"""

import math
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flows.upscale import upscale
from tasks.schemas import UpscaleResult
from tasks.settings import Settings, use_settings
from tests.kits.faults import use_small_pictures

pytestmark = pytest.mark.usefixtures("in_api")

RunFfmpeg = Callable[..., subprocess.CompletedProcess[bytes]]

FULL_PX, SMALL_PX = 1280 * 720, 480 * 270
"""720p itself, and what it means for most clips here: the same code, in half the time."""
HD_ROWS, HD_COLUMNS = 720, 1280

CLIPS = [
    *["bunny_1280x720_25.mp4", "carphone_176x144_2997_sar.mp4", "coffee_1280x720_2997.mp4"],
    *["eyes_212x120_25.mp4", "flower_960x540_2997.mp4", "friday_640x480_30.mp4"],
    *["nasa_320x180_25_2audio.mp4", "sign_640x480_30_fullrange.mkv", "walkers_384x288_25.mp4"],
    *["edge/bt601_limited_range.mp4", "edge/bt601_full_range.mp4"],
    *["edge/discard_first_keyframe.mp4", "edge/failing_audio.mp4", "edge/nasa_13013_rotated.mp4"],
    *["edge/no_duration.webm", "edge/test_non_zero_start.mp4", "edge/testsrc2_odd_height_444.mp4"],
]
PLAIN = {
    *("bunny_1280x720_25.mp4", "coffee_1280x720_2997.mp4", "flower_960x540_2997.mp4"),
    *("friday_640x480_30.mp4", "walkers_384x288_25.mp4", "eyes_212x120_25.mp4"),
    *("edge/bt601_limited_range.mp4", "edge/bt601_full_range.mp4"),
}
"""Nothing but their size or content is special, which others have too: soak."""
FULL = {
    *("edge/testsrc2_odd_height_444.mp4", "edge/bt601_limited_range.mp4"),
    "edge/bt601_full_range.mp4",
}
"""Test patterns with colours of single pixels, which a smaller 4:2:0 picture does not hold."""
HDR_CLIPS = ["edge/bt2020_10bit.mp4", "edge/nasa_13013_hdr.mp4"]


@pytest.fixture
def budget_px(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pixels of the outputs of this test."""
    budget = FULL_PX if request.node.callspec.params["name"] in FULL else SMALL_PX
    use_small_pictures(monkeypatch, budget)
    return budget


@pytest.fixture
def work_dir(tmp_path: Path) -> Iterator[Path]:
    """A work directory of its own, segments of two seconds."""
    use_settings(Settings(work_dir=tmp_path, allow_local_files=True, segment_seconds=2))
    yield tmp_path
    use_settings(None)


def run(clip: Path) -> UpscaleResult:
    return upscale(video_path=str(clip), model="lanczos", resolution="720p", preset="ultrafast")


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What ffmpeg says about a file."""

    width: int
    """Coded."""
    height: int
    sar: Fraction
    quarter_turns: int
    tags: str
    """Pixel format and colour of the video, e.g. "yuv420p(tv, bt709, progressive)"."""
    num_audio: int

    @property
    def displayed(self) -> tuple[Fraction, Fraction]:
        """(width, height) upright, in square pixels."""
        width, height = self.width * self.sar, Fraction(self.height)
        return (height, width) if self.quarter_turns % 2 else (width, height)


def look_at(ffmpeg: RunFfmpeg, path: Path) -> Looks:
    text = ffmpeg("-i", path, "-map", "0:v:0", "-c", "copy", "-t", "0", "-f", "null", "-").stderr
    described = text.decode().split("Output #0")[0]
    video = re.search(r"Video: \w+[^,]*, (\w+(?:\([^)]*\))?), (\d+)x(\d+)([^\n]*)", described)
    assert video is not None, described
    sar = re.search(r"SAR (\d+):(\d+)", video[4])
    rotation = re.search(r"rotation of (-?[\d.]+) degrees", described)
    return Looks(
        width=int(video[2]),
        height=int(video[3]),
        sar=Fraction(int(sar[1]), int(sar[2])) if sar else Fraction(1),
        quarter_turns=round(float(rotation[1]) / 90) % 4 if rotation else 0,
        tags=video[1],
        num_audio=described.count("Audio: "),
    )


def expected_size(looks: Looks, budget_px: int) -> tuple[int, int]:
    """The displayed picture at the budget's area, each side rounded to even."""
    width, height = map(float, looks.displayed)
    scale = math.sqrt(budget_px / (width * height))
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


def expected_matrix(looks: Looks) -> str:
    """Of the source's colours: as tagged, else what players take for its size."""
    for tag, name in (("bt709", "bt709"), ("smpte170m", "bt601"), ("bt470bg", "bt601")):
        if re.search(rf"\((?:tv|pc), {tag}", looks.tags):
            return name
    return "bt709" if looks.height >= HD_ROWS or looks.width >= HD_COLUMNS else "bt601"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What ffmpeg presents."""

    times: list[Fraction]
    pictures: np.ndarray
    """(2, H, W, 3) float64: the first frame and the middle one."""


def show(
    ffmpeg: RunFfmpeg, path: Path, *, matrix: str, size: tuple[int, int], middle: int, log: Path
) -> Shown:
    """Decode a file once: presentation times of all frames, two pictures at `size`."""
    one_to_one = ["-map", "0:v:0", "-fps_mode", "passthrough"]
    times = ["-enc_time_base", "demux", "-vf", "scale=16:16:flags=neighbor", "-f", "framehash", log]
    # First to R'G'B' at the file's own size, as engines see it: chroma lies left, as H.264 says.
    exact = "flags=bilinear+full_chroma_int+accurate_rnd"
    siting = "" if path.suffix == ".webm" else "in_chroma_loc=left:"
    to_rgb = f"scale=iw:ih:in_color_matrix={matrix}:{siting}{exact},format=rgb24"
    to_size = f"scale={size[0]}:{size[1]}:flags=lanczos"
    chosen = rf"select=eq(n\,0)+eq(n\,{middle}),{to_rgb},{to_size}"
    pictures = ["-vf", chosen, "-f", "rawvideo", "-"]
    raw = ffmpeg("-copyts", "-i", path, *one_to_one, *times, *one_to_one, *pictures).stdout
    lines = log.read_text().splitlines()
    base = next(Fraction(line.split()[-1]) for line in lines if line.startswith("#tb 0"))
    return Shown(
        times=[int(line.split(",")[2]) * base for line in lines if not line.startswith("#")],
        pictures=np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3).astype(np.float64),
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(float(np.mean((a - b) ** 2)), 1e-9))


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One audio stream as it lies in a file."""

    start: Fraction
    """Of the first packet, in seconds."""
    digests: list[str]
    """Of every packet."""


def sounds_of(ffmpeg: RunFfmpeg, path: Path) -> list[Sound]:
    to_text = ["-c", "copy", "-f", "framehash", "-hash", "md5", "-"]
    lines = ffmpeg("-copyts", "-i", path, "-map", "0:a", *to_text).stdout.decode().splitlines()
    bases: dict[int, Fraction] = {}
    packets: dict[int, list[list[str]]] = defaultdict(list)
    for line in lines:
        if line.startswith("#tb "):
            index, base = line.removeprefix("#tb ").split(": ")
            bases[int(index)] = Fraction(base)
        elif not line.startswith("#"):
            index, *rest = (field.strip() for field in line.split(","))
            packets[int(index)].append(rest)
    return [
        Sound(start=int(rows[0][1]) * bases[index], digests=[row[4] for row in rows])
        for index, rows in sorted(packets.items())
    ]


def assert_same_sound(ffmpeg: RunFfmpeg, source: Path, output: Path, sample: Fraction) -> None:
    """The packets of every audio stream, unchanged and in their place."""
    before, after = sounds_of(ffmpeg, source), sounds_of(ffmpeg, output)
    assert [len(sound.digests) for sound in after] == [len(sound.digests) for sound in before]
    assert [sound.digests for sound in after] == [sound.digests for sound in before]
    for old, new in zip(before, after, strict=True):
        assert abs(old.start - new.start) <= 2 * sample


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.soak if n in PLAIN else ()) for n in CLIPS]
)
def test_what_goes_in_comes_out(
    budget_px: int, work_dir: Path, shared: Path, ffmpeg: RunFfmpeg, name: str
) -> None:
    source = shared / "clips" / name
    result = run(source)
    output = Path(result.output_path or "")
    before, after = look_at(ffmpeg, source), look_at(ffmpeg, output)

    size = expected_size(before, budget_px)
    assert (result.width, result.height) == (after.width, after.height) == size
    assert (after.sar, after.quarter_turns) == (1, 0)
    assert after.tags.startswith("yuv420p(tv, bt709")

    middle = result.frames // 2
    log = work_dir / "times.txt"
    matrix = expected_matrix(before)
    wanted = show(ffmpeg, source, matrix=matrix, size=size, middle=middle, log=log)
    got = show(ffmpeg, output, matrix="bt709", size=size, middle=middle, log=log)
    assert result.frames == len(wanted.times)
    assert got.times == wanted.times
    near = [psnr(a, b) for a, b in zip(wanted.pictures, got.pictures, strict=True)]
    bias = np.abs((wanted.pictures - got.pictures).mean(axis=(1, 2))).max()
    print(f"{name}: PSNR {near[0]:.1f} {near[1]:.1f} dB, largest bias {bias:.2f} levels")
    # A wrong range gives 31 dB or less, a wrong matrix a bias of up to 6 levels; measured when
    # right: 36 dB and more (44 without 4:4:4 test patterns), 0.5 levels at most.
    assert min(near) > 34
    assert bias < 0.6

    assert after.num_audio == before.num_audio
    if before.num_audio:
        assert_same_sound(ffmpeg, source, output, Fraction(1, 44100))


@pytest.mark.long
@pytest.mark.parametrize("name", HDR_CLIPS)
def test_hdr_comes_out_as_hdr(
    budget_px: int, work_dir: Path, shared: Path, ffmpeg: RunFfmpeg, name: str
) -> None:
    source = shared / "clips" / name
    result = run(source)
    after = look_at(ffmpeg, Path(result.output_path or ""))
    assert (result.codec, result.bits, result.container) == ("hevc", 10, "mp4")
    assert result.hdr == "experimental"
    assert any("experimental" in note for note in result.notes)
    assert after.tags.startswith("yuv420p10le(tv, bt2020nc/bt2020/smpte2084")
    assert (after.width, after.height) == expected_size(look_at(ffmpeg, source), budget_px)
