"""What is to begin at a time begins by the clock of Prefect's server, however wrong ours is."""

import ast
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.upscale import upscale
from tasks.job.hold import HeldElsewhere
from tasks.parts.way import MadeWayError
from tasks.run import appointments
from tasks.run.attempts import leave_slot
from tasks.run.clock import server_now
from tasks.run.handover import FetchedElsewhere
from tasks.run.routing import create_job
from tasks.settings import Settings
from tests.kits.deployed import deploy
from tests.kits.http.s3 import Line, line_to
from tests.kits.processes import ROOT

AHEAD = timedelta(hours=1)
LONGEST_WAIT = timedelta(minutes=10)
WAITS: dict[str, Callable[[], Any]] = {
    "another run has its job": lambda: HeldElsewhere("a" * 64, "job 1 (clip.mp4)"),
    "another run fetches its source": FetchedElsewhere,
    "it makes way": lambda: MadeWayError(uuid4()),
}


@flow(name="waits")
def waits(why: str) -> None:
    """Leave the worker's slot."""
    leave_slot(WAITS[why]().leave())


@pytest.fixture
def line(api_url: str) -> Iterator[Line]:
    """The way to a server whose clock is an hour ahead of ours."""
    with line_to(api_url.removesuffix("/api")) as line:
        line.ahead_seconds = int(AHEAD.total_seconds())
        with temporary_settings({PREFECT_API_URL: f"{line.url}/api"}):
            yield line


@pytest.fixture
def client(line: Line) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def begins_at(run: FlowRun) -> datetime:
    assert run.state is not None
    planned = run.state.state_details.scheduled_time
    assert planned is not None
    return planned


def in_an_hour(planned: datetime) -> bool:
    """Whether it is soon by the clock of the server."""
    soon = datetime.now(UTC) + AHEAD
    return soon - timedelta(seconds=30) < planned < soon + LONGEST_WAIT


@pytest.mark.parametrize("why", WAITS)
def test_a_run_that_waits_comes_back_soon(
    client: SyncPrefectClient, settings_with: Callable[..., Settings], why: str
) -> None:
    settings_with()
    run = client.create_flow_run(waits, parameters={"why": why})
    with contextlib.suppress(Pause):
        run_flow(waits, flow_run=run, parameters={"why": why}, return_type="state")
    assert in_an_hour(begins_at(client.read_flow_run(run.id)))


def test_jobs_and_appointments_begin_soon(
    client: SyncPrefectClient,
    settings_with: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"clock-{uuid4()}"
    deployment = deploy(client, upscale, name)
    settings_with(deployments={"720p": f"upscale/{name}"})
    _, job = create_job({"video_url": "https://example.org/a.mp4"}, "720p")
    assert in_an_hour(begins_at(job))
    monkeypatch.setattr(appointments, "RECOVER", f"upscale/{name}")
    look = appointments.appoint(client, job, 60.0, recover_id=deployment)
    assert look is not None
    assert in_an_hour(begins_at(look))


def test_a_server_that_does_not_tell_its_time_has_ours(line: Line) -> None:
    line.fail("away", "hello", times=1000)
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True) as client,
    ):
        assert abs(server_now(client) - datetime.now(UTC)) < timedelta(seconds=30)


def test_no_run_is_left_to_begin_by_our_clock() -> None:
    """Prefect's client dates a state by our clock where it is told no time."""
    wrong: list[str] = []
    for path in [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            needs = isinstance(call, ast.Call) and _NEEDS.get(_name_of(call.func))
            if needs and needs not in [word.arg for word in call.keywords]:
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert wrong == []


_NEEDS = {
    "Scheduled": "scheduled_time",
    "AwaitingRetry": "scheduled_time",
    "create_flow_run_from_deployment": "state",
}
"""Function -> the argument without which it takes the time of this machine."""


def _name_of(called: ast.expr) -> str:
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
