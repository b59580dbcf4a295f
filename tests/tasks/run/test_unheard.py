"""A process whose run was cancelled or goes on elsewhere ends, although nobody tells it.

The flow runs in this process, as a worker would run it, and no worker is there to end it.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Cancelling, Failed, Pending, Running

from tasks.run import unheard
from tasks.run.termination import termination_heard
from tasks.run.unheard import Lookout, NotOursError
from tests.kits.deployed import deploy
from tests.kits.http.s3 import Line, line_to

GIVEN_UP = 60.0
told: list[tuple[UUID, str]] = []
"""What the flow's hook was called with: the run, and the state's message."""
cleaned: list[str] = []


def note(flow: Any, run: FlowRun, state: State[Any]) -> None:
    """The hook of the flow's cancellation."""
    told.append((run.id, state.message or ""))


@flow(name="works-on", persist_result=False, on_cancellation=[note])
def works_on(seconds: float) -> Any:
    """Work until it is ended, as our flows do."""
    try:
        with termination_heard():
            try:
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline:
                    time.sleep(0.05)
            finally:
                cleaned.append(str(flow_run.id))
            return "made"
    except NotOursError as ended:
        return ended.leave()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unheard, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(unheard, "PATIENCE_SECONDS", 0.5)
    told.clear()
    cleaned.clear()
    return


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def run(client: SyncPrefectClient) -> FlowRun:
    """A run of a deployment that no worker takes."""
    deployment = deploy(client, works_on, f"unheard-{uuid4()}")
    made = client.create_flow_run_from_deployment(deployment, parameters={"seconds": GIVEN_UP})
    client.set_flow_run_state(made.id, Pending(), force=True)
    return client.read_flow_run(made.id)


def work(run: FlowRun, *, seconds: float = GIVEN_UP, then: Callable[[], object]) -> None:
    """Run the flow in this thread, as a worker's process does; once it runs, call `then`."""

    def disturb() -> None:
        with get_client(sync_client=True) as client:
            while client.read_flow_run(run.id).state_name != "Running":
                time.sleep(0.05)
        time.sleep(0.5)  # it has looked at its run
        then()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(disturb,))
    thread.start()
    try:
        run_flow(works_on, flow_run=run, parameters={"seconds": seconds}, return_type="state")
    finally:
        thread.join()


def state_of(client: SyncPrefectClient, run: FlowRun) -> State[Any]:
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state


@pytest.mark.long
@pytest.mark.parametrize("name", ["Cancelling", "Recovering"])
def test_a_cancelled_run_ends_as_if_its_worker_had_heard_of_it(
    client: SyncPrefectClient, run: FlowRun, name: str
) -> None:
    cancelling = State(type=StateType.CANCELLING, name=name, message="a person did")
    work(run, then=lambda: client.set_flow_run_state(run.id, cancelling))
    state = state_of(client, run)
    assert (state.type.value, state.message) == ("CANCELLED", "a person did")
    assert cleaned == [str(run.id)], "what the work holds is let go first"
    assert told == [(run.id, "a person did")]


@pytest.mark.long
@pytest.mark.parametrize("state", [Cancelled(message="its worker was gone"), Running()])
def test_a_run_that_has_ended_or_goes_on_elsewhere_is_left_as_it_is(
    client: SyncPrefectClient, run: FlowRun, state: State[Any]
) -> None:
    """Where another process has begun the run anew, its number of starts has grown."""

    def elsewhere() -> None:
        if state.is_running():
            for between in (Failed(), Pending()):
                client.set_flow_run_state(run.id, between, force=True)
        client.set_flow_run_state(run.id, state, force=True)

    with pytest.raises(Pause):
        work(run, then=elsewhere)
    left = state_of(client, run)
    assert (left.type, left.message) == (state.type, state.message)
    assert (cleaned, told) == ([str(run.id)], [])


@pytest.mark.long
def test_a_run_that_nobody_has_touched_ends_by_itself(
    client: SyncPrefectClient, run: FlowRun
) -> None:
    work(run, seconds=2.0, then=lambda: None)
    assert state_of(client, run).is_completed()


@pytest.mark.long
def test_a_worker_has_its_time_and_may_change_its_mind(
    client: SyncPrefectClient, run: FlowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`recover` puts back a state that it has overtaken by the one with which it ends a run."""
    monkeypatch.setattr(unheard, "PATIENCE_SECONDS", 5.0)

    def cancel_for_a_moment() -> None:
        before = state_of(client, run)
        for state in (Cancelling(), before):
            client.set_flow_run_state(run.id, state, force=True)
            time.sleep(1.0)

    work(run, seconds=4.0, then=cancel_for_a_moment)
    assert state_of(client, run).is_completed()
    assert told == []


@pytest.fixture
def line(api_url: str) -> Iterator[Line]:
    """A way to the server that can be blocked."""
    with line_to(api_url.removesuffix("/api")) as line:
        yield line


@pytest.mark.long
def test_a_server_that_is_away_ends_nothing_and_is_asked_again(
    client: SyncPrefectClient, run: FlowRun, line: Line
) -> None:
    ended = threading.Event()
    client.set_flow_run_state(run.id, Running(), force=True)
    line.fail("away", "flow_runs", times=1000)
    with temporary_settings({PREFECT_API_URL: f"{line.url}/api"}):
        lookout = Lookout(run.id, ended.set, look_seconds=0.1, patience_seconds=0.5)
        lookout.start()
        assert not ended.wait(2.0)
        line.mend()
        assert not ended.wait(1.0)
        client.set_flow_run_state(run.id, Cancelling(), force=True)
        assert ended.wait(30.0)
    lookout.stop()
    assert lookout.why == "cancelled"


@pytest.mark.long
def test_one_that_was_stopped_ends_nothing(client: SyncPrefectClient, run: FlowRun) -> None:
    ended = threading.Event()
    lookout = Lookout(run.id, ended.set, look_seconds=0.1, patience_seconds=1.0)
    lookout.start()
    client.set_flow_run_state(run.id, Cancelling(), force=True)
    time.sleep(0.5)
    lookout.stop()
    assert not ended.wait(2.0)
    assert lookout.why == ""
