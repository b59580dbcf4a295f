"""Something else than a gateway answers the commands: each case ends with its own sentence.

The server sends exactly the bytes of a case. No command shows a traceback or lets an answer steer
the terminal, none waits for ever, and none holds more than a bounded answer in memory.
"""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from deployments.cli import jobs, screen
from deployments.cli.app import app
from deployments.gateway import client as gateway_client
from deployments.gateway import given
from seedvr2_core.errors import ServiceError
from tasks.settings import Settings
from tests.kits.http.intake import HostileServer, Play, Talk, answer

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e"
JOB_ID = "6a1fb6a8-2f0a-4d8e-9a53-0c9c5a7c9d11"
JOB: dict[str, Any] = {
    "job_id": JOB_ID,
    "status": "completed",
    "state": "Completed",
    "progress": 100.0,
    "elapsed_seconds": 320.5,
    "phase": "verify",
    "gpu_type": "H100",
    "resolution": "1080p",
    "filename": "a.mp4",
    "download_url": None,
    "output_path": "/work/a.mp4",
    "error": None,
    "submitted_at": "2026-11-28T09:00:00Z",
    "notes": [],
}
LINE = {"id": str(uuid4()), "at": "2026-11-28T09:00:05Z", "level": "INFO", "message": "a line"}


