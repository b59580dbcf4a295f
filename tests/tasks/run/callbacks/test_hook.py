"""Callbacks to a real receiver on loopback, which checks them with the code in the docs."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.runner._hook_runner import HookRunner
from prefect.states import Cancelling
from pydantic import SecretStr

from flows.upscale import upscale
from seedvr2_core.errors import InvalidRequestError, InvalidVideoError, SourceRefusedError
from seedvr2_core.files.durable import file_sha256
from seedvr2_core.video.info import VideoOutline
from tasks.estimate import plan_job
from tasks.net.signing import receiver_secret
from tasks.run.callbacks import hook
from tasks.run.callbacks.hook import (
    CALLBACK_KEY,
    Delivery,
    call_back,
    check_callback,
    deliver,
    event_of,
)
from tasks.run.failures import failed
from tasks.schemas import Device, FetchedSource, ProbedSource, check_request
from tasks.settings import Settings
from tests.kits.http.callback import QUERY, RECEIVERS_SECRET, SECRET, Receiver, documented_check
from tests.kits.processes import ROOT, environment
from tests.kits.server import eventually


@pytest.fixture
def settings(receiver: Receiver, settings_with: Callable[..., Settings]) -> Settings:
    return settings_with(fetch_allow=(receiver.host,), callback_secret=SECRET)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "DELAYS", (0.01, 0.01, 0.01))


def a_run(url: str | None, **fields: Any) -> FlowRun:
    return FlowRun(
        id=uuid4(), flow_id=uuid4(), parameters={"callback_url": url}, run_count=2, **fields
    )


def send(receiver: Receiver, settings: Settings) -> Delivery:
    state = State(type=StateType.FAILED, message="no video")
    return deliver(receiver.url, event_of(a_run(receiver.url), state, {}), settings)


# What is told


@pytest.mark.parametrize(
    ("kind", "name", "status", "error"),
    [
        (StateType.COMPLETED, None, "completed", None),
        (StateType.FAILED, None, "failed", "StalledError: no sign of life"),
        (StateType.FAILED, "TimedOut", "failed", "StalledError: no sign of life"),
        (StateType.CRASHED, None, "crashed", "StalledError: no sign of life"),
        (StateType.CANCELLING, None, "cancelled", "StalledError: no sign of life"),
        (StateType.CANCELLED, None, "cancelled", "StalledError: no sign of life"),
    ],
)
def test_an_event(kind: StateType, name: str | None, status: str, error: str | None) -> None:
    message = "Flow run encountered an exception: StalledError: no sign of life"
    state, run = State(type=kind, name=name, message=message), a_run("https://example.org/x")
    result = {"filename": "a.mp4", "cdn_url": "https://cdn.test/a.mp4", "sha256": "ab", "x": 1}
    told = event_of(run, state, result)
    assert (told.event, told.status, told.error) == (f"upscale.{status}", status, error)
    assert (told.job_id, told.attempt, told.routed_from) == (str(run.id), 2, None)
    assert (told.filename, told.cdn_url, told.sha256) == ("a.mp4", "https://cdn.test/a.mp4", "ab")
    assert told.event_id == event_of(run, state, {}).event_id
    assert told.event_id != event_of(a_run(None), state, {}).event_id


def test_a_job_that_was_routed_tells_by_whom() -> None:
    run = a_run(None, labels={"seedvr2.routed_from": "17"})
    assert event_of(run, State(type=StateType.COMPLETED), {}).routed_from == "17"


def test_every_status_has_an_id_of_its_own() -> None:
    run = a_run(None)
    kinds = (StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED)
    assert len({event_of(run, State(type=kind), {}).event_id for kind in kinds}) == 4


# How it is sent


def test_the_documented_check_takes_what_is_sent_and_nothing_else(
    receiver: Receiver, settings: Settings
) -> None:
    assert send(receiver, settings).delivered
    ((headers, body),) = receiver.posts
    check, signature = documented_check(), headers["seedvr2-signature"]
    check(body, signature, RECEIVERS_SECRET)
    for wrong in (
        (body + b" ", signature, RECEIVERS_SECRET),
        (body, signature, SECRET),
        (body, signature, receiver_secret(SecretStr(SECRET), "another.example")),
        (body, signature.replace("t=1", "t=2"), RECEIVERS_SECRET),
        (body, signature, RECEIVERS_SECRET, -1.0),
    ):
        with pytest.raises(ValueError, match="signature is"):
            check(*wrong)
    for garbage in ("", "t=1", "v2=é", "t=1,v2", "v2=" + "0" * 64):
        with pytest.raises(ValueError, match=r"."):
            check(body, garbage, RECEIVERS_SECRET)


@pytest.mark.parametrize(
    ("statuses", "delivered", "posts", "told"),
    [
        pytest.param([200], True, 1, None, id="200"),
        pytest.param([503, 429, 408, 202], True, 4, None, id="heals"),
        pytest.param([500], False, 4, "after 4 attempts: .*answered 500", id="never-heals"),
        pytest.param([400], False, 1, "answered 400; expected 2xx", id="400"),
        pytest.param([410], False, 1, "answered 410; expected 2xx", id="410"),
        pytest.param([307], False, 1, "answered 307; .* redirects are not", id="redirect"),
    ],
)
def test_attempts(receiver, settings, statuses, delivered: bool, posts: int, told) -> None:
    receiver.statuses = statuses
    delivery = send(receiver, settings)
    assert (delivery.delivered, delivery.attempts, len(receiver.posts)) == (delivered, posts, posts)
    assert delivery.error is told or re.search(told, str(delivery.error))
    assert len({event["event_id"] for event in receiver.events()}) == 1
    assert "sekret42" not in repr(delivery)


def test_nobody_there(receiver: Receiver, settings: Settings, monkeypatch) -> None:
    receiver.close()
    assert "no connection" in str(send(receiver, settings).error)
    monkeypatch.setattr(hook, "LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(hook, "DELAYS", (60.0,))
    assert "given up after 0.2 s: no connection" in str(send(receiver, settings).error)
    monkeypatch.setattr(receiver, "close", lambda: None)


def test_private_addresses_are_not_told(receiver: Receiver, settings_with) -> None:
    settings = settings_with(callback_secret=SECRET)
    delivery = send(receiver, settings)
    assert not delivery.delivered
    assert "leads to port" in str(delivery.error)
    assert receiver.posts == []


# The door


def test_a_secret_is_needed(settings_with) -> None:
    settings_with()
    with pytest.raises(InvalidRequestError, match="SEEDVR2_CALLBACK_SECRET") as caught:
        check_request(video_path="a.mp4", callback_url=f"https://example.org/x?{QUERY}")
    assert "sekret42" not in str(caught.value) + str(caught.value.__cause__)


def test_the_secret_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().callback_secret is None
    monkeypatch.setenv("SEEDVR2_CALLBACK_SECRET", SECRET)
    settings = Settings()
    assert settings.callback_secret
    assert settings.callback_secret.get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    monkeypatch.setenv("SEEDVR2_CALLBACK_SECRET", "too short")
    with pytest.raises(ValueError, match="16"):
        Settings()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/x", "expected http"),
        ("example.org/x", "expected http"),
        ("https://me:sekret42@example.org/x", "user name or password"),
        ("https://example.org:22/x", "port 22"),
        ("http://169.254.169.254/x", "no public address"),
        ("http://127.0.0.1:8080/x?key=sekret42", "no public address"),
        (17, "valid string"),
    ],
)
def test_addresses_that_are_refused(settings: Settings, url: object, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"callback_url: .*{words}") as caught:
        check_request(video_path="a.mp4", callback_url=url)
    assert "sekret42" not in str(caught.value) + str(caught.value.__cause__)


def test_names_of_private_hosts_are_refused_before_anything_runs(settings, receiver) -> None:
    check_callback.fn(receiver.url)
    port = receiver.host.partition(":")[2]
    with pytest.raises(SourceRefusedError, match="leads to port"):
        check_callback.fn(f"http://localhost:{port}/x")
    with pytest.raises(SourceRefusedError, match="no public address"):
        check_callback.fn("http://localhost:8080/x")
    assert receiver.posts == []


def test_a_mistyped_field_does_not_show_its_address(settings: Settings) -> None:
    with pytest.raises(InvalidRequestError, match="calback_url: there is no such option") as caught:
        check_request(video_path="a.mp4", calback_url=f"https://example.org/x?{QUERY}")
    assert "sekret42" not in str(caught.value) + str(caught.value.__cause__)


# Who calls, with a real Prefect server


def noted(run_id: str) -> dict[str, Any]:
    """The artifact that says what became of the run's callback."""
    own = {"flow_run_id": {"any_": [UUID(run_id)]}, "key": {"any_": [CALLBACK_KEY]}}
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(own))
    assert "sekret42" not in found.model_dump_json()
    return json.loads(str(found.data))[0]


