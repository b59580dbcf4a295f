"""Home video from tape, whole: both fields become frames, upright, in 4k, with its sound."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.wanted import WantedFrames
from tests.kits.clips.cases import Made, make_video, sound_of, times_of
from tests.kits.clips.tape import NTSC, PAL, System, vhs
from tests.kits.media import ffmpeg
from tests.kits.videos.oracle import video_line

pytestmark = pytest.mark.long

SECONDS = 0.8
PIXELS_4K = 3840 * 2160


@pytest.fixture(scope="module", params=[PAL, NTSC], ids=["PAL", "NTSC"])
def system(request: pytest.FixtureRequest) -> System:
    return request.param


@pytest.fixture(scope="module")
def tape(demo_clip: Path, tmp_path_factory: pytest.TempPathFactory, system: System) -> Path:
    return vhs(demo_clip, tmp_path_factory.mktemp("tape") / "tape.avi", system, seconds=SECONDS)


@pytest.fixture(scope="module")
def job(tape: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_video(
        tape,
        tmp_path_factory.mktemp("job"),
        WantedFrames(deinterlace="bob"),
        resolution="4k",
        codec="auto",
        container="auto",
        crf=18,
    )


def test_each_field_is_a_frame_at_its_own_time(tape: Path, job: Made, system: System) -> None:
    info = probe_video(tape)
    assert (info.fields.interlaced, info.fields.top_first) == (True, False)
    step = 1 / Fraction(system.fields)
    times = times_of(job.output)
    assert len(times) == 2 * info.num_frames
    assert times == pytest.approx([float(step * k) for k in range(len(times))], abs=0.0011)
    assert any("each field becomes one frame" in note for note in job.notes)
    made = probe_video(job.output)
    assert made.duration_seconds == pytest.approx(info.duration_seconds, abs=0.002)


def test_it_has_the_shape_of_a_television_in_4k(job: Made) -> None:
    """4:3 of square pixels, of about as many as 4k has."""
    made = probe_video(job.output)
    assert made.sar == (1, 1)
    assert made.width / made.height == pytest.approx(4 / 3, abs=0.002)
    assert made.width * made.height == pytest.approx(PIXELS_4K, rel=0.002)


def combs(path: Path, system: System) -> np.ndarray:
    """(T,) how much lines differ from their neighbours, over how much from the next but one.

    At the tape's own size, and without its noise: that differs from pixel to pixel and combs reach
    along a line, so each line is smoothed before. ffmpeg's idet is sure of nothing in such noise.
    """
    width, height = system.size
    raw = ffmpeg(
        *["-i", path, "-fps_mode", "passthrough", "-vf"],
        f"scale={width}:{height}:flags=area:interl=0,crop=iw:ih*15/16:0:0,gblur=sigma=8:sigmaV=0.01",
        *["-f", "rawvideo", "-pix_fmt", "gray", "-"],
    )
    lines = np.frombuffer(raw, np.uint8).reshape(-1, height * 15 // 16, width).astype(np.float32)
    near = np.abs(lines[:, 1:] - lines[:, :-1])[:, :-1].mean(axis=(1, 2))
    far = np.abs(lines[:, 2:] - lines[:, :-2]).mean(axis=(1, 2))
    return near / far


def test_no_comb_is_left(tape: Path, job: Made, tmp_path: Path, system: System) -> None:
    options = {"resolution": "4k", "codec": "auto", "container": "auto", "crf": 18}
    left = make_video(tape, tmp_path, WantedFrames(deinterlace="off"), **options)
    assert np.median(combs(tape, system)) > 0.7
    assert np.median(combs(left.output, system)) > 0.6  # so they would be seen
    assert combs(job.output, system).max() < 0.53


def test_its_colours_are_those_of_the_field_that_was_taken_then(
    tape: Path, job: Made, system: System
) -> None:
    """The mean of each part of the picture, as ffmpeg shows both in R'G'B'.

    A picture of the tape is no measure: half of its lines were taken a moment later, by when an
    edge has moved on by a tenth of such a part.
    """
    matrix = f"in_color_matrix={system.matrix}:in_range=tv"
    theirs = mean_colors(tape, f"setfield=bff,separatefields,scale={matrix}:out_range=pc")
    ours = mean_colors(job.output, "scale=out_range=pc:flags=area")
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 4
    whole = mean_colors(tape, f"scale={matrix}:interl=1:out_range=pc").repeat(2, axis=0)
    assert np.abs(ours - whole).max() > 2 * np.abs(ours - theirs).max()
    assert "bt709" in video_line(job.output)


def mean_colors(path: Path, shown: str) -> np.ndarray:
    """(T, 6, 8, 3) means of R'G'B', without the lines at the bottom."""
    raw = ffmpeg(
        *["-i", path, "-fps_mode", "passthrough", "-vf"],
        f"{shown},format=rgb24,crop=iw:ih*15/16:0:0,scale=8:6:flags=area",
        *["-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, 6, 8, 3).astype(np.float64)


def test_it_moves_from_every_frame_to_the_next(job: Made) -> None:
    """Both fields are there, in their order: no frame stands, and none goes back."""
    raw = ffmpeg(
        *["-i", job.output, "-fps_mode", "passthrough", "-vf", "scale=160:120:flags=area"],
        *["-f", "rawvideo", "-pix_fmt", "gray", "-"],
    )
    frames = np.frombuffer(raw, np.uint8).reshape(-1, 120, 160).astype(np.float64)
    near = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))
    far = np.abs(frames[2:] - frames[:-2]).mean(axis=(1, 2))
    assert near.min() > 0
    assert far.mean() > near.mean()


def test_its_sound_is_as_long(tape: Path, job: Made) -> None:
    assert sound_of(job.output) == pytest.approx(sound_of(tape), abs=0.03)
