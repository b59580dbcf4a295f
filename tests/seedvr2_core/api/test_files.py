"""A whole file without a server: the same file comes out whatever stops the work in between."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core import (
    ModelOptions,
    Progress,
    SeedVR2Error,
    UpscaledFile,
    probe_video,
    upscale_file,
)
from seedvr2_core.errors import InvalidRequestError, InvalidVideoError, StoppedByCallerError
from seedvr2_core.files import file_sha256
from seedvr2_core.planning import sizes
from tests.kits.media import ffmpeg

LANCZOS = ModelOptions(model="lanczos", device="cpu")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "BUDGETS_PX", {"720p": 96 * 54})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 seconds with sound: three segments."""
    return make_clip(tmp_path_factory.mktemp("api") / "source.mp4", seconds=24, rate=10)


def make_clip(path: Path, *, seconds: int, rate: int) -> Path:
    """A test picture with a tone."""
    ffmpeg(
        *("-f", "lavfi", "-i", f"testsrc2=size=64x36:rate={rate}:duration={seconds}"),
        *("-f", "lavfi", "-i", f"sine=duration={seconds}", "-c:v", "libx264"),
        *("-preset", "ultrafast", "-c:a", "aac", path),
    )
    return path


def upscaled(source: Path, output: Path, **changes: object) -> UpscaledFile:
    """With fast settings."""
    kept = {"options": LANCZOS, "resolution": "720p", "preset": "ultrafast"}
    return upscale_file(source, output, **(kept | changes))  # type: ignore[arg-type]


