"""`seedvr2 compare`: what is refused before the work, what is written, and what never is."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.cli.compare import command
from seedvr2_core.compare.record import Comparison, ComparisonResult
from tests.kits.media import ffmpeg


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("clips")
    for name, size in (("a", "32x18"), ("b", "64x36")):
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=10:d=0.3", folder / f"{name}.mp4")
    return folder / "a.mp4", folder / "b.mp4"


@pytest.fixture
def compare(clips: tuple[Path, Path], tmp_path: Path) -> Callable[..., Result]:
    """Run `seedvr2 compare A B`."""

    def run(*options: object) -> Result:
        words = ["compare", *map(str, clips), "--work-dir", str(tmp_path / "work")]
        return CliRunner().invoke(app, [*words, *map(str, options)])

    return run


def test_three_files_are_written_and_told(compare: Callable[..., Result], tmp_path: Path) -> None:
    done = compare("-o", tmp_path / "my.mp4", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    names = [str(tmp_path / f"my{ending}") for ending in (".mp4", ".png", ".html")]
    assert [told[name] for name in ("video", "picture", "page")] == names
    assert sorted(os.listdir(tmp_path)) == ["my.html", "my.mp4", "my.png"], "and nothing else"
    assert (tmp_path / "my.mp4").read_bytes()[4:8] == b"ftyp"
    assert "A: a.mp4" in (tmp_path / "my.html").read_text()
    assert (told["num_frames"], told["a"]["width"], told["b"]["width"]) == (3, 32, 64)


def test_without_output_each_run_has_names_of_its_own(
    compare: Callable[..., Result], tmp_path: Path
) -> None:
    first, second = compare(), compare("--audio", "none")
    assert [r.stdout.split()[-1] for r in (first, second)] == [
        str(tmp_path / "work" / "compare" / name) for name in ("a-b.html", "a-b-2.html")
    ]


@pytest.mark.parametrize("ending", [".mp4", ".png", ".html"])
def test_no_file_is_replaced_unasked(
    compare: Callable[..., Result], tmp_path: Path, ending: str
) -> None:
    mine = tmp_path / f"my{ending}"
    mine.write_text("mine")
    done = compare("-o", tmp_path / "my.mp4")
    assert (done.exit_code, mine.read_text()) == (2, "mine")
    assert "exists already" in done.stderr
    assert os.listdir(tmp_path) == [mine.name]
    done = compare("-o", tmp_path / "my.mp4", "--overwrite")
    assert done.exit_code == 0, done.output
    assert mine.read_bytes() != b"mine"


def test_the_compared_files_are_never_replaced(
    compare: Callable[..., Result], clips: tuple[Path, Path], tmp_path: Path
) -> None:
    for clip in clips:
        link = tmp_path / f"link-{clip.name}"
        link.symlink_to(clip)
        before = clip.read_bytes()
        done = compare("-o", link, "--overwrite")
        assert (done.exit_code, clip.read_bytes()) == (2, before)
        assert "is the source itself" in done.stderr


def test_a_name_that_is_taken_meanwhile_loses_nothing(
    compare: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command._compared

    def and_somebody_else(wanted: Comparison) -> ComparisonResult:
        result = real(wanted)
        (tmp_path / "my.png").write_text("theirs")
        return result

    monkeypatch.setattr(command, "_compared", and_somebody_else)
    done = compare("-o", tmp_path / "my.mp4")
    assert (done.exit_code, (tmp_path / "my.png").read_text()) == (2, "theirs")
    folder = Path(done.stderr.split("are in ")[1].split()[0])
    assert (folder / "compare.png").stat().st_size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "x.mkv"), "must end in .mp4"),
        (("--overwrite",), "--output, which is missing"),
        (("--audio", "c"), "must be a, b or none"),
        (("--at", "soon"), "no place in a video"),
        (("--start-b", "1:99"), "no place in a video"),
        (("--at", "9"), "has no moment 9"),
        (("--start-a", "9"), "no frame begins"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused(
    compare: Callable[..., Result], options: tuple[str, ...], said: str
) -> None:
    done = compare(*options)
    assert done.exit_code == 2, done.output
    assert said in done.stderr


def test_what_is_no_video_is_refused(clips: tuple[Path, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for other, said in (
        (text, "text.mp4"),
        (tmp_path / "none.mp4", "is no file"),
        ("https://example.org/a.mp4", "must be a file of this machine"),
    ):
        done = CliRunner().invoke(app, ["compare", str(clips[0]), str(other)])
        assert done.exit_code == 2
        assert said in done.stderr
