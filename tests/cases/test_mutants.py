"""Damaged headers and packets: each file is made or refused in one sentence, never worse."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kits.clips.cases import FOLDER
from tests.kits.media import ROOT, ffmpeg

CLIPS = {
    "a.mp4": ["-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac"],
    "a.mkv": ["-c:v", "libx264", "-preset", "veryfast", "-c:a", "libopus"],
    "a.ts": ["-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac"],
    "a.flv": ["-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac"],
    "a.avi": ["-c:v", "mpeg4", "-c:a", "libmp3lame"],
    "a.webm": ["-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"],
}
ENDINGS = (".mp4", ".mov", ".mkv", ".ts", ".flv", ".avi", ".webm", ".vob")
SMALL_BYTES = 150_000
MOST_MEGABYTES = 2000


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One clip a container, made here, and the small ones of the shared cases."""
    folder = tmp_path_factory.mktemp("clips")
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=2", "-f", "lavfi", "-i", "sine=d=2"]
    for name, options in CLIPS.items():
        ffmpeg(*picture, *options, folder / name)
    shared = sorted(FOLDER.glob("*")) if FOLDER.is_dir() else []
    small = [p for p in shared if p.suffix in ENDINGS and p.stat().st_size < SMALL_BYTES]
    return [folder / name for name in CLIPS] + small


@pytest.fixture
def run_mutants(clips: list[Path]) -> Callable[[int, int], None]:
    """Do a row of mutants in a process of its own and check how each one ended."""

    def run(first: int, stop: int) -> None:
        command = [sys.executable, "-m", "tests.kits.clips.mutants", str(first), str(stop)]
        done = subprocess.run(
            [*command, *map(str, clips)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        told = [json.loads(line) for line in done.stdout.splitlines()]
        wrong = [one for one in told if one["ended"] not in ("made", "refused")]
        assert not wrong, json.dumps(wrong, indent=1)
        assert len(told) == stop - first, f"ended {done.returncode} after {told[-1:]}"
        assert max(one["megabytes"] for one in told) < MOST_MEGABYTES

    return run


@pytest.mark.long
@pytest.mark.slow
def test_damaged_files_are_made_or_refused(run_mutants: Callable[[int, int], None]) -> None:
    run_mutants(0, 24)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(24, 324, 50))
def test_hundreds_of_damaged_files(run_mutants: Callable[[int, int], None], first: int) -> None:
    run_mutants(first, first + 50)