def probed_earlier(clip: Path, settings: Settings) -> ProbedSource:
    """What an earlier probe of the clip found."""
    sha256 = file_sha256(clip)
    size = clip.stat().st_size
    return ProbedSource(
        source=FetchedSource(path=clip, sha256=sha256, num_bytes=size, name=clip.name),
        info_path=settings.work_dir / "probes" / f"{sha256}.json",
        video=VideoOutline(
            width=64,
            height=48,
            rotation=0,
            sar=(1, 1),
            num_frames=10,
            duration_seconds=0.4,
            ends_early="",
        ),
        devices=(Device(name="cpu", kind="cpu"),),
        cpu_count=2,
    )


@pytest.mark.long
@pytest.mark.usefixtures("in_api")
def test_a_run_that_completes(receiver, settings_with, ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=0.4", clip)
    settings = settings_with(
        fetch_allow=(receiver.host,),
        callback_secret=SECRET,
        allow_local_files=True,
        allow_cpu_engine=True,
    )
    options = {"model": "lanczos", "resolution": "720p", "preset": "ultrafast"}
    result = upscale(video_path=str(clip), callback_url=receiver.url, **options)
    (event,) = receiver.events()
    assert (event["event"], event["job_id"]) == ("upscale.completed", result.job_id)
    assert (event["filename"], event["sha256"]) == (result.filename, result.sha256)
    assert noted(result.job_id)["delivered"] is True
    without = check_request(video_path=str(clip), **options)
    key = plan_job(
        without, probed_earlier(clip, settings), settings, out=tmp_path / "plan.json"
    ).job_key
    assert key == result.job_key, "a callback is no part of the job's key"


@pytest.mark.usefixtures("in_api")
def test_a_run_that_fails_and_a_receiver_that_fails_too(receiver, settings) -> None:
    receiver.statuses = [400]
    video = f"http://{receiver.host}/nothing.mp4?key=sekret42"
    state = upscale(video_url=video, callback_url=receiver.url, return_state=True)
    (event,) = receiver.events()
    assert state.is_failed()
    assert (event["status"], event["cdn_url"]) == ("failed", None)
    assert "answered 404 Not Found" in event["error"]
    note = noted(event["job_id"])
    assert (note["delivered"], note["attempts"]) == (False, 1)
    assert note["to"] == f"http://{receiver.host}/done"


@pytest.mark.usefixtures("in_api")
def test_a_refused_request_runs_nothing(settings: Settings) -> None:
    state = upscale(
        video_path="nowhere.mp4", callback_url="http://localhost:8080/x", return_state=True
    )
    assert state.is_failed()
    assert "no public address" in str(state.message)


@pytest.mark.usefixtures("in_api")
def test_a_run_that_is_cancelled(receiver, settings) -> None:
    """Called as a worker calls it: through Prefect's hook runner, outside the run's process."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(upscale, parameters={"callback_url": receiver.url})

    async def resolve(_: FlowRun) -> Any:
        return upscale

    hooks = HookRunner(resolve_flow=resolve)
    asyncio.run(hooks.run_cancellation_hooks(run, Cancelling(message="Flow run was cancelled.")))
    (event,) = receiver.events()
    assert (event["status"], event["job_id"]) == ("cancelled", str(run.id))
    assert noted(str(run.id))["delivered"] is True


@pytest.mark.long
@pytest.mark.usefixtures("in_api")
def test_a_run_that_is_told_to_stop(receiver, settings, api_url: str) -> None:
    """SIGTERM to the flow's own process, while its source's server is silent."""
    code = (
        "import sys; from flows.upscale import upscale\n"
        "upscale(video_url=sys.argv[1], callback_url=sys.argv[2])"
    )
    stalled = threading.Event()
    release = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stalled.set()
            release.wait(60)

    silent = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=silent.serve_forever, args=(0.05,), daemon=True).start()
    host = f"127.0.0.1:{silent.server_address[1]}"
    changes = {
        "PREFECT_API_URL": api_url,
        "SEEDVR2_WORK_DIR": str(settings.work_dir),
        "SEEDVR2_FETCH_ALLOW": f"{host},{receiver.host}",
        "SEEDVR2_CALLBACK_SECRET": SECRET,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"http://{host}/a.mp4", receiver.url],
        env=environment(changes),
        cwd=ROOT,
    )
    try:
        assert stalled.wait(120)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: receiver.posts, "the callback")
    finally:
        release.set()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        silent.shutdown()
        silent.server_close()
    (event,) = receiver.events()
    assert event["status"] == "crashed"


def test_a_run_without_an_address_tells_nobody(receiver: Receiver, settings: Settings) -> None:
    call_back(None, a_run(None), State(type=StateType.FAILED))
    assert receiver.posts == []


def test_prefect_away_costs_the_record_and_not_the_callback(
    receiver: Receiver, settings: Settings, caplog, monkeypatch
) -> None:
    def away(**_: object) -> Any:
        raise OSError("Prefect is away")

    monkeypatch.setattr(hook, "get_client", away)
    call_back(None, a_run(receiver.url), State(type=StateType.COMPLETED))
    (event,) = receiver.events()
    assert (event["status"], event["cdn_url"]) == ("completed", None)


def test_an_error_has_the_code_and_the_remedy_of_its_class() -> None:
    state = failed(InvalidVideoError("a.mp4 is no video"))
    told = event_of(a_run(None), state, {})
    assert (told.error, told.error_code) == ("a.mp4 is no video", "invalid_video")
    assert told.error_remedy == InvalidVideoError.remedy
    unknown = event_of(a_run(None), State(type=StateType.CRASHED, message="killed"), {})
    assert (unknown.error, unknown.error_code, unknown.error_remedy) == ("killed", None, None)
