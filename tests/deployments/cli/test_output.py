"""What `upscale` checks before it begins, and what it says at its end; no job runs here."""

import hashlib
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.cli.options import request_of
from deployments.cli.output import (
    Output,
    chosen_output,
    delivered_to,
    ending,
    whole_command,
)
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.unpacking import unpack
from tasks.schemas import FetchedSource, PlannedJob, UpscaleResult
from tasks.settings import Settings
from tasks.storage.open import storage_folder
from tests.kits.factories import preview_part, upscale_result

RESULT = upscale_result(
    "mine.mp4",
    frames=377,
    seconds=42.0,
    output_size_mb=12.34,
    segments_reused=1,
    preview_path="/out/mine.preview.jpg",
    report_path="/out/mine.report.html",
    source_name="clip.mp4",
    frames_reused=125,
)


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is missing must not start a render."""

    def begun(*_: object) -> UpscaleResult:
        raise AssertionError("the job has begun")

    monkeypatch.setattr("deployments.cli.app._run_flow", begun)


@pytest.fixture
def upscale(demo_clip: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run `seedvr2 upscale CLIP`; the options' last value counts."""
    work_dir = ("--work-dir", str(tmp_path / "work"))

    def run(*options: object) -> Result:
        return CliRunner().invoke(app, ["upscale", str(demo_clip), *work_dir, *map(str, options)])

    return run


@pytest.fixture
def small_disks(tmp_path: Path) -> Iterator[Path]:
    """A folder with a full file system and a read-only one."""
    kinds = {"full": "size=4k", "ro": "ro"}
    for name, option in kinds.items():
        (tmp_path / name).mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(tmp_path / name)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield tmp_path
    for name in kinds:
        subprocess.run(["umount", str(tmp_path / name)], check=True)


def refusal(result: Result) -> str:
    """The one sentence of a refusal; no traceback, nothing on stdout."""
    assert (result.exit_code, result.stdout) in ((2, ""), (1, "")), result.output
    line, *helps = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(one.startswith("what helps: ") for one in helps[:1])
    assert len(helps) <= 1, "no traceback"
    return line


def test_the_source_is_refused_as_output(upscale: Callable[..., Result], demo_clip: Path) -> None:
    before = demo_clip.read_bytes()
    for option in ("--output", "-o"):
        told = refusal(upscale(option, demo_clip, "--overwrite"))
        assert "is the source itself, which is never replaced" in told
    assert demo_clip.read_bytes() == before


