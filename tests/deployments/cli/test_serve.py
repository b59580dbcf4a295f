"""`seedvr2 serve` for real: a job from submission to its link, Ctrl-C, kills, no process left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deployments.cli.serve import _Stack, attach_to_worker, reachable
from deployments.host.installation import is_healthy
from deployments.host.supervisor import Supervisor
from seedvr2_core.files.durable import file_sha256
from tasks.settings import Settings
from tests.kits.processes import ROOT, command_line, run_command
from tests.kits.server import WAIT_SECONDS, Serve, eventually

# 50 ms a frame, 75 frames, 6 segments: time enough for what a test does to it.
SLEEP = ("--model", "sleep", "--resolution", "720p", "--preset", "ultrafast")
LANCZOS = ("--model", "lanczos", "--resolution", "720p", "--preset", "ultrafast")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Serve]]:
    """The services that a test starts; afterwards none of their processes may be running."""
    all_of_them: list[Serve] = []
    yield all_of_them
    for serve in all_of_them:
        serve.close()
        eventually(lambda serve=serve: not serve.processes(), "the end of all processes")


def start(started: list[Serve], folder: Path, **changes: str) -> Serve:
    serve = Serve(folder, **changes)
    started.append(serve)
    return serve.wait_until_ready()


@pytest.mark.soak
def test_one_command_takes_jobs_from_submission_to_their_links(
    started: list[Serve], tmp_path: Path, demo_clip: Path
) -> None:
    serve = start(started, tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "PREFECT_API_URL is http://127.0.0.1:9/api; serve does not use it" in serve.said()
    check_prefect_is_for_us_alone(serve)
    # By an event, a bad one by upscale.sh, and one that is watched.
    send_event(serve, video_path=str(demo_clip), model="lanczos", crf=30)
    text = tmp_path / "text.mp4"
    text.write_text("this is not a video\n" * 200)
    script = serve.start_script(text)
    done = serve.command("submit", demo_clip, *LANCZOS, "--watch", "--json")
    assert done.returncode == 0, done.stderr
    out, _ = script.communicate(timeout=WAIT_SECONDS)
    assert (script.returncode, "this is text, not a video" in out) == (1, True), out
    jobs = eventually(lambda: all_ended(serve, 3), "three ends")
    assert sorted(job["status"] for job in jobs) == ["completed", "completed", "failed"], jobs
    for job in (job for job in jobs if job["status"] == "completed"):
        check_link(serve, job)
        check_picture(serve, job)
    assert json.loads(done.stdout)["job_id"] in {job["job_id"] for job in jobs}
    home = str(tmp_path / "prefect")
    second = run_command("serve", "--work-dir", tmp_path / "second", PREFECT_HOME=home)
    assert (second.returncode, "is running already" in second.stderr) == (2, True)
    check_the_command_shares_the_server(serve, demo_clip)
    assert serve.stop() == 0, serve.said()
    assert not serve.processes()
    assert "go on at the next start" in serve.said()


def check_prefect_is_for_us_alone(serve: Serve) -> None:
    """The UI is served, but its API has a password, knows its own name and allows no other page."""
    url = serve.urls["prefect"]
    assert httpx.get(url, follow_redirects=True).status_code == 200  # the UI
    version = f"{url}/api/admin/version"
    assert httpx.get(version).status_code == 401
    assert httpx.get(version, auth=serve.auth).status_code == 200
    for server in ("prefect", "gateway", "edge"):
        foreign = httpx.get(serve.urls[server], headers={"Host": "evil.example"}, auth=serve.auth)
        assert foreign.status_code == 421, server
    for origin, allowed in (("https://evil.example", None), (url, url)):
        answer = httpx.get(version, headers={"Origin": origin}, auth=serve.auth)
        assert answer.headers.get("access-control-allow-origin") == allowed
    home = serve.folder / "prefect"
    for name in ("prefect.db", "seedvr2-api-auth", "seedvr2-serve.json"):
        assert (home / name).stat().st_mode & 0o077 == 0, name


def check_the_command_shares_the_server(serve: Serve, clip: Path) -> None:
    """`seedvr2 upscale` on the same PREFECT_HOME is recorded by the server that is running."""
    done = run_command(
        *("upscale", clip, *LANCZOS, "--crf", "31", "--work-dir", serve.folder / "own"),
        timeout=WAIT_SECONDS,
        PREFECT_HOME=str(serve.folder / "prefect"),
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"recorded by the Prefect server that is running at {serve.urls['prefect']}/api"
        in done.stderr
    )
    assert not (serve.folder / "own" / "prefect-server.log").exists()
    runs = httpx.post(
        f"{serve.urls['prefect']}/api/flow_runs/filter", json={}, auth=serve.auth, timeout=60
    ).json()
    assert [run["state_type"] for run in runs if run["parameters"].get("crf") == 31] == [
        "COMPLETED"
    ]


def send_event(serve: Serve, **payload: object) -> None:
    """Ask for a job by an event, as a webhook does."""
    event = {
        "event": "upscale.requested",
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": "upscale.request.1", "resolution": "720p"},
        "payload": payload,
    }
    address = f"{serve.urls['prefect']}/api/events"
    sent = httpx.post(address, json=[event], timeout=60, auth=serve.auth)
    assert sent.status_code == 204


def all_ended(serve: Serve, number: int) -> list[dict[str, Any]] | None:
    """All jobs, once there are that many and all have ended."""
    jobs = httpx.get(f"{serve.urls['gateway']}/jobs", timeout=60).json()["jobs"]
    ended = [job for job in jobs if job["status"] in ("completed", "failed", "cancelled")]
    return jobs if len(ended) == number else None


def check_link(serve: Serve, job: dict[str, Any]) -> None:
    """A job's link serves the output, whole and in parts."""
    assert job["download_url"].startswith(serve.urls["edge"])
    assert (job["gpu_type"], job["progress"]) == ("local", 100.0)
    whole = httpx.get(job["download_url"], timeout=60)
    assert whole.content == Path(job["output_path"]).read_bytes()
    part = httpx.get(job["download_url"], headers={"Range": "bytes=0-99"}, timeout=60)
    assert (part.status_code, part.content) == (206, whole.content[:100])


