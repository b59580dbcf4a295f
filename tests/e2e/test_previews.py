"""Previews as people make them, and the whole video by the very command that they are shown."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seedvr2_core.video.probe import probe_video
from tests.kits.processes import ROOT, run_command
from tests.kits.server import Serve

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(600)]
QUICK = ("--model", "lanczos", "--resolution", "720p", "--preset", "ultrafast")
TOLD = "to make the whole video: "


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a line as a shell does, where `seedvr2` is the command of this checkout."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "seedvr2"
    words = shlex.join([sys.executable, "-m", "deployments.cli.app"])
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)

    def run(line: str, **changes: str) -> subprocess.CompletedProcess[str]:
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", line],
            env={**os.environ, "PATH": path, **changes},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    return run


def shown_in(text: str) -> str:
    """The command that a preview shows."""
    (line,) = [one.strip() for one in text.splitlines() if TOLD in one]
    return line.partition(TOLD)[2]


def test_a_preview_into_a_file_and_the_film_beside_it(
    api_url: str,
    tmp_path: Path,
    demo_clip: Path,
    shell: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    clip = tmp_path / "my clip's.mp4"  # a name that a shell takes apart
    clip.write_bytes(demo_clip.read_bytes())
    out = tmp_path / "out dir"
    out.mkdir()
    variables = {"PREFECT_API_URL": api_url, "SEEDVR2_SEGMENT_SECONDS": "0.5"}
    options = ("--output", out / "film.mp4", "--work-dir", tmp_path / "work")
    shown = run_command(
        "upscale", clip, *QUICK, "--preview", "1s@0:01", "--fresh", *options, **variables
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [str(out / "film.preview.mp4")]
    names = {"film.preview.mp4", "film.preview.before.mp4", "film.preview.preview.jpg"}
    assert {path.name for path in out.iterdir()} == names
    assert probe_video(out / "film.preview.mp4").num_frames == 25
    assert probe_video(out / "film.preview.before.mp4").num_frames == 25
    assert f"the source there: {out / 'film.preview.before.mp4'}" in shown.stderr

    film = shell(shown_in(shown.stderr) + " --json", **variables)
    assert film.returncode == 0, film.stderr
    result = json.loads(film.stdout)
    assert (result["output_path"], result["frames"]) == (str(out / "film.mp4"), 75)
    assert 1 < result["segments_reused"] < 6
    assert f"{result['segments_reused']} segments kept from the preview" in result["notes"]
    assert probe_video(out / "film.mp4").num_frames == 75
    assert {path.name for path in out.iterdir()} >= {*names, "film.mp4"}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("serve")) as serve:
        yield serve


def test_a_preview_through_the_service(
    serve: Serve, demo_clip: Path, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shown = serve.command(
        *("submit", demo_clip, *QUICK, "--preview", "1s@0:01", "--watch"),
        *("--gateway", serve.urls["gateway"]),
    )
    assert shown.returncode == 0, shown.stderr
    film = shell(f"{shown_in(shown.stderr)} --watch --json")
    assert film.returncode == 0, film.stderr
    job = json.loads(film.stdout.splitlines()[-1])
    assert (job["status"], job["frames"], job["preview"]) == ("completed", 75, None)
    assert any("segments kept from the preview" in note for note in job["notes"])
