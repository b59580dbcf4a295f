"""The commands that talk to a gateway, against a real one and a real Prefect server.

Tests change runs through Prefect's API. Commands run in this process, one of them in its own.
"""

import itertools
import json
import logging
import shlex
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from click.testing import Result
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.objects import StateType
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.gateway import client as gateway_client
from deployments.gateway.auth import digest
from deployments.host.machine import this_machine
from tasks.settings import Settings
from tests.kits.factories import preview_part
from tests.kits.http.gateway import (
    URL,
    gateway,
    job_run,
    record_progress,
    record_result,
    set_state,
)
from tests.kits.processes import run_command

pytestmark = pytest.mark.usefixtures("on_the_server")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask more often than for people."""
    monkeypatch.setattr(gateway_client, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(gateway_client, "_AGAIN_SECONDS", 0.1)


@pytest.fixture
def command(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command against the gateway."""
    monkeypatch.setenv("SEEDVR2_GATEWAY_URL", str(client.base_url))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def job_of(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()[-1]


def test_jobs_are_listed_newest_first(command: Callable[..., Result]) -> None:
    made = [job_of(command("submit", URL, "-r", size)) for size in ("short:720", "4k")]
    set_state(made[0], StateType.FAILED, message="a\x1b[31mb")
    lines = command("jobs", "-n", 2).stdout.splitlines()
    assert [line.split()[0] for line in lines] == made[::-1]
    assert ": pending, " in lines[0]
    assert ": failed, " in lines[1]
    told = [json.loads(line) for line in command("jobs", "-n", 2, "--json").stdout.splitlines()]
    assert [job["resolution"] for job in told] == ["4k", "short:720"]
    assert command("jobs", "-n", 0).exit_code == 2


def test_an_address_becomes_a_job(command: Callable[..., Result]) -> None:
    options = {"resolution": "4K", "seed": 7, "preset": "fast", "weights_file": "x.gguf"}
    options |= {"grain": 0.3, "encoder": "nvenc"}
    words = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    result = command("submit", URL, *itertools.chain(*words))
    run = job_run(job_of(result))
    expected = {"video_url": URL, **options, "resolution": "4k"}
    assert run.parameters.items() >= expected.items()
    assert run.work_pool_name == "h200"
    assert "on upscale/h200" in result.stderr
    told = json.loads(command("submit", URL, "--json").stdout)
    assert (told["status"], told["deployment"]) == ("pending", "upscale/h100")


def test_a_file_is_sent_where_the_gateway_takes_no_paths(
    command: Callable[..., Result], settings: Settings, demo_clip: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "my clip #1 ä.mp4"
    clip.write_bytes(demo_clip.read_bytes())
    coded = ["--codec", "hevc", "--container", "mkv", "--audio", "aac", "--max-workers", 3]
    coded += ["--deinterlace", "bob", "--start", "0.5", "--end", "frame:60", "--preview", "3s@0:01"]
    coded += ["--alpha", "flatten:#FFffff"]
    run = job_run(job_of(command("submit", clip, "--resolution", "720p", "--crf", 20, *coded)))
    reference = run.parameters["video_url"]
    assert reference.endswith("/my clip _1 ä.mp4")
    sha256 = reference.removeprefix("upload:").partition("/")[0]
    assert (settings.work_dir / "intake" / sha256).read_bytes() == clip.read_bytes()
    assert run.parameters["crf"] == 20
    names = ("codec", "container", "audio", "quality")
    assert [run.parameters.get(name) for name in names] == ["hevc", "mkv", "aac", None]
    assert run.parameters["max_workers"] == 3
    names = ("deinterlace", "start", "end", "preview", "alpha")
    wanted = ["bob", "0.5", "frame:60", "3s@0:01", "flatten:#ffffff"]
    assert [run.parameters[n] for n in names] == wanted


def test_the_shown_command_makes_the_whole_video_of_a_preview(
    settings: Settings, api_url: str, tmp_path: Path
) -> None:
    """`status` shows it with the gateway and the token's file, so that it works as it stands."""
    closed = settings.model_copy(update={"gateway_tokens": (digest("a-token"),)})
    (tmp_path / "token").write_text("a-token")
    with gateway(closed, api_url) as client:
        where = ["--gateway", str(client.base_url), "--token-file", str(tmp_path / "token")]

        def run(*words: str) -> Result:
            return CliRunner().invoke(app, [*words, *where])

        job = job_of(run("submit", URL, "--preview", "1s@2", "--crf", "20", "--fresh"))
        assert "whole" not in run("status", job).stdout
        assert "completed first" in run("whole", job).stderr
        record_result(job, preview=preview_part().model_dump(mode="json"))
        set_state(job, StateType.COMPLETED)
        for shown in (run("status", job).stdout, run("status", job, "--watch").stderr):
            (line,) = [one for one in shown.splitlines() if "to make the whole video" in one]
        words = shlex.split(line.partition(": ")[2])
        assert words == ["seedvr2", "whole", job, *where]
        whole = job_of(CliRunner().invoke(app, words[1:]))
        expected = {"video_url": URL, "crf": 20, "preview": "", "fresh": False}
        assert job_run(whole).parameters.items() >= expected.items()
        assert job_of(CliRunner().invoke(app, words[1:])) == whole, "asked twice"


def test_a_token_from_a_file(
    settings: Settings, api_url: str, demo_clip: Path, tmp_path: Path
) -> None:
    closed = settings.model_copy(update={"gateway_tokens": (digest("a-token"),)})
    file = tmp_path / "token"
    with gateway(closed, api_url) as client:

        def run(*words: str) -> Result:
            where = ("--gateway", str(client.base_url), "--token-file", str(file))
            return CliRunner().invoke(app, [*words, *where])

        assert run("jobs").exit_code == 2
        file.write_text("a-token\n")
        job = job_of(run("submit", str(demo_clip)))
        assert job_run(job).parameters["video_url"].startswith("upload:")
        for words in (("status", job), ("logs", job), ("jobs",), ("cancel", job)):
            assert run(*words).exit_code == 0, words
        file.write_text("another")
        assert "--token-file" not in run("jobs").stderr
        assert run("jobs").exit_code != 0
        file.write_bytes(b"\xff")
        assert "cannot be read" in run("jobs").stderr


@pytest.mark.long
def test_a_file_goes_by_path_to_a_gateway_that_sees_it(
    settings: Settings, api_url: str, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = settings.model_copy(update={"allow_local_files": True})
    with gateway(local, api_url) as client:
        assert client.get("/healthz").json() == {"status": "ok", "files_of": this_machine()}
        words = ["submit", str(demo_clip), "--gateway", str(client.base_url)]
        by_path = job_run(job_of(CliRunner().invoke(app, words)))
        assert by_path.parameters["video_path"] == str(demo_clip)
        sent = job_run(job_of(CliRunner().invoke(app, [*words, "--upload"])))
        assert sent.parameters["video_url"].startswith("upload:")
        refused = client.post("/upscale", json={"video_path": "/no/such.mp4"})
        assert (refused.status_code, "does not exist" in refused.text) == (422, True)
        # A tunnel to another machine: the same paths mean other files there.
        monkeypatch.setattr(gateway_client, "this_machine", lambda: "another")
        elsewhere = job_run(job_of(CliRunner().invoke(app, words)))
        assert elsewhere.parameters["video_url"].startswith("upload:")


def test_watch_shows_the_way_and_ends_with_the_result(command: Callable[..., Result]) -> None:
    job = job_of(command("submit", URL))
    results: list[Result] = []
    watching = threading.Thread(target=lambda: results.append(command("status", job, "--watch")))
    watching.start()
    set_state(job, StateType.RUNNING)
    record_progress(job, 42.5)
    record_result(job)
    set_state(job, StateType.COMPLETED)
    watching.join(60)
    assert results[0].exit_code == 0, results[0].stderr
    assert results[0].stdout == "https://cdn.example/clip_1080p_abc.mp4\n"
    assert "completed" in results[0].stderr
    assert "note: a note" in results[0].stderr
    told = json.loads(command("status", job, "--json").stdout)
    assert (told["progress"], told["filename"]) == (100.0, "clip_1080p_abc.mp4")


def test_without_a_link_watch_tells_the_path(command: Callable[..., Result]) -> None:
    job = job_of(command("submit", URL))
    record_result(job, cdn_url=None, output_path="/work/output/a.mp4")
    set_state(job, StateType.COMPLETED)
    assert command("status", job, "--watch").stdout == "/work/output/a.mp4\n"
    shown = command("status", job).stdout
    assert shown.startswith("completed, 100 %")
    assert "output_path: /work/output/a.mp4" in shown


@pytest.mark.parametrize("kind", [StateType.FAILED, StateType.CANCELLED])
def test_a_job_that_ends_badly_is_exit_1(command: Callable[..., Result], kind: StateType) -> None:
    job = job_of(command("submit", URL))
    set_state(job, kind, message="the source is no video")
    result = command("status", job, "--watch", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == kind.value.lower()
    assert "the source is no video" in result.stderr
    assert command("status", job).exit_code == 0  # it was told; nothing went wrong


def test_cancel(command: Callable[..., Result]) -> None:
    job = job_of(command("submit", URL))
    assert command("cancel", job).stdout.startswith("cancelled")
    assert command("cancel", job).exit_code == 0
    done = job_of(command("submit", URL))
    set_state(done, StateType.COMPLETED)
    result = command("cancel", done)
    assert result.exit_code == 2
    assert "has completed and cannot be cancelled" in result.stderr


def test_jobs_are_found_by_tags_and_deleted(command: Callable[..., Result]) -> None:
    noted = ["--tags", "cli test,4k", "--metadata", '{"order": 17}', "--expires-in", 60]
    job = job_of(command("submit", URL, *noted))
    told = json.loads(command("status", job, "--json").stdout)
    assert (told["tags"], told["metadata"]) == (["cli test", "4k"], {"order": 17})
    assert job_run(job).parameters["expires_in"] == 60
    words = ("--tag", "cli test", "--tag", "4k")
    assert command("jobs", *words).stdout.split()[0] == job
    assert "no such jobs" in command("jobs", "--tag", "another").stderr
    refused = command("delete", job)
    assert refused.exit_code == 2
    assert "cancel it first" in refused.stderr
    set_state(job, StateType.CANCELLED)
    done = command("delete", job)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "nothing was left" in done.stderr
    assert json.loads(command("delete", job, "--json").stdout)["removed"] == []
    wrong = command("submit", URL, "--metadata", "order=17")
    assert wrong.exit_code == 2
    assert "metadata: no JSON" in wrong.stderr


def write_log(job: str, *messages: str, at: datetime) -> None:
    """Log lines of a run, one a second from a moment on."""
    lines = [
        LogCreate(
            name="prefect.flow_runs",
            level=logging.INFO,
            message=message,
            timestamp=at + timedelta(seconds=number),
            flow_run_id=UUID(job),
        )
        for number, message in enumerate(messages)
    ]
    with get_client(sync_client=True) as client:
        client.create_logs(lines)


def test_logs_are_shown_in_order_and_once(command: Callable[..., Result]) -> None:
    job = job_of(command("submit", URL))
    began = datetime.now(UTC)
    for page in range(3):  # more than one page of the gateway's
        lines = [f"line {page * 100 + number}" for number in range(100)]
        write_log(job, *lines, at=began + timedelta(seconds=100 * page))
    shown = command("logs", job).stdout.splitlines()
    told = [line.partition("INFO")[2].strip() for line in shown]
    assert told == [f"line {number}" for number in range(300)]
    entry = json.loads(command("logs", job, "--json").stdout.splitlines()[0])
    assert (entry["level"], entry["message"]) == ("INFO", "line 0")
    ended = "Finished in state Completed()"  # of which task, a line of the log does not say
    write_log(job, ended, at=began + timedelta(seconds=400))
    assert command("logs", job).stdout.splitlines() == shown
    last = json.loads(command("logs", job, "--json").stdout.splitlines()[-1])
    assert last["message"] == ended


@pytest.mark.long
def test_logs_follow_until_the_end_and_take_late_lines(
    client: httpx.Client, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(command("submit", URL))
    began = datetime.now(UTC)
    write_log(job, "first", "second", "third", at=began)
    seen: set[str] = set()
    ours = gateway_client.GatewayClient(Settings(), url=str(client.base_url), say=print)
    assert [e["message"] for e in ours.logs(job, seen, None)] == ["first", "second", "third"]
    write_log(job, "late", at=began + timedelta(seconds=0.5))
    assert [e["message"] for e in ours.logs(job, seen, began.isoformat())] == ["late"]
    ours.close()
    set_state(job, StateType.COMPLETED)
    shown = command("logs", job, "--follow").stdout
    assert [text.split()[-1] for text in shown.splitlines()] == ["first", "late", "second", "third"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("submit",), "exactly one SOURCE"),
        (("submit", ""), "a SOURCE is empty"),
        (("submit", URL, "--resolution", "8k"), "8k"),
        (("submit", "ftp://example.org/a.mp4"), "ftp: addresses are not fetched"),
        (("submit", "/no/such/file.mp4"), "does not exist"),
        (("submit", __file__), "video"),
        (("submit", URL, "--batch-size", "21", "--temporal-overlap", "20"), "overlap"),
        (("status", str(uuid4())), "there is no job"),
        (("cancel", "not-an-id"), "there is no job"),
        (("logs", str(uuid4())), "there is no job"),
        (("status", "x", "--gateway", "http://127.0.0.1:x"), "no address"),
    ],
)
def test_wrong_input_is_exit_2(
    command: Callable[..., Result], words: tuple[str, ...], told: str
) -> None:
    result = command(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    first, *helps = result.stderr.strip().splitlines()
    assert told in first
    assert [line.partition(":")[0] for line in helps] in ([], ["what helps"])


def test_the_token_is_a_setting(
    settings: Settings, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = settings.model_copy(update={"gateway_tokens": (digest("right"),)})
    with gateway(closed, api_url) as client:
        words = ["submit", URL, "--gateway", str(client.base_url)]
        refused = CliRunner().invoke(app, words)
        assert (refused.exit_code, "SEEDVR2_GATEWAY_TOKEN" in refused.stderr) == (2, True)
        monkeypatch.setenv("SEEDVR2_GATEWAY_TOKEN", "right")
        assert CliRunner().invoke(app, words).exit_code == 0


def test_nobody_there_is_one_sentence_at_once() -> None:
    done = run_command("status", "x", SEEDVR2_GATEWAY_URL="http://127.0.0.1:9", timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no gateway answers at http://127.0.0.1:9")
    assert "seedvr2 serve" in done.stderr
    assert len(done.stderr.splitlines()) == 2, "the sentence, and what helps"


def test_a_gateway_that_has_answered_is_waited_for(settings: Settings, api_url: str) -> None:
    said = threading.Event()
    with gateway(settings, api_url) as first:
        port = first.base_url.port or 0
        ours = gateway_client.GatewayClient(
            settings, url=str(first.base_url), say=lambda text: said.set()
        )
        words = ["submit", URL, "--gateway", str(first.base_url)]
        job = job_of(CliRunner().invoke(app, words))
        assert ours.status(job)["status"] == "pending"
    statuses: list[str] = []
    asking = threading.Thread(target=lambda: statuses.append(ours.status(job)["status"]))
    asking.start()
    assert said.wait(60)
    with gateway(settings, api_url, port):
        asking.join(60)
    ours.close()
    assert statuses == ["pending"]