def check_picture(serve: Serve, job: dict[str, Any]) -> None:
    """What Prefect's page shows of a job has the before/after picture, which the edge serves."""
    wanted = {"flow_run_id": {"any_": [job["job_id"]]}, "key": {"any_": ["upscale-result"]}}
    (artifact,) = httpx.post(
        f"{serve.urls['prefect']}/api/artifacts/filter",
        json={"artifacts": wanted},
        auth=serve.auth,
        timeout=60,
    ).json()
    address = artifact["description"].partition("![before and after](")[2].partition(")")[0]
    assert address.startswith(serve.urls["edge"]), artifact["description"]
    served = httpx.get(address, timeout=60)
    assert served.headers["content-type"] == "image/jpeg"
    assert served.content.startswith(b"\xff\xd8")


def test_a_host_that_anybody_could_reach_needs_tokens(tmp_path: Path) -> None:
    done = run_command("serve", "--host", "0.0.0.0", "--work-dir", tmp_path)
    assert (done.returncode, "loopback only" in done.stderr) == (2, True)
    assert reachable("http://0.0.0.0:80") == "http://127.0.0.1:80"
    assert reachable("http://[::]:80") == "http://[::1]:80"


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_job_at_work_goes_on_at_the_next_start(
    started: list[Serve], tmp_path: Path, demo_clip: Path, number: signal.Signals
) -> None:
    serve = start(started, tmp_path)
    jobs = [serve.submit(demo_clip, *SLEEP, "--crf", str(crf)) for crf in (20, 21)]
    eventually(lambda: list(serve.work_dir.glob("jobs/*/segments/00001.json")), "two segments")
    parts = " ".join(serve.processes().values())
    for name in ("prefect.engine", "seedvr2_core.child", "deployments.gateway"):
        assert name in parts
    assert serve.stop(number) == (-signal.SIGKILL if number == signal.SIGKILL else 0), serve.said()
    eventually(lambda: not serve.processes(), "the end of all processes")
    again = start(started, tmp_path)
    assert f"job {jobs[0]}" in serve.said() + again.said() or number == signal.SIGINT
    ended = [again.wait_for(job, "completed", "failed") for job in jobs]
    assert [job["status"] for job in ended] == ["completed", "completed"], ended
    results = {
        result["job_id"]: result
        for path in again.work_dir.glob("jobs/*/result.json")
        if (result := json.loads(path.read_text()))
    }
    assert set(results) == set(jobs)
    assert results[jobs[0]]["segments_reused"] >= 2
    for result in results.values():
        assert file_sha256(Path(result["output_path"])) == result["sha256"]


