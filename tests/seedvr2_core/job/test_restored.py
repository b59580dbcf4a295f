"""Restored frames as they are read from a job's segments, and the before/after picture of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.child.operations import preview
from seedvr2_core.child.protocol import Preview
from seedvr2_core.job import JobDir
from seedvr2_core.job.restored import near_middle, read_restored, video_in
from seedvr2_core.planning import Plan
from seedvr2_core.planning.build import build_plan
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.factories import make_info, make_options
from tests.kits.pipeline import Heard, KeepTorch, make_segments


@pytest.fixture(scope="module")
def made(demo_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, JobDir]:
    """The demo clip by Lanczos, in three segments."""
    folder = tmp_path_factory.mktemp("job") / "job"
    options = make_options(segment_seconds=1, preset="ultrafast", resolution="320x180")
    plan = build_plan(probe_video(demo_clip), "0" * 64, options)
    with KeepTorch():
        make_segments(plan, folder, demo_clip, range(len(plan.segments)))
    return plan, JobDir(folder)


def test_frames_come_in_order_over_segments(made: tuple[Plan, JobDir]) -> None:
    plan, job_dir = made
    assert len(plan.segments) == 3
    probed = []
    for segment in plan.segments:
        path = job_dir.video_path(segment.index)
        info = probe_video(path)
        assert video_in(plan, segment).pts == info.pts
        probed += [frame.rgb for frame in read_frames(path, info, 0, info.num_frames)]
    found = [frame.rgb for frame in read_restored(plan, job_dir, 20, 55)]
    assert len(found) == 35
    assert all(np.array_equal(a, b) for a, b in zip(found, probed[20:55], strict=True))
    (deep,) = read_restored(plan, job_dir, 30, 31, deep=True)
    assert deep.rgb.dtype == np.uint16


@pytest.mark.parametrize(
    ("num_frames", "expected"), [(300, 150), (40, 20), (340, 150), (101, 50), (99, 49)]
)
def test_a_frame_near_the_middle_begins_a_segment(num_frames: int, expected: int) -> None:
    """But not the first one, with which films fade in. Segments have 50 frames here."""
    info = make_info(pts=tuple(range(num_frames)))
    plan = build_plan(info, "0" * 64, make_options(segment_seconds=2))
    assert near_middle(plan) == expected


def test_the_picture_shows_this_frame(
    made: tuple[Plan, JobDir], demo_clip: Path, tmp_path: Path
) -> None:
    """The joined file is not even there."""
    plan, job_dir = made
    heard, picture = Heard(), tmp_path / "preview.jpg"
    request = Preview(
        job_dir=job_dir.path, source=demo_clip, output=tmp_path / "none.mp4", out=picture
    )
    preview(request, heard)  # type: ignore[arg-type]
    with Image.open(picture) as image:
        shown = np.asarray(image.convert("RGB")).astype(float)
    (frame,) = read_restored(plan, job_dir, near_middle(plan), near_middle(plan) + 1)
    after = frame.rgb[:, 80:240].astype(float)
    assert np.abs(shown[40:, 164:] - after[40:]).mean() < 4
    (other,) = read_restored(plan, job_dir, 70, 71)
    assert np.abs(shown[40:, 164:] - other.rgb[40:, 80:240]).mean() > 8, "and no other one"
    assert heard.beats["picture"]
