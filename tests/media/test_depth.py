"""Ten to sixteen bits a sample: as many levels come out as went in."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.planning import build_plan, sizes
from tests.kits.clips.cases import make_video
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg
from tests.kits.pipeline import make_segments, tiny_plan
from tests.kits.videos.oracle import frame_digests, planes
from tests.media.conftest import INSIDE, LONG_FRAMES, SIZE, GetSource

MATRICES = {"bt709": "bt709", "smpte170m": "smpte170m", "bt470bg": "bt470bg", "bt2020nc": "bt2020"}
RANGES = ("tv", "pc")
BARS = f"{INSIDE.removesuffix(',gblur=2')},scale=out_color_matrix=bt709:out_range=tv"
BAR_ROW, BAR_COLUMNS = 50, (20, 57, 91, 125, 159, 193, 227, 261, 300)
"""The middle of each of the large bars."""
WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "smpte170m": (0.299, 0.114),
    "bt470bg": (0.299, 0.114),
    "bt2020nc": (0.2627, 0.0593),
}
"""Of red and blue in luma (ITU-R BT.601, BT.709, BT.2020)."""
SAMPLES = {8: "yuv420p", 10: "yuv420p10le", 12: "yuv420p12le", 16: "yuv420p16le"}


def source_of(folder: Path, bits: int, matrix: str, range_: str) -> Path:
    """A lossless clip, 4:2:0, whose colours all are inside of what R'G'B' holds."""
    path = folder / "source.mkv"
    primaries = "bt2020" if matrix == "bt2020nc" else "bt709"
    size = f"{SIZE[0]}x{SIZE[1]}"
    coded = f"scale=out_color_matrix={MATRICES[matrix]}:out_range={range_},format={SAMPLES[bits]}"
    tags = f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc=bt709"
    ffmpeg(
        *["-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=0.2,{INSIDE}"],
        *["-vf", f"{coded},{tags}:range={range_}", "-color_range", range_, "-c:v", "ffv1", path],
    )
    return path


@pytest.mark.parametrize("range_", RANGES)
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    "bits", [pytest.param(n, marks=pytest.mark.long) if n == 12 else n for n in SAMPLES]
)
def test_luma_is_what_the_formulas_say(tmp_path: Path, bits: int, matrix: str, range_: str) -> None:
    source = source_of(tmp_path, bits, matrix, range_)
    job = make_video(source, tmp_path, codec="ffv1", container="mkv")
    assert job.plan.video.color.full_range == (range_ == "pc")
    written = 10 if bits == 8 and matrix == "bt2020nc" else bits
    pix_fmt = "yuv444p" + (f"{written}le" if written > 8 else "")
    assert job.plan.encoder.pix_fmt == pix_fmt
    (ours, *_) = planes(job.output, pix_fmt)
    wanted = luma_of(planes(source, SAMPLES[bits]), bits, matrix, range_, written)
    off = np.abs(ours - wanted)
    assert off.max() <= (4 if bits == 16 else 1)
    assert abs((ours - wanted).mean()) < (1 if bits == 16 else 0.25)


