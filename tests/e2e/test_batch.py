"""Several videos by one command: a folder with a bad file in it, again, and a folder that fills."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from seedvr2_core.video.probe import probe_video
from tests.kits.media import ffmpeg
from tests.kits.processes import command_line, environment, run_command

pytestmark = pytest.mark.slow

QUICK = ("--model", "lanczos", "--resolution", "0.5x", "--preset", "ultrafast")


@pytest.fixture
def folder(tmp_path: Path, demo_clip: Path) -> Path:
    """A video, one that is none, and a text."""
    made = tmp_path / "in"
    made.mkdir()
    ffmpeg("-i", demo_clip, "-t", "1", "-c", "copy", made / "good one.mp4")
    (made / "bad.mp4").write_bytes(b"no video" * 500)
    (made / "notes.txt").write_text("mine")
    return made


@pytest.mark.long
def test_a_folder_is_made_and_the_same_command_finds_what_is_done(
    api_url: str, tmp_path: Path, folder: Path, demo_clip: Path
) -> None:
    out = tmp_path / "out"
    words = (
        *("upscale", folder, demo_clip, *QUICK),
        *("--work-dir", tmp_path / "work", "--output", out),
    )
    done = run_command(*words, PREFECT_API_URL=api_url)
    assert done.returncode == 1, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(path.name.partition("_0.5x")[0] for path in paths) == [demo_clip.stem, "good_one"]
    assert {path.parent for path in paths} == {out}
    for path in paths:
        assert (probe_video(path).width, probe_video(path).height) == (160, 90)
    assert "error: bad.mp4" in done.stderr
    assert "3 videos: 1 failed, 2 done; " in done.stderr
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (folder / "bad.mp4").unlink()
    again = run_command(*words, PREFECT_API_URL=api_url)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert "2 videos: 2 already done; " in again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.long
def test_a_watched_folder_takes_what_comes_once_it_is_whole(
    api_url: str, tmp_path: Path, demo_clip: Path
) -> None:
    """The file is written in two halves with a pause, as a slow copy does."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    content = demo_clip.read_bytes()
    process = subprocess.Popen(
        command_line(
            *("upscale", "--watch-folder", folder, *QUICK),
            *("--work-dir", tmp_path / "work", "--output", out),
        ),
        env=environment({"PREFECT_API_URL": api_url}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with (folder / "slow.mp4").open("wb") as copy:
            copy.write(content[: len(content) // 2])
            copy.flush()
            time.sleep(2)
            copy.write(content[len(content) // 2 :])
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        assert probe_video(path).num_frames == 75
        assert path.parent == out
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "1 video: 1 done; " in said
    assert "interrupted; finished segments are kept" in said
