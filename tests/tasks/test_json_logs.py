"""Logs as JSON: one object a line, with the ids of job and run, whoever writes them."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import json_logs
from tasks.json_logs import JsonConsole
from tests.kits.http.gateway import GatewayProcess
from tests.kits.processes import ROOT, environment


def records(text: str) -> list[dict[str, Any]]:
    """Every line as a record."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= one.keys() for one in found)
    return found


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a logger `seedvr2.test` has written."""
    stream, log = io.StringIO(), logging.getLogger("seedvr2.test")
    handler = JsonConsole(stream, styles={"log.info_level": "cyan"})
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG)
    yield stream
    log.removeHandler(handler)
    json_logs._ids.clear()


def test_a_record_is_one_line_whatever_is_in_it(stream: io.StringIO) -> None:
    log = logging.getLogger("seedvr2.test")
    log.warning("two\nlines, %s and \u2028 %r", "ä", b"\xff")
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        log.exception("it failed")
    first, second = records(stream.getvalue())
    assert first["message"] == "two\nlines, ä and \u2028 b'\\xff'"
    assert (first["level"], first["logger"]) == ("WARNING", "seedvr2.test")
    assert first["time"].endswith("+00:00")
    assert "ValueError: no\nsuch thing" in second["exception"]
    assert "run_id" not in first


def test_ids_are_those_of_the_process_and_of_a_record(stream: io.StringIO) -> None:
    """A helper's own run is not its job; a worker tells of many runs."""
    log = logging.getLogger("seedvr2.test")
    json_logs._ids.update(job_id="job", run_id="helper")
    log.info("a child's line")
    log.info("a task's", extra={"flow_run_id": "helper", "task_run_id": "task"})
    json_logs._ids.clear()
    log.info("a worker's", extra={"flow_run_id": "run"})
    ids = [
        {name: value for name, value in one.items() if name.endswith("_id")}
        for one in records(stream.getvalue())
    ]
    assert ids == [
        {"job_id": "job", "run_id": "helper"},
        {"job_id": "job", "run_id": "helper", "task_run_id": "task"},
        {"job_id": "run", "run_id": "run"},
    ]


def run_python(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=environment({"SEEDVR2_LOG_FORMAT": "json", **variables}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_commands_lines_are_records(tmp_path: Path) -> None:
    done = run_python("-m", "deployments.cli.app", "upscale", str(tmp_path / "no.mp4"))
    told = records(done.stderr)[0]  # what helps comes below it
    assert (done.returncode, told["level"]) == (2, "ERROR")
    assert "no.mp4" in told["message"]
    wrong = run_python("-m", "deployments.gateway", SEEDVR2_STORAGE="floppy")
    assert "SEEDVR2_STORAGE" in records(wrong.stderr)[-1]["message"], "also of wrong settings"


@pytest.mark.long
@pytest.mark.slow
def test_a_gateways_lines_are_records(tmp_path: Path) -> None:
    import httpx

    gateway = GatewayProcess(
        "--port",
        "0",
        SEEDVR2_LOG_FORMAT="json",
        SEEDVR2_WORK_DIR=str(tmp_path),
        PREFECT_API_URL="http://127.0.0.1:1/api",
    )
    assert httpx.get(f"{gateway.url}/healthz", timeout=30).status_code == 503
    told = records(gateway.end())
    assert any("cannot be reached" in one["message"] for one in told)
    assert {one["logger"] for one in told} >= {"deployments.gateway.prefect_api"}


@pytest.mark.long
@pytest.mark.slow
def test_a_runs_lines_and_its_childs_are_records_with_its_ids(
    api_url: str, demo_clip: Path, tmp_path: Path
) -> None:
    code = (
        "import deployments, sys\n"
        "from flows.upscale import upscale\n"
        f"result = upscale(video_path={str(demo_clip)!r}, model='lanczos', resolution='720p',"
        " preset='ultrafast', end='0.4')\n"
        "print(result.job_id)\n"
    )
    done = run_python(
        "-c",
        code,
        PREFECT_API_URL=api_url,
        SEEDVR2_WORK_DIR=str(tmp_path),
        SEEDVR2_ALLOW_LOCAL_FILES="true",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told, run_id = records(done.stderr), done.stdout.strip()
    own = [one for one in told if one.get("run_id")]
    assert {one["run_id"] for one in own} == {run_id}
    assert {one["job_id"] for one in own} == {run_id}
    assert any(one.get("task_run_id") for one in own)
    assert any(one["message"].startswith("stored as ") for one in own), "what a task logs"
    assert len(own) > 5
