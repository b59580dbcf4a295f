"""WebM with alpha, as browsers show it: VP9 with a second video beside each packet."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from seedvr2_core.errors import PlanError, SegmentError
from seedvr2_core.job import JobDir
from seedvr2_core.job.restored import read_restored
from seedvr2_core.planning import build_plan
from seedvr2_core.video import join
from seedvr2_core.video.alpha.wish import FLATTEN
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.clips.cases import Made, make_video
from tests.kits.clips.transparent import FRAMES, HEIGHT, WIDTH, saved, shown_alpha, textured
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg, shown_times

SIZE = (WIDTH, HEIGHT)
ALPHA_MODE = b"\x53\xc0\x81"
"""Matroska's element that says whether there is alpha, and that one byte follows."""
VPX = "libvpx-vp9"
"""ffmpeg's own decoder passes over alpha."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A textured disc."""
    return saved(tmp_path_factory.mktemp("webm") / "png.mov", textured())


@pytest.fixture(scope="module")
def job(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return webm_of(source, tmp_path_factory.mktemp("job"))


def webm_of(source: Path, folder: Path, **changes: object) -> Made:
    """A job in three segments, at the source's size."""
    usual = {"codec": "auto", "container": "webm", "resolution": "1x", "segment_seconds": 0.16}
    return make_video(source, folder, **{**usual, "crf": 6, **changes})


def pixels(path: Path) -> np.ndarray:
    """(T, H, W, 4) uint8: what an ffmpeg process with libvpx shows."""
    raw = ffmpeg(
        *["-c:v", VPX, "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough"],
        *["-pix_fmt", "rgba", "-f", "rawvideo", "-"],
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 4).astype(int)


def test_alpha_and_colours_are_those_of_the_source(source: Path, job: Made) -> None:
    assert (job.plan.encoder.codec, len(job.plan.segments)) == ("vp9", 3)
    made, wanted = pixels(job.output), textured().astype(int)
    assert made.shape == wanted.shape
    assert np.abs(made[..., 3] - wanted[..., 3]).mean() < 1
    assert np.abs(made[..., 3] - wanted[..., 3]).max() <= 16
    opaque = wanted[..., 3] == 255
    assert np.abs(made[..., :3] - wanted[..., :3])[opaque].mean() < 4  # colours of half the size
    with av.open(str(job.output)) as container:
        assert container.format.name.startswith("matroska")
        assert container.streams.video[0].metadata["alpha_mode"] == "1"


def test_alpha_of_a_file_that_was_copied_is_seen(job: Made, tmp_path: Path) -> None:
    """ffmpeg writes the word for it in capitals too, and libav then tells that one."""
    copy = tmp_path / "copy.webm"
    ffmpeg("-i", job.output, "-c", "copy", copy)
    info = probe_video(copy)
    assert (info.pix_fmt, info.alpha.transparent) == ("yuva420p", True)


def test_the_times_are_the_nearest_millisecond(source: Path, tmp_path: Path) -> None:
    uneven = tmp_path / "uneven.mov"
    chosen = r"select='not(between(n\,3\,6))'"
    ffmpeg("-i", source, "-vf", chosen, "-fps_mode", "vfr", "-c:v", "png", uneven)
    made = webm_of(uneven, tmp_path)
    assert len(made.plan.segments) > 1
    shown = shown_times(uneven, 0)
    assert shown_times(made.output, 0) == pytest.approx(shown, abs=0.000501)
    assert len(set(np.diff([float(time) for time in shown]).round(3))) == 2


def test_what_is_read_of_segments_and_of_the_file_is_the_same(job: Made) -> None:
    """For picture, report and preview: with alpha, and with the colours that it has."""
    folder = JobDir(job.output.parent / "job")
    parts = list(read_restored(job.plan, folder, 0, FRAMES, alpha=True))
    info = wanted_frames(probe_video(job.output), WantedFrames())
    assert info.alpha.transparent
    whole = list(read_frames(job.output, info, 0, FRAMES, alpha=True))
    for part, frame in zip(parts, whole, strict=True):
        assert part.alpha is not None
        assert frame.alpha is not None
        np.testing.assert_array_equal(part.alpha, frame.alpha)
        seen = frame.alpha > 32
        np.testing.assert_array_equal(part.rgb[seen], frame.rgb[seen])
    alphas = shown_alpha(job.output, SIZE, decoder=VPX)
    np.testing.assert_array_equal([frame.alpha for frame in whole], alphas)


def test_alpha_that_is_lost_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = join._write

    def without(work: join._Joining) -> join._Attempt:
        done, content = write(work), work.output.read_bytes()
        assert content.count(ALPHA_MODE + b"\1") == 1
        work.output.write_bytes(content.replace(ALPHA_MODE + b"\1", ALPHA_MODE + b"\0"))
        return done

    monkeypatch.setattr(join, "_write", without)
    with pytest.raises(SegmentError, match="pixel format: yuv420p, but the plan says yuva420p"):
        webm_of(source, tmp_path)


def test_what_webm_is_made_of(source: Path) -> None:
    """AV1 where nothing shows through; VP9 has 8 bits, so it holds no HDR."""
    video = wanted_frames(probe_video(source), WantedFrames(alpha=FLATTEN))
    plan = build_plan(video, "0" * 64, make_options(codec="auto", container="webm"))
    assert plan.encoder.codec == "av1"
    kept = wanted_frames(probe_video(source), WantedFrames())
    with pytest.raises(PlanError, match=r"codec av1 cannot hold alpha; choose codec .*vp9"):
        build_plan(kept, "0" * 64, make_options(codec="av1", container="webm"))
    wide = dataclasses.replace(video.color, primaries=9, transfer=16, matrix=9)
    with pytest.raises(PlanError, match="which codec vp9 cannot hold"):
        build_plan(
            dataclasses.replace(video, color=wide, bit_depth=10),
            "0" * 64,
            make_options(codec="vp9", container="webm"),
        )


def test_a_long_rest_is_no_frame(source: Path, tmp_path: Path) -> None:
    """A segment of one frame, and a job whose last frame is shown for long."""
    made = webm_of(source, tmp_path, segment_seconds=0.01)
    assert len(made.plan.segments) == FRAMES
    assert len(shown_times(made.output, 0)) == FRAMES
    assert Fraction(*made.plan.video.time_base) > 0
