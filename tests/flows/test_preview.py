"""A preview: a piece of the film, made of the segments of the whole job, which keeps them."""

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from flows.upscale import upscale
from seedvr2_core.files import file_sha256
from seedvr2_core.job import JobDir
from seedvr2_core.video.probe import probe_video
from tasks.schemas import UpscaleResult
from tasks.settings import Settings, use_settings
from tests.kits.faults import use_small_pictures

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("in_api")]
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


def kept(film: UpscaleResult) -> list[str]:
    """What a whole film says of segments that it has kept from previews."""
    return [note for note in film.notes if "kept from the preview" in note]


def counted_kept(number: int) -> str:
    return f"{number} segment{'s' * (number != 1)} kept from the preview"


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
    assert kept(film) == [counted_kept(len(made))]
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


def test_only_segments_that_a_preview_has_shown_are_counted(
    demo_clip: Path, tmp_path: Path
) -> None:
    """Those that were there for another reason, or are made again, are not."""
    work_in(tmp_path)
    whole = {"model": "lanczos", "batch_size": 100}
    first = run(demo_clip, preview="0.4s@0:00.05", **whole)
    assert first.preview is not None
    assert first.preview.segments == (0,)
    second = run(demo_clip, preview="0.4s@0:02.05", **whole)
    assert second.preview is not None
    segments = JobDir(tmp_path / "jobs" / first.job_key).segments_path
    assert len(list(segments.glob("*.mp4"))) == 2
    for path in segments.glob("00000.*"):  # the first is lost
        path.unlink()
    film = run(demo_clip, **whole)
    assert (film.segments_reused, kept(film)) == (1, [counted_kept(1)])
    JobDir(tmp_path / "jobs" / first.job_key).result_path.unlink()
    again = run(demo_clip, **whole)  # all is there, and two of six were shown
    assert (again.segments_reused, kept(again)) == (6, [counted_kept(2)])
    fresh = run(demo_clip, fresh=True, **whole)
    assert (fresh.segments_reused, kept(fresh)) == (0, [])
    assert fresh.sha256 == film.sha256


@pytest.mark.parametrize("codec", ["png", "tiff"])
def test_pictures_stay_pictures(demo_clip: Path, tmp_path: Path, codec: str) -> None:
    """The clips of a preview are zips then, and the whole film keeps its segments."""
    work_in(tmp_path)
    options = {"model": "lanczos", "batch_size": 100, "codec": codec}
    shown = run(demo_clip, preview="5f@20", **options)
    assert shown.preview is not None
    names: list[list[str]] = []
    for path in (Path(str(shown.output_path)), Path(str(shown.preview.before_path))):
        assert path.suffix == ".zip"
        with zipfile.ZipFile(path) as clip:
            pictures = [name for name in clip.namelist() if name.endswith((".png", ".tif"))]
            with Image.open(clip.open(pictures[0])) as picture:
                assert picture.width > picture.height > 0
        names.append(pictures)
    assert len(names[0]) == 5
    assert names[0] == names[1]
    with Image.open(str(shown.preview_path)) as picture:
        assert picture.format == "JPEG"
    film = run(demo_clip, **options)
    assert film.frames == 75
    assert kept(film) == [counted_kept(len(shown.preview.segments))]


def test_a_preview_of_a_picture_is_the_picture(tmp_path: Path, demo_clip: Path) -> None:
    work_in(tmp_path)
    still = tmp_path / "still.png"
    Image.new("RGB", (32, 18), (200, 120, 40)).save(still)
    shown = run(still, preview="1s", model="lanczos")
    assert shown.preview is not None
    assert (shown.frames, shown.preview.segments) == (1, (0,))
    assert Path(str(shown.output_path)).suffix == ".png"
    whole = run(still, model="lanczos")
    assert kept(whole) == [counted_kept(1)]
    with Image.open(str(whole.output_path)) as made, Image.open(str(shown.output_path)) as seen:
        assert made.tobytes() == seen.tobytes()
