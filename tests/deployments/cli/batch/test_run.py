"""A batch as it runs: one job each, what fails, the table at the end; no real job is made."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from deployments.cli.batch import run as batch_run
from deployments.cli.batch import summary
from deployments.cli.batch.run import WARM_SECONDS, check_batch, upscale_batch
from deployments.cli.batch.sources import VideoBatch
from seedvr2_core.errors import InvalidRequestError, InvalidVideoError
from tasks.schemas import UpscaleRequest, UpscaleResult, check_request
from tasks.settings import Settings, get_settings, use_settings
from tests.kits.factories import upscale_result

URL = "https://example.org/far%20away.mp4?token=secret"
ASKED = check_request(video_path="/in/a.mp4", resolution="2x", seed=7)


class Jobs:
    """Stands for the flow: notes what it is asked for, and fails where it should."""

    def __init__(self, **fails: BaseException) -> None:
        self.asked: list[UpscaleRequest] = []
        self.settings: list[Settings] = []
        self._fails = fails

    def __call__(self, request: UpscaleRequest) -> UpscaleResult:
        self.asked.append(request)
        self.settings.append(get_settings())
        name = Path(request.video_path or "/far").stem
        if name in self._fails:
            raise self._fails[name]
        return upscale_result(
            f"{name}_2x.mp4", width=2, height=2, frames=1, already_done=name == "old"
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is said to people, the table too, which is 80 columns wide."""
    lines: list[str] = []
    console = Console(width=80, file=None, record=True, quiet=False)

    def printed(table: object, **_: object) -> None:
        with console.capture() as captured:
            console.print(table)
        lines.extend(captured.get().splitlines())

    for module in (batch_run, summary):
        monkeypatch.setattr(module, "say", lines.append)
    monkeypatch.setattr(batch_run, "tell_remedy", lines.append)
    monkeypatch.setattr(summary.console, "print", printed)
    yield lines
    use_settings(None)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path, allow_local_files=True)


def test_each_video_is_a_job_with_the_same_options(
    told: list[str], settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = VideoBatch(sources=("/in/a.mp4", URL, "/in/old.mp4"), output=tmp_path / "out")
    jobs = Jobs()
    assert upscale_batch(batch, ASKED, settings, run=jobs, as_json=False) == 0
    assert [one.video_path or one.video_url for one in jobs.asked] == list(batch.sources)
    assert all((one.resolution, one.seed) == ("2x", 7) for one in jobs.asked)
    assert [one.storage_dir for one in jobs.settings] == [tmp_path / "out"] * 3
    # The engine waits for the next video, and not after the last one.
    assert [one.warm_seconds for one in jobs.settings] == [WARM_SECONDS, WARM_SECONDS, 0]
    assert get_settings() == settings
    paths = ["/out/a_2x.mp4", "/out/far_2x.mp4", "/out/old_2x.mp4"]
    assert capsys.readouterr().out.splitlines() == paths
    assert told[-1].startswith("3 videos: 2 done, 1 already done; ")
    assert "secret" not in "".join(told[-5:])


def test_what_a_site_says_of_warm_engines_stays(told: list[str], settings: Settings) -> None:
    own = settings.model_copy(update={"warm_seconds": 5.0})
    jobs = Jobs()
    upscale_batch(
        VideoBatch(sources=("/in/a.mp4", "/in/b.mp4")), ASKED, own, run=jobs, as_json=True
    )
    assert [one.warm_seconds for one in jobs.settings] == [5.0, 5.0]


def test_one_that_fails_does_not_stop_the_others(
    told: list[str], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a very long name " * 6
    names = ("bad", "a", "worse", "[bold]b", long)
    batch = VideoBatch(sources=tuple(f"/in/{name}.mp4" for name in names))
    jobs = Jobs(bad=InvalidVideoError("bad.mp4: no video"), worse=ZeroDivisionError("oh"))
    assert upscale_batch(batch, ASKED, settings, run=jobs, as_json=True) == 1
    assert len(jobs.asked) == len(names)
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(results) == 3
    assert any(line.startswith("error: bad.mp4: bad.mp4: no video") for line in told)
    heading = next(n for n, line in enumerate(told) if line.split()[:2] == ["file", "state"])
    table = told[heading : heading + len(names) + 1]
    assert all(len(line) <= 80 for line in table), table
    assert [row.split()[1] for row in table[1:4]] == ["failed", "done", "failed"]
    assert table[4].startswith("[bold]b.mp4")
    assert told[-1].startswith("5 videos: 2 failed, 3 done; ")


def test_ctrl_c_says_what_is_done_and_what_is_not(told: list[str], settings: Settings) -> None:
    batch = VideoBatch(sources=("/in/a.mp4", "/in/b.mp4", "/in/c.mp4"))
    with pytest.raises(KeyboardInterrupt):
        upscale_batch(batch, ASKED, settings, run=Jobs(b=KeyboardInterrupt()), as_json=False)
    assert told[-1].startswith("3 videos: 1 done, 1 interrupted, 1 not begun; ")
    assert get_settings() == settings


def test_a_watched_folder_is_worked_through_until_ctrl_c(
    told: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def come(folder: Path) -> Iterator[Path]:
        yield from (folder / "a.mp4", folder / "bad.mp4", folder / "b.mp4")
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_run, "resting_files", come)
    jobs = Jobs(bad=InvalidVideoError("no video"))
    with pytest.raises(KeyboardInterrupt):
        upscale_batch(VideoBatch(watched=tmp_path), ASKED, settings, run=jobs, as_json=False)
    assert [Path(one.video_path or "").name for one in jobs.asked] == ["a.mp4", "bad.mp4", "b.mp4"]
    assert all(one.warm_seconds == WARM_SECONDS for one in jobs.settings)
    assert told[-1].startswith("3 videos: 2 done, 1 failed; ")


def test_results_of_a_remote_storage_have_no_folder(settings: Settings, tmp_path: Path) -> None:
    remote = settings.model_copy(update={"storage": "s3"})
    check_batch(VideoBatch(sources=("/a.mp4",)), remote)
    with pytest.raises(InvalidRequestError, match="--output needs the local storage"):
        check_batch(VideoBatch(sources=("/a.mp4",), output=tmp_path), remote)
