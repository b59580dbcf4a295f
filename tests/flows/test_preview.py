"""A preview: a piece of the film, made of the segments of the whole job, which keeps them."""

from pathlib import Path

import pytest

from flows.upscale import upscale
from seedvr2_core.files import file_sha256
from seedvr2_core.job import JobDir
from seedvr2_core.video.probe import probe_video
from tasks.schemas import UpscaleResult
from tasks.settings import Settings, use_settings
from tests.kits.faults import use_small_pictures

pytestmark = pytest.mark.usefixtures("in_api")
PX = 64 * 36


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_pictures(monkeypatch, PX)


def work_in(folder: Path) -> None:
    """Let this process work in a folder, with segments of half a second."""
    use_settings(
        Settings(
            work_dir=folder,
            allow_local_files=True,
            test_engines=True,
            segment_seconds=0.5,
            keep_segments=True,
            hour_price=36.0,
        )
    )


def run(clip: Path, **options: object) -> UpscaleResult:
    """Windows of 3 latents, one of them shared: the clip is one shot in several segments."""
    chosen = {"model": "tiny", "resolution": "720p", "preset": "ultrafast", "batch_size": 12}
    return upscale(video_path=str(clip), **(chosen | options))


def segment_digests(work_dir: Path, result: UpscaleResult) -> dict[str, str]:
    """Name -> SHA-256 of each finished segment of a job."""
    folder = JobDir(work_dir / "jobs" / result.job_key).segments_path
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.mp4"))}


def test_its_segments_are_the_whole_jobs_which_keeps_them(demo_clip: Path, tmp_path: Path) -> None:
    work_in(tmp_path / "whole")
    whole = run(demo_clip)
    bits = segment_digests(tmp_path / "whole", whole)
    assert len(bits) > 3

    work_in(tmp_path / "again")
    shown = run(demo_clip, preview="10f@24")
    made = segment_digests(tmp_path / "again", shown)

    assert shown.job_key == whole.job_key
    assert shown.preview is not None
    assert (shown.preview.first, shown.preview.stop, shown.frames) == (24, 34, 10)
    assert 0 < len(made) < len(bits)
    assert made.items() <= bits.items()
    assert not shown.preview.exact  # earlier parts of the shot are not made yet
    assert any("about" in note and "price" in note for note in shown.notes)
    again = run(demo_clip, preview="10f@24")
    assert again.already_done
    assert (again.sha256, again.preview) == (shown.sha256, shown.preview)

    film = run(demo_clip)
    assert film.preview is None
    assert film.segments_reused == len(made)
    assert f"{len(made)} segments kept from the preview" in [
        note.replace("segment kept", "segments kept") for note in film.notes
    ]
    assert film.sha256 == whole.sha256
    assert run(demo_clip, preview="5f@2").sha256 == whole.sha256  # there is nothing left to show


def test_clips_and_picture_lie_beside_each_other(demo_clip: Path, tmp_path: Path) -> None:
    work_in(tmp_path)
    shown = run(demo_clip, preview="0.5s@0:01", model="lanczos", batch_size=100)
    assert shown.preview is not None
    clip, before = Path(str(shown.output_path)), Path(str(shown.preview.before_path))
    assert ".preview-" in clip.name
    assert (before.parent, before.suffix) == (clip.parent, clip.suffix)
    made, source = probe_video(clip), probe_video(before)
    assert made.num_frames == source.num_frames == shown.frames
    assert (made.width, made.height) == (source.width, source.height)
    assert shown.preview.exact
    assert shown.preview.start_seconds >= 1.0
    assert Path(str(shown.preview_path)).is_file()
    assert [s.kind for s in made.streams] == [s.kind for s in source.streams]