def luma_of(
    coded: list[np.ndarray], bits: int, matrix: str, range_: str, written: int
) -> np.ndarray:
    """Luma of video range that the formulas give, (T, pixels): BT.709, or BT.2020 of BT.2020.

    Chroma lies between the pixels, as ffmpeg takes it where nothing is said.
    """
    y, cb, cr = coded
    size = (len(y), SIZE[1], SIZE[0])
    scale = 2.0 ** (bits - 8)
    zero, luma, chroma = (0, 255, 255) if range_ == "pc" else (16, 219, 224)
    white, spread = (2**bits - 1,) * 2 if range_ == "pc" else (luma * scale, chroma * scale)
    light = (y.reshape(size) - zero * scale) / white
    blue, red = (
        (doubled(c.reshape(len(c), SIZE[1] // 2, SIZE[0] // 2)) - 128 * scale) / spread
        for c in (cb, cr)
    )
    wr, wb = WEIGHTS[matrix]
    r, b = light + 2 * (1 - wr) * red, light + 2 * (1 - wb) * blue
    g = (light - wr * r - wb * b) / (1 - wr - wb)
    wr, wb = WEIGHTS["bt2020nc" if matrix == "bt2020nc" else "bt709"]
    made = wr * r + (1 - wr - wb) * g + wb * b
    return ((219 * made + 16) * 2.0 ** (written - 8)).reshape(len(y), -1)


def doubled(chroma: np.ndarray) -> np.ndarray:
    """(T, h, w) -> (T, 2h, 2w), bilinear, each sample between four pixels."""
    for axis in (1, 2):
        last = chroma.shape[axis] - 1
        before = chroma.take([0, *range(last)], axis)
        after = chroma.take([*range(1, last + 1), last], axis)
        pair = np.stack([0.75 * chroma + 0.25 * before, 0.75 * chroma + 0.25 * after], axis + 1)
        shape = list(chroma.shape)
        shape[axis] *= 2
        chroma = pair.reshape(shape)
    return chroma


@pytest.mark.parametrize("codec", ["auto", "h264"])
def test_ten_bits_do_not_become_eight(made: GetSource, tmp_path: Path, codec: str) -> None:
    """A slow ramp keeps its steps; 8 bits have a quarter of them."""
    ramp = tmp_path / "ramp.mkv"
    picture = "geq=lum='400+X/2':cb=512:cr=512"
    size = f"{SIZE[0]}x{SIZE[1]}"
    ffmpeg(
        *["-f", "lavfi", "-i", f"color=s={size}:r=25:d=0.2,format=yuv420p10le,{picture}"],
        *["-c:v", "ffv1", ramp],
    )
    job = make_video(ramp, tmp_path, codec=codec, container="mp4", crf=1)
    (luma, *_) = planes(job.output, "yuv420p10le", frames=1)
    steps = len(np.unique(luma))
    if codec == "auto":
        assert job.plan.encoder.codec == "hevc"
        assert steps > 150
    else:
        assert steps < 60
        assert any("10 bits a sample; codec h264 writes 8" in note for note in job.notes)


@pytest.mark.parametrize(
    ("pix_fmt", "source", "pattern", "most"),
    [
        ("yuv420p", "smptebars", "smpte170m", 2),
        ("yuv420p", "smptehdbars", "bt709", 2),
        ("yuv420p10le", "smptehdbars", "bt709", 8),
    ],
    ids=["8 bits BT.601", "8 bits BT.709", "10 bits BT.709"],
)
def test_colour_bars(tmp_path: Path, pix_fmt: str, source: str, pattern: str, most: int) -> None:
    bars = tmp_path / "bars.mkv"
    size = f"{SIZE[0]}x{SIZE[1]}"
    coded = BARS.replace("out_color_matrix=bt709", f"out_color_matrix={MATRICES[pattern]}")
    ffmpeg(
        *["-f", "lavfi", "-i", f"{source}=s={size}:r=25:d=0.2,{coded}"],
        *["-pix_fmt", pix_fmt, "-color_range", "tv", "-colorspace", pattern, "-c:v", "ffv1", bars],
    )
    job = make_video(bars, tmp_path, codec="auto", container="mp4", crf=10, preset="medium")
    shown = f"scale=out_color_matrix={MATRICES[pattern]}:flags=accurate_rnd"
    ours, theirs = planes(job.output, pix_fmt, shown), planes(bars, pix_fmt)
    for one, other, share in zip(ours, theirs, (1, 2, 2), strict=True):
        shape = (-1, SIZE[1] // share, SIZE[0] // share)
        columns = [x // share for x in BAR_COLUMNS]
        a, b = (plane.reshape(shape)[:, BAR_ROW // share, columns] for plane in (one, other))
        assert np.abs(a - b).max() <= most


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["sdr.mp4", "ten.mkv"]
    + [pytest.param(name, marks=pytest.mark.soak) for name in ("long.mkv", "long10.mkv")],
)
def test_a_shot_in_soft_segments_is_bit_equal(
    made: GetSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In 8 and in 16 bits between decoder and encoder."""
    monkeypatch.setattr(sizes, "BUDGETS_PX", {"720p": 32 * 18})
    digests: list[list[str]] = []
    for seconds in (0.3, 10.0):
        plan = tiny_plan(made(name), seconds=seconds, codec="ffv1")
        options = make_options(codec="ffv1", segment_seconds=seconds, cpu_count=1)
        plan = build_plan(plan.video, "0" * 64, dataclasses.replace(options, engine=plan.engine))
        assert plan.deep == ("10" in name or name == "ten.mkv")
        assert "long" not in name or plan.video.num_frames == LONG_FRAMES
        folder = tmp_path / str(seconds)
        make_segments(plan, folder, made(name), range(len(plan.segments)))
        paths = [folder / "segments" / f"{s.index:05}.mp4" for s in plan.segments]
        digests.append([digest for path in paths for digest in frame_digests(path)])
        assert len(plan.segments) == (1 if seconds > 1 else len(paths)) or len(paths) > 1
    assert digests[0] == digests[1]
