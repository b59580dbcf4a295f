"""`upscale` and sequences of pictures: what is refused before a job begins; no job runs here."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from deployments.cli.app import app
from tasks.schemas import UpscaleRequest, UpscaleResult

Upscale = Callable[..., Result]


class _BegunError(Exception):
    """The checks have passed, and this would be the job's request."""


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(8, 12):
        Image.new("RGB", (32, 16), (index, 0, 0)).save(folder / f"f{index:02}.png")
    return folder


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[UpscaleRequest]:
    """Requests of jobs that would have begun."""
    requests: list[UpscaleRequest] = []

    def begin(request: UpscaleRequest, *_: object) -> UpscaleResult:
        requests.append(request)
        raise _BegunError

    monkeypatch.setattr("deployments.cli.app._run_flow", begin)
    return requests


@pytest.fixture
def upscale(tmp_path: Path) -> Upscale:
    def run(*arguments: object) -> Result:
        given = ["upscale", "--work-dir", str(tmp_path / "work"), *map(str, arguments)]
        return CliRunner().invoke(app, given)

    return run


def test_a_folder_and_a_pattern_reach_the_job(
    upscale: Upscale, frames: Path, begun: list[UpscaleRequest]
) -> None:
    for source in (frames, frames / "f%02d.png"):
        upscale("--fps", "29.97", source)
    assert [(one.video_path, one.fps) for one in begun] == [
        (str(frames), "29.97"),
        (str(frames / "f%02d.png"), "29.97"),
    ]


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (None, ["{}"], "4 pictures and no video; --fps 24 makes one video"),
        (None, ["--fps", "fast", "{}"], "fps: frames a second"),
        (None, ["{}/f%02d.png"], "is a pattern of pictures; say how many"),
        (None, ["--fps", "24", "{}/f08.png"], "f08.png is one file and no zip"),
        ("f09.png", ["--fps", "24", "{}/f%02d.png"], "f09.png is missing"),
        ("size", ["--fps", "24", "{}"], "f11.png is PNG, 32x17, 8 bits"),
        ("cut", ["--fps", "24", "{}"], "f11.png: this PNG picture cannot be read"),
        (None, ["--fps", "24", "{}", "-o", "{}/f09.png", "--overwrite"], "is the source itself"),
        (None, ["--fps", "24", "{}", "-o", "{}/new.png"], ""),
    ],
)
def test_what_is_wrong_is_said_before_the_job(
    upscale: Upscale,
    frames: Path,
    begun: list[UpscaleRequest],
    spoil: str | None,
    arguments: list[str],
    words: str,
) -> None:
    last = frames / "f11.png"
    if spoil == "size":
        Image.new("RGB", (32, 17)).save(last)
    elif spoil == "cut":
        last.write_bytes(last.read_bytes()[:-30])
    elif spoil:
        (frames / spoil).unlink()
    done = upscale(*(one.format(frames) for one in arguments))
    assert words in done.stderr.replace("\n", " ")
    assert bool(begun) == (not words)
    assert len(list(frames.iterdir())) == (3 if spoil == "f09.png" else 4)
