"""The probe task's work, with a real child."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.files import read_record
from seedvr2_core.video.info import VideoInfo
from tasks.estimate import plan_job
from tasks.probe import probe_source
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings


def source_of(path: Path) -> FetchedSource:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return FetchedSource(path=path, sha256=digest, num_bytes=len(content), name="holiday.mp4")


@pytest.fixture
def cut_clip(demo_clip: Path, tmp_path: Path) -> Path:
    """The demo clip (its index comes first) without its second half."""
    content = demo_clip.read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) // 2])
    return path


def test_a_cut_source_is_refused_by_its_name_unless_allowed(
    cut_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    settings = settings_with(allow_local_files=True)
    source = source_of(cut_clip)
    with pytest.raises(
        InvalidVideoError, match=r"holiday.mp4: the file ends early: \d\d of about 75 frames"
    ):
        probe_source(source, "lanczos", tmp_path, settings)
    probed = probe_source(source, "lanczos", tmp_path, settings, allow_damaged=True)
    told = read_record(probed.info_path, VideoInfo).ends_early
    assert told.startswith(f"the file ends early: {probed.num_frames} of about 75 frames")
    request = UpscaleRequest(video_path=str(cut_clip), model="lanczos", allow_damaged=True)
    assert told in plan_job(request, probed, settings).notes


def test_what_is_allowed_does_not_change_the_job(
    demo_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    settings = settings_with(allow_local_files=True)
    keys = set()
    for allowed in (False, True):
        request = UpscaleRequest(video_path=str(demo_clip), model="lanczos", allow_damaged=allowed)
        probed = probe_source(
            source_of(demo_clip), "lanczos", tmp_path, settings, allow_damaged=allowed
        )
        keys.add(plan_job(request, probed, settings).job_key)
    assert len(keys) == 1


def test_more_than_the_installation_takes_is_refused(
    demo_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    source = source_of(demo_clip)
    with pytest.raises(UnsupportedFormatError, match=r"more than 74 frames.*SEEDVR2_MAX_FRAMES"):
        probe_source(source, "lanczos", tmp_path, settings_with(max_frames=74))
    with pytest.raises(UnsupportedFormatError, match="longer than 2 s"):
        probe_source(source, "lanczos", tmp_path, settings_with(max_video_seconds=2))


def test_a_record_of_the_version_before_is_read(demo_clip: Path, tmp_path: Path) -> None:
    """`ends_early` is new."""
    from seedvr2_core.files import write_record
    from seedvr2_core.video.probe import probe_video

    path = tmp_path / "info.json"
    info = probe_video(demo_clip)
    write_record(path, info)
    before = path.read_text().replace(',"ends_early":""', "")
    assert "ends_early" not in before
    path.write_text(before)
    assert read_record(path, VideoInfo) == info
