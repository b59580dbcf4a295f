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