def told(body: object, status: str = "200 OK") -> bytes:
    """An answer whose body is JSON, or these bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer(status, content, Content_Type="application/json", Connection="close")


def pour(head: bytes, piece: bytes) -> Callable[[Talk], None]:
    """A body without an end."""

    def play(talk: Talk) -> None:
        talk.send(head)
        talk.pour(piece)

    return play


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    server = HostileServer()
    yield server
    server.close()


@pytest.fixture
def command(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command against the server."""
    server.plays.clear()
    server.heads.clear()
    monkeypatch.setenv("SEEDVR2_GATEWAY_URL", f"http://{server.host}")
    monkeypatch.setattr(gateway_client, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(gateway_client, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "_FOLLOW_SECONDS", 0.01)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def refused(result: Result, *words: str) -> None:
    """One sentence, no traceback, nothing for the terminal, nothing on stdout."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    sentence, *helps = result.stderr.splitlines()
    assert sentence.startswith("error: "), sentence
    assert sentence.isprintable()
    assert helps in ([], [f"what helps: {ServiceError.remedy}"])
    for word in words:
        assert word in sentence


ENDLESS = answer(Content_Length="", Content_Type="application/json", Connection="close")
ANSWERS: dict[str, tuple[Play, str]] = {
    "nothing": (told(b""), "no JSON"),
    "a web page": (told(b"<html>sign in</html>"), "no JSON"),
    "half of it": (told(b'{"jobs": ['), "no JSON"),
    "not utf-8": (told(b'{"jobs": "\xff\xfe"}'), "no JSON"),
    "100000 brackets": (told(b"[" * 100_000), "no JSON"),
    "5000 digits": (told(b'{"jobs": 1' + b"0" * 5000 + b"}"), "no JSON"),
    "not a number": (told(b'{"jobs": [{"progress": NaN}]}'), "no JSON"),
    "infinity": (told(b'{"jobs": [{"progress": Infinity}]}'), "no JSON"),
    "null": (told(None), "all of it: "),
    "a list": (told([JOB]), "all of it: "),
    "a text": (told("jobs"), "all of it: "),
    "no jobs": (told({"limit": 20}), "jobs: Field required"),
    "jobs that are none": (told({"jobs": {"0": JOB}}), "jobs: "),
    "101 jobs": (told({"jobs": [JOB] * 101}), "jobs: "),
    "a job that is a text": (told({"jobs": ["a job"]}), "jobs.0: "),
    "a bomb": (
        answer(
            body=gzip.compress(b" " * (given.MAX_ANSWER_BYTES + 2)),
            Content_Encoding="gzip",
            Connection="close",
        ),
        f"more than {given.MAX_ANSWER_BYTES} bytes",
    ),
    "no end": (pour(ENDLESS, b" " * 2**20), f"more than {given.MAX_ANSWER_BYTES} bytes"),
    "not gzip": (answer(body=b"no", Content_Encoding="gzip", Connection="close"), "DecodingError"),
    "cut off": (answer(body=b"{", length=100, Connection="close"), "RemoteProtocolError"),
    "no http": (b"nonsense\r\n\r\n", "RemoteProtocolError"),
    "nobody": (b"", "RemoteProtocolError"),
    "elsewhere": (answer("302 Found", Location="http://127.0.0.1:9/"), "HTTP 302"),
    "a refusal of escape codes": (told({"detail": ESCAPES}, "500 No"), "\\x1b[2J"),
    "a refusal of numbers": (told({"detail": 7}, "500 No"), "no reason given"),
    "a refusal of lists": (told({"detail": [1, {"loc": 3}, None]}, "500 No"), "a field: None"),
    "a refusal that is a list": (told([1], "500 No"), "no reason given"),
    "a refusal of a megabyte": (told({"detail": "x" * 10**6}, "500 No"), "HTTP 500"),
    "a code that is none": (told({"detail": "x", "code": {"a": 1}}, "500 No"), "x (HTTP 500"),
    "a code of escape codes": (told({"detail": "x", "code": ESCAPES}, "500 No"), "x (HTTP 500"),
    "busy": (told({"detail": "busy"}, "503 Busy"), "busy (HTTP 503"),
}


@pytest.mark.parametrize(("play", "words"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_list_that_is_none(
    server: HostileServer, command: Callable[..., Result], play: Play, words: str
) -> None:
    server.play("/jobs", play)
    result = command("jobs")
    refused(result, words)
    assert len(result.stderr) < 3000


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "an id that is a command": ({"job_id": "x; rm -rf /"}, "job_id: "),
    "an id of escape codes": ({"job_id": ESCAPES}, "job_id: "),
    "an id of lines": ({"job_id": "a\nb"}, "job_id: "),
    "an id that ends a line": ({"job_id": "a\n"}, "job_id: "),
    "an id of 4000 digits": ({"job_id": "9" * 4000}, "job_id: "),
    "no id": ({"job_id": None}, "job_id: "),
    "a status that is a number": ({"status": 7}, "status: "),
    "a state that is a list": ({"state": []}, "state: "),
    "progress in words": ({"progress": "half"}, "progress: "),
    "progress of 1e300": ({"progress": 1e300}, "progress: "),
    "seconds of 1e300": ({"elapsed_seconds": 1e300}, "elapsed_seconds: "),
    "seconds left in words": ({"seconds_left": "soon"}, "seconds_left: "),
    "a rate of -1e300": ({"frames_per_second": -1e300}, "frames_per_second: "),
    "a cost that is a list": ({"cost": [1]}, "cost: "),
    "a position that is a text": ({"position": "first"}, "position: "),
    "segments that are a text": ({"segments": "all"}, "segments: "),
    "a time of no calendar": ({"submitted_at": "yesterday"}, "submitted_at: "),
    "a time without a zone": ({"submitted_at": "2026-11-28T09:00:00"}, "submitted_at: "),
    "the beginning of time": ({"submitted_at": "0001-01-01T00:00:00+14:00"}, "submitted_at: "),
    "the end of time": ({"submitted_at": "9999-12-31T23:59:59-14:00"}, "submitted_at: "),
    "notes that are a text": ({"notes": "a note"}, "notes: "),
    "a note that is a number": ({"notes": [7]}, "notes.0: "),
    "an address that is an object": ({"download_url": {}}, "download_url: "),
    "an error that is true": ({"error": True}, "error: "),
}


@pytest.mark.parametrize("words", [("status", JOB_ID), ("cancel", JOB_ID), ("jobs",)])
@pytest.mark.parametrize(("changes", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_a_job_that_is_none(
    server: HostileServer,
    command: Callable[..., Result],
    words: tuple[str, ...],
    changes: dict[str, Any],
    named: str,
) -> None:
    for path in (f"/status/{JOB_ID}", f"/cancel/{JOB_ID}"):
        server.play(path, told(JOB | changes))
    server.play("/jobs", told({"jobs": [JOB | changes]}))
    refused(command(*words), named)


SUBMISSIONS: dict[str, object] = {
    "no id": {"deployment": "x", "notes": []},
    "an id of two lines": {"job_id": "a\nb", "deployment": "x", "notes": []},
    "a note that is none": {"job_id": "a", "deployment": "x", "notes": [None]},
    "no deployment": {"job_id": "a", "deployment": None, "notes": []},
    "a list": [],
}


@pytest.mark.parametrize("body", SUBMISSIONS.values(), ids=SUBMISSIONS.keys())
def test_a_submission_that_is_none(
    server: HostileServer, command: Callable[..., Result], body: object
) -> None:
    server.play("/upscale", told(body))
    refused(command("submit", "https://example.org/a.mp4"), "is no gateway")


LOGS: dict[str, dict[str, Any]] = {
    "no lines": {"more": False},
    "a line without a time": {"lines": [{**LINE, "at": None}], "more": False},
    "a line of another age": {"lines": [{**LINE, "at": "0001-01-01T00:00:00Z"}], "more": False},
    "a line without a level": {"lines": [{"id": "a", "at": LINE["at"]}], "more": False},
    "an id that is a list": {"lines": [{**LINE, "id": []}], "more": False},
    "more in words": {"lines": [], "more": "yes"},
    "1001 lines": {"lines": [LINE] * 1001, "more": False},
}


@pytest.mark.parametrize("body", LOGS.values(), ids=LOGS.keys())
def test_a_log_that_is_none(
    server: HostileServer, command: Callable[..., Result], body: dict[str, Any]
) -> None:
    server.play(f"/logs/{JOB_ID}", told(body))
    refused(command("logs", JOB_ID), "is no gateway")


@pytest.mark.timeout(30)
def test_more_lines_that_never_come_end_the_log(
    server: HostileServer, command: Callable[..., Result]
) -> None:
    server.play(f"/logs/{JOB_ID}", told({"lines": [], "more": True}))
    result = command("logs", JOB_ID)
    assert (result.exit_code, result.stdout, len(server.heads)) == (0, "", 1)


@pytest.mark.timeout(30)
def test_pages_without_an_end_have_one(
    server: HostileServer, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_client, "MAX_LINES", 50)

    def page(talk: Talk) -> None:
        lines = [{**LINE, "id": str(uuid4())} for _ in range(20)]
        talk.send(told({"lines": lines, "more": True}))

    server.play(f"/logs/{JOB_ID}", page)
    result = command("logs", JOB_ID)
    assert (result.exit_code, len(result.stdout.splitlines()), len(server.heads)) == (1, 60, 3)
    assert "more than 50 log lines" in result.stderr


def events(*lines: str) -> bytes:
    """A stream of events that ends."""
    body = "".join(f"{line}\n" for line in lines).encode()
    return answer(body=body, Content_Type="text/event-stream", Connection="close")


STREAM = answer(Content_Length="", Content_Type="text/event-stream", Connection="close")
STREAMS: dict[str, Play] = {
    "no events": events(),
    "events that are no jobs": events('data: {"job_id": 7}'),
    "events that are no json": events('data: "job_id'),
    "deep events": events('data: {"job_id": ' + "[" * 10_000),
    "a line without an end": pour(STREAM, b'data: {"job_id": "' + b"x" * 2**20),
    "a page": answer(body=b"<html>", Content_Type="text/html", Connection="close"),
    "no http": b"nonsense\r\n\r\n",
    "cut off": answer(
        body=b"data", length=100, Content_Type="text/event-stream", Connection="close"
    ),
    "not gzip": answer(
        body=b"no", Content_Encoding="gzip", Content_Type="text/event-stream", Connection="close"
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("play", STREAMS.values(), ids=STREAMS.keys())
def test_events_that_are_none_are_followed_by_a_question(
    server: HostileServer, command: Callable[..., Result], play: Play
) -> None:
    server.play(f"/events/{JOB_ID}", play)
    server.play(f"/status/{JOB_ID}", told(JOB))
    result = command("status", JOB_ID, "--watch")
    assert (result.exit_code, result.stdout) == (0, "/work/a.mp4\n"), result.output


def test_a_job_without_any_place_is_told(
    server: HostileServer, command: Callable[..., Result]
) -> None:
    server.play(f"/events/{JOB_ID}", events())
    server.play(f"/status/{JOB_ID}", told(JOB | {"output_path": None, "filename": None}))
    result = command("status", JOB_ID, "--watch")
    assert (result.exit_code, result.stdout) == (0, "\n"), result.output


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_what_a_gateway_says_cannot_steer_the_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every text of a job holds codes that would; the display escapes them."""
    texts = dict.fromkeys(("state", "phase", "gpu_type", "detail"), ESCAPES)
    job = JOB | texts | {"status": "processing", "phase": "wait"}
    out = Console(stderr=True, force_terminal=terminal, width=200, color_system=None)
    screen.watch(iter([job, job | {"status": "completed"}]), out)
    shown = capsys.readouterr().err
    for code in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert code not in shown


def test_a_gateway_that_answered_and_then_drips_is_not_waited_for_without_a_word(
    server: HostileServer, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_client, "AWAY_SECONDS", 0.3)
    said: list[str] = []
    ours = gateway_client.GatewayClient(Settings(), url=f"http://{server.host}", say=said.append)
    server.play(f"/status/{JOB_ID}", told(JOB))
    assert ours.status(JOB_ID)["status"] == "completed"
    server.play(f"/status/{JOB_ID}", told({"detail": "busy"}, "503 Busy"))
    began = time.monotonic()
    with pytest.raises(ServiceError, match="busy"):
        ours.status(JOB_ID)
    ours.close()
    assert time.monotonic() - began < 20
    assert said == ["waiting: busy (HTTP 503 from 127.0.0.1)"]