def test_what_is_there_is_refused_without_overwrite(
    upscale: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "mine.mp4").write_bytes(b"mine")
    told = refusal(upscale("-o", tmp_path / "mine.mp4"))
    assert "exists already; choose another name, or let it be replaced (overwrite)" in told
    begun = upscale("-o", tmp_path / "mine.mp4", "--overwrite")
    assert str(begun.exception) == "the job has begun"
    assert "--output, which is missing" in refusal(upscale("--overwrite"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-o", "b.ts"), "must end in .mp4"),
        (("-o", "b"), "must end in .mp4"),
        (("-o", "/proc/b.mp4"), "the output's folder /proc cannot be written"),
        (("-o", "none/b.mp4"), "in a folder that exists"),
        (("-o", "x" * 300 + ".mp4"), "File name too long"),
        (("-o", "\udcff.mp4"), r"\xff.mp4 holds bytes that are no UTF-8"),
        (("-o", "~nobody-here/b.mp4"), "home of a user who is not known"),
        (("--work-dir", "file"), "/file is no folder"),
        (("--work-dir", "file/below"), "/file is no folder"),
        (("--work-dir", "/proc/w"), "the work directory /proc/w cannot be used"),
        (("--work-dir", "x" * 300), "File name too long"),
        (("--work-dir", "\udcff"), r"\xff holds bytes that are no UTF-8"),
        (("-r", "1080"), "did you mean 1080p?"),
        (("-r", "UHD"), "did you mean 4k?"),
        (("--model", "seedvr2-7"), "did you mean seedvr2-7b?"),
        (("--model", "SeedVR2-1.5B"), "did you mean seedvr2-1.4b?"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:24].strip("\udcff"),
)
def test_what_cannot_be_is_refused_before_the_render(
    options: tuple[str, ...],
    told: str,
    upscale: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert told in refusal(upscale(*options))


def test_disks_that_take_nothing_are_found_before_the_render(
    upscale: Callable[..., Result], small_disks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, read_only = small_disks / "full", small_disks / "ro"
    assert "the work directory's disk is full" in refusal(upscale("--work-dir", full / "w"))
    told = refusal(upscale("--work-dir", read_only / "w"))
    assert "Read-only file system; name another with --work-dir" in told
    assert "on a read-only file system" in refusal(upscale("-o", read_only / "b.mp4"))
    monkeypatch.setenv("SEEDVR2_WORK_DIR", str(read_only))
    request = CliRunner().invoke(app, ["upscale", "http://127.0.0.1:9/a.mp4"])
    assert request.exit_code == 2


def made_by(settings: Settings, output: Path, *, archive: Path | None = None) -> str:
    """Write the record of a job that has made this file, or this folder; returns its key."""
    job_dir = settings.jobs_dir / "key"
    job_dir.mkdir(parents=True)
    sha256 = hashlib.sha256((archive or output).read_bytes()).hexdigest()
    made = RESULT.model_copy(update={"output_path": str(output), "sha256": sha256})
    (job_dir / "result.json").write_text(made.model_dump_json())
    (settings.jobs_dir / "other").mkdir()
    (settings.jobs_dir / "other" / "result.json").write_text("{broken")
    return "key"


def planned(key: str) -> PlannedJob:
    return PlannedJob(
        job_key=key,
        job_dir=Path("/w"),
        source=FetchedSource(path=Path("/a.mp4"), sha256="a", num_bytes=1, name="a.mp4"),
        num_segments=1,
        num_frames=1,
        width=1280,
        height=720,
        resolution="720p",
        engine="span",
        engine_label="SPAN",
        device="cpu",
        output_name="a.mp4",
        eta_seconds=1.0,
        job_limit_seconds=1.0,
        stall_limit_seconds=1.0,
        duration_seconds=1.0,
    )


def test_the_same_request_again_is_no_mistake(demo_clip: Path, tmp_path: Path) -> None:
    """Its own result is there, byte for byte. Another request is refused when it is planned."""
    settings = Settings(work_dir=tmp_path / "work")
    output = tmp_path / "mine.mp4"
    output.write_bytes(b"the result")
    key = made_by(settings, output)
    request = request_of([str(demo_clip)])
    chosen = chosen_output(output, request, settings, overwrite=False)
    assert isinstance(chosen, Output)
    assert not chosen.file.overwrite
    assert chosen.needs_whole_plan
    chosen.planned(planned(key))
    with pytest.raises(InvalidRequestError, match="made from another source or with other options"):
        chosen.planned(planned("another"))
    fresh = request_of([str(demo_clip)], fresh=True)
    with pytest.raises(InvalidRequestError, match="exists already"):
        chosen_output(output, fresh, settings, overwrite=False)
    output.write_bytes(b"the user's changes")
    with pytest.raises(InvalidRequestError, match="exists already"):
        chosen_output(output, request, settings, overwrite=False)


def test_a_folder_of_the_same_request_is_no_mistake(demo_clip: Path, tmp_path: Path) -> None:
    settings, folder = Settings(work_dir=tmp_path / "work"), tmp_path / "pictures"
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("000000.png", b"a picture")
    request = request_of([str(demo_clip)], codec="png", container="folder")
    assert unpack(archive, folder, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(InvalidRequestError, match="is no empty folder"):
        chosen_output(folder, request, settings, overwrite=True)
    key = made_by(settings, folder, archive=archive)
    chosen = chosen_output(folder, request, settings, overwrite=False)
    assert isinstance(chosen, Output)
    chosen.planned(planned(key))
    with pytest.raises(InvalidRequestError, match="a folder is never replaced"):
        chosen.planned(planned("another"))
    (folder / "000000.png").write_bytes(b"my own work")
    with pytest.raises(InvalidRequestError, match="is no empty folder"):
        chosen_output(folder, request, settings, overwrite=False)


def test_the_job_stores_where_the_command_says(demo_clip: Path, tmp_path: Path) -> None:
    settings = Settings(work_dir=tmp_path / "work")
    request = request_of([str(demo_clip)])
    with delivered_to(chosen_output(tmp_path / "a.mp4", request, settings, overwrite=False)):
        assert storage_folder(settings) == tmp_path
    with delivered_to(chosen_output(None, request, settings, overwrite=False)):
        assert storage_folder(settings) == tmp_path / "work" / "output"


def test_the_end_says_what_was_made() -> None:
    assert ending(RESULT) == [
        "done: /out/mine.mp4",
        "  1280x720, 377 frames, 12.3 MB, made by span from clip.mp4",
        "  42 s, 6.0 frames/s",
        "  125 of 377 frames kept",
        "  before and after: /out/mine.preview.jpg",
        "  report: /out/mine.report.html",
    ]
    whole = RESULT.model_copy(
        update={
            "frames": 1,
            "frames_reused": 0,
            "seconds": 3725.0,
            "output_size_mb": 2345.0,
            "preview_path": None,
            "report_path": None,
        }
    )
    assert ending(whole)[1:] == [
        "  1280x720, 1 frame, 2.35 GB, made by span from clip.mp4",
        "  1 h 02 min, 0.0 frames/s",
    ]
    found = RESULT.model_copy(update={"already_done": True, "output_path": None, "cdn_url": "u"})
    assert ending(found)[0] == "already done: u"
    assert not any("kept" in line or "frames/s" in line for line in ending(found))


def test_the_version_is_told() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.stdout.split()[0]) == (0, "seedvr2")


def test_a_preview_is_written_beside_the_name_and_says_how_to_go_on(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of([str(demo_clip)], preview="3s@0:01")
    settings = Settings(allow_local_files=True, work_dir=tmp_path / "work")
    output = chosen_output(tmp_path / "film.mp4", request, settings, overwrite=False)
    assert output is not None
    assert output.file.path == tmp_path / "film.preview.mp4"
    asked = ["seedvr2", "upscale", "my clip.mp4", "--preview", "3s@0:01", "--crf", "20"]
    monkeypatch.setattr("sys.argv", asked)
    shown = preview_part(before_path="/out/mine.before.mp4")
    lines = ending(RESULT.model_copy(update={"preview": shown}))
    assert "  to make the whole video: seedvr2 upscale 'my clip.mp4' --crf 20" in lines
    assert "  the source there: /out/mine.before.mp4" in lines
    asked[3:5] = ["--preview=3s@0:01"]
    assert whole_command(asked[1:]) == "seedvr2 upscale 'my clip.mp4' --crf 20"
    asked[1:1] = ["--fresh"]
    assert "--fresh" not in whole_command(asked[1:]), "what the preview has made is kept"
    named = ["upscale", "--preview", "3s", "--", "--fresh", "--preview"]
    assert whole_command(named) == "seedvr2 upscale -- --fresh --preview", "names of files"