@pytest.mark.soak
def test_parts_that_are_killed_come_back(
    started: list[Serve], tmp_path: Path, demo_clip: Path
) -> None:
    serve = start(started, tmp_path)
    for text in (
        *("deployments.gateway", "deployments.edge", "deployments.host.prefect_server"),
        *("--pool local", "--pool cpu"),
    ):
        before = serve.part(text)
        os.kill(before, signal.SIGKILL)
        eventually(
            lambda text=text, before=before: any(
                text in command and pid != before for pid, command in serve.processes().items()
            ),
            f"a new {text}",
        )
    eventually(lambda: is_healthy(f"{serve.urls['prefect']}/api/health"), "the new server's start")
    job = serve.submit(demo_clip, *LANCZOS)
    ended = serve.wait_for(job, "completed", "failed")
    assert ended["status"] == "completed", ended
    assert httpx.get(ended["download_url"]).is_success
    assert serve.said().count("it is started again in 1 s") == 5, serve.said()


@pytest.mark.soak
def test_cancel_and_logs(started: list[Serve], tmp_path: Path, demo_clip: Path) -> None:
    serve = start(started, tmp_path)
    job = serve.submit(demo_clip, *SLEEP)
    following = subprocess.Popen(
        command_line("logs", job, "--follow"),
        env=serve.environment | {"SEEDVR2_GATEWAY_URL": serve.urls["gateway"]},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    serve.wait_for(job, "processing")
    eventually(lambda: list(serve.work_dir.glob("jobs/*/segments/00000.json")), "a segment")
    assert serve.command("cancel", job).returncode == 0
    serve.wait_for(job, "cancelled")
    lines, _ = following.communicate(timeout=WAIT_SECONDS)
    assert following.returncode == 0
    assert "INFO" in lines
    eventually(
        lambda: not any("seedvr2_core.child" in c for c in serve.processes().values()),
        "the end of the engine child",
    )
    assert serve.command("status", job, "--watch").returncode == 1


@pytest.mark.soak
def test_a_port_that_is_taken_ends_it_with_a_sentence(started: list[Serve], tmp_path: Path) -> None:
    serve = start(started, tmp_path)
    port = serve.urls["gateway"].rpartition(":")[2]
    free = ("--api-port", "0", "--edge-port", "0", "--gateway-port", port)
    home = str(tmp_path / "other")
    done = run_command("serve", *free, "--work-dir", tmp_path / "other", PREFECT_HOME=home)
    assert done.returncode == 1
    assert f"gateway cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_flow_runs_are_attached_to_their_worker() -> None:
    template = attach_to_worker({"job_configuration": {}, "variables": {"properties": {}}})
    command = template["job_configuration"]["command"]
    assert command.startswith(sys.executable)
    assert "--parent={{ $SEEDVR2_ATTACHED_PID }} prefect.engine" in command
    assert list(template["variables"]["properties"]) == ["$SEEDVR2_ATTACHED_PID"]


def test_each_part_gets_the_passwords_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge is open to the outside, so it must not be able to tell one."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    stack = _Stack(Supervisor(print), Settings(work_dir=tmp_path), "127.0.0.1", {})
    parts = {part.name: part for part in (stack._server(), stack._edge(), stack._gateway())}
    held = {
        name: {word for word in part.environment if word.endswith("API_AUTH_STRING")}
        for name, part in parts.items()
    }
    client, server = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
    assert held == {"server": {client, server}, "edge": set(), "gateway": {client}}