def test_a_file_comes_out_with_its_sound_and_nothing_else_is_left(
    source: Path, tmp_path: Path
) -> None:
    told: list[Progress] = []
    made = upscaled(source, tmp_path / "out.mp4", on_progress=told.append)
    info, given = probe_video(made.path), probe_video(source)
    assert (info.width, info.height) == (made.width, made.height) == (96, 54)
    assert info.num_frames == made.num_frames == 240
    assert info.duration_seconds == given.duration_seconds
    assert [stream.kind for stream in info.streams] == ["audio"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    restored = [progress.done for progress in told if progress.phase == "restore"]
    assert restored == sorted(restored)
    assert restored[-1] == 240
    assert {"hash", "probe", "restore", "join"} <= {progress.phase for progress in told}


@pytest.mark.long
def test_a_call_that_was_stopped_goes_on_and_makes_the_same_file(
    source: Path, tmp_path: Path
) -> None:
    whole = upscaled(source, tmp_path / "whole.mp4")
    cancel = threading.Event()

    def stop_in_the_last_segment(progress: Progress) -> None:
        if progress.phase == "restore" and progress.done > 205:
            cancel.set()

    output = tmp_path / "out.mp4"
    with pytest.raises(StoppedByCallerError):
        upscaled(source, output, on_progress=stop_in_the_last_segment, cancel=cancel)
    assert not output.exists()
    made = upscaled(source, output)
    assert made.frames_reused >= 100
    assert file_sha256(output) == file_sha256(whole.path)


def test_an_error_of_the_callers_own_ends_the_work(source: Path, tmp_path: Path) -> None:
    class OwnError(Exception):
        pass

    def fail(progress: Progress) -> None:
        if progress.phase == "restore":
            raise OwnError

    with pytest.raises(OwnError):
        upscaled(source, tmp_path / "out.mp4", on_progress=fail)
    assert not (tmp_path / "out.mp4").exists()


def test_nothing_of_the_callers_is_replaced_unasked(source: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"mine")
    with pytest.raises(InvalidRequestError, match=r"let it be replaced \(overwrite\)"):
        upscaled(source, taken)
    assert taken.read_bytes() == b"mine"
    link = tmp_path / "link.mp4"
    link.symlink_to(source)
    digest = file_sha256(source)
    with pytest.raises(InvalidRequestError, match="is the source itself"):
        upscaled(source, link, overwrite=True)
    assert file_sha256(source) == digest
    upscaled(source, taken, overwrite=True)
    assert probe_video(taken).num_frames == 240


def test_two_calls_for_one_output_do_not_write_to_one_folder(source: Path, tmp_path: Path) -> None:
    """The second one is refused; the first one's file comes out."""
    refused: list[SeedVR2Error] = []

    def second_call(progress: Progress) -> None:
        if progress.phase == "restore" and not refused:
            try:
                upscaled(source, tmp_path / "out.mp4")
            except SeedVR2Error as error:
                refused.append(error)

    upscaled(source, tmp_path / "out.mp4", on_progress=second_call)
    assert "lock" in str(refused[0]) or "other" in str(refused[0])


def test_what_is_no_video_or_no_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.mp4"
    text.write_text("no video")
    with pytest.raises(InvalidVideoError):
        upscaled(text, tmp_path / "out.mp4")
    with pytest.raises(InvalidRequestError, match="is no file"):
        upscaled(tmp_path / "missing.mp4", tmp_path / "out.mp4")
    with pytest.raises(InvalidRequestError, match="must end in"):
        upscaled(text, tmp_path / "out.avi")
    with pytest.raises(InvalidRequestError, match="preset"):
        upscaled(text, tmp_path / "out.mp4", preset="quick")
    with pytest.raises(InvalidRequestError, match="crf"):
        upscaled(text, tmp_path / "out.mp4", crf=52)


@pytest.mark.long
def test_a_model_with_windows_goes_on_inside_a_shot(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "source.mp4", seconds=20, rate=3)
    tiny = ModelOptions(model="tiny", device="cpu", batch_size=16)
    whole = upscaled(source, tmp_path / "whole.mp4", options=tiny)
    cancel = threading.Event()

    def stop_late(progress: Progress) -> None:
        if progress.phase == "restore" and progress.done > 45:
            cancel.set()

    with pytest.raises(StoppedByCallerError):
        upscaled(source, tmp_path / "out.mp4", options=tiny, on_progress=stop_late, cancel=cancel)
    made = upscaled(source, tmp_path / "out.mp4", options=tiny)
    assert made.frames_reused > 0
    assert file_sha256(made.path) == file_sha256(whole.path)


def test_a_part_of_a_file(source: Path, tmp_path: Path) -> None:
    made = upscaled(source, tmp_path / "out.mp4", start="2", end="frame:45")
    info = probe_video(made.path)
    assert (made.num_frames, info.num_frames) == (25, 25)
    assert info.pts[0] == 0
    with pytest.raises(InvalidRequestError, match="alpha: choose auto, keep, flatten, refuse"):
        upscaled(source, tmp_path / "other.mp4", alpha="white")
    with pytest.raises(InvalidRequestError, match="deinterlace is one of"):
        upscaled(source, tmp_path / "other.mp4", deinterlace="yes")


@pytest.mark.long
def test_quality_is_the_scale_of_requests(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=1, rate=10)
    usual = upscaled(clip, tmp_path / "crf.mp4").path
    same = upscaled(clip, tmp_path / "same.mp4", quality=75).path
    small = upscaled(clip, tmp_path / "small.mp4", quality=30).path
    assert file_sha256(same) == file_sha256(usual)
    assert small.stat().st_size < usual.stat().st_size
    for given in ({"quality": 0}, {"quality": 101}, {"quality": 50, "crf": 20}):
        with pytest.raises(InvalidRequestError, match="quality"):
            upscaled(clip, tmp_path / "none.mp4", **given)


def test_a_picture_becomes_a_picture(tmp_path: Path) -> None:
    source = tmp_path / "photo.jpg"
    Image.new("RGB", (64, 36), (200, 100, 50)).save(source)
    made = upscaled(source, tmp_path / "out.png")
    with Image.open(made.path) as picture:
        assert (picture.format, picture.size, made.num_frames) == ("PNG", (96, 54), 1)
        assert np.abs(np.asarray(picture).astype(int) - [200, 100, 50]).max() <= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "photo.jpg"]


@pytest.mark.long
def test_pictures_become_a_video(tmp_path: Path) -> None:
    """Also where a file of the caller's lies in the work folder under the same name."""
    frames, work = tmp_path / "shot", tmp_path / "work"
    frames.mkdir()
    work.mkdir()
    (work / "shot.zip").write_bytes(b"mine")
    for index in range(5):
        Image.new("RGB", (64, 36), (40 * index, 0, 0)).save(frames / f"{index}.png")
    made = upscaled(frames, tmp_path / "out.mp4", fps="29.97", work_dir=work)
    info = probe_video(made.path)
    assert (info.num_frames, info.nominal_rate) == (5, (30000, 1001))
    assert [path.name for path in work.iterdir()] == ["shot.zip"]
    assert (work / "shot.zip").read_bytes() == b"mine"
    again = upscaled(frames / "%d.png", tmp_path / "again.mp4", fps="30000/1001")
    assert file_sha256(again.path) == file_sha256(made.path)
    for fps, words in (("", "is no file; name a video file, or give fps"), ("x", "fps: frames")):
        with pytest.raises(InvalidRequestError, match=words):
            upscaled(frames, tmp_path / "more.mp4", fps=fps)
