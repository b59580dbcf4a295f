"""One process looks for ten minutes: who goes on, what replaces a killed one, what stays of it."""

import contextvars
import importlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Crashed, Pending, Running, Scheduled

from flows.recover import recover
from tasks.run.appointments import LABEL_DRAINED
from tests.kits.faults import wait_until
from tests.kits.lost_runs import LostRun

pytestmark = pytest.mark.long
sweep = importlib.import_module("tasks.recovery.sweep")
_KEY = "sweep:test-"


class Sweep:
    """A sweep at work in a thread of this process, as its worker would run it."""

    def __init__(
        self, client: SyncPrefectClient, deployment: UUID, run_id: UUID | None = None
    ) -> None:
        """Make a run of its own, or begin one anew."""
        self._client = client
        self.id = run_id or made(client, deployment).id
        client.set_flow_run_state(self.id, Pending(), force=True)
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), daemon=True)
        self._thread.start()
        wait_until(lambda: self.state == "Running" or not self._thread.is_alive(), "it runs")

    def _work(self) -> None:
        run_flow(recover, flow_run=self._client.read_flow_run(self.id), return_type="state")

    @property
    def state(self) -> str | None:
        return self._client.read_flow_run(self.id).state_name

    @property
    def message(self) -> str | None:
        found = self._client.read_flow_run(self.id).state
        return found and found.message

    def has_ended(self, seconds: float = 30.0) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


def made(client: SyncPrefectClient, deployment: UUID, **more: Any) -> FlowRun:
    """A sweep's run, which no schedule has made."""
    return client.create_flow_run_from_deployment(
        deployment, idempotency_key=f"{_KEY}{uuid4()}", **more
    )


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looks follow each other at once."""
    monkeypatch.setattr(sweep, "LOOK_SECONDS", 0.1)
    yield
    monkeypatch.setattr(sweep, "_MOST_SECONDS", 0.0)  # what a failed test has left ends


@pytest.fixture
def stand_ins(client: SyncPrefectClient, deployed: dict[str, UUID]) -> Callable[[], list[FlowRun]]:
    """The runs that wait to replace a sweep."""
    theirs = {"deployment_id": {"any_": [deployed["recover"]]}}
    scheduled = theirs | {"state": {"type": {"any_": ["SCHEDULED"]}}}

    def read() -> list[FlowRun]:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(scheduled))
        ours = [run for run in runs if (run.idempotency_key or "").startswith("sweep:")]
        return [run for run in ours if not (run.idempotency_key or "").startswith(_KEY)]

    return read


def test_the_newest_goes_on_and_one_stand_in_is_put_off(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    stand_ins: Callable[[], list[FlowRun]],
    job: LostRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "STAND_IN_SECONDS", 30.0)
    older = Sweep(client, deployed["recover"])
    wait_until(lambda: len(stand_ins()) == 1, "its stand-in waits")
    (first,) = stand_ins()
    newer = Sweep(client, deployed["recover"])
    assert older.has_ended()
    assert older.state == "Completed"
    wait_until(lambda: [run.id for run in stand_ins()] not in ([], [first.id]), "one of its own")
    (second,) = stand_ins()
    assert second.id != first.id

    def due() -> datetime:
        time = client.read_flow_run(second.id).next_scheduled_start_time
        assert time is not None
        return time

    was_due = due()
    wait_until(lambda: due() > was_due, "it is put off", seconds=40)
    assert due() > datetime.now(UTC) + timedelta(seconds=10)
    job.becomes(Crashed())
    monkeypatch.setattr(sweep, "_MOST_SECONDS", 900.0)
    assert newer.state == "Running", "nothing ends it"
    by_hand = recover(return_state=True)
    assert by_hand.is_completed(), "somebody's own look is one look"
    assert newer.state == "Running"
    third = Sweep(client, deployed["recover"])
    assert newer.has_ended()
    client.set_flow_run_state(made(client, deployed["recover"]).id, Running(), force=True)
    assert third.has_ended(), "of two, the newest alone goes on"


def test_what_a_killed_sweep_leaves_is_replaced_and_ended(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    stand_ins: Callable[[], list[FlowRun]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = made(client, deployed["recover"])
    client.set_flow_run_state(killed.id, Running(), force=True)
    look = client.create_flow_run_from_deployment(
        deployed["recover"], parameters={"run_id": str(uuid4())}
    )
    client.set_flow_run_state(look.id, Running(), force=True)
    newest = Sweep(client, deployed["recover"])
    wait_until(lambda: len(stand_ins()) == 1, "its stand-in waits")
    assert client.read_flow_run(killed.id).state_name == "Running", "it may be about to end"
    monkeypatch.setattr(sweep, "_ENDS_SECONDS", 0.0)
    wait_until(lambda: client.read_flow_run(killed.id).state_name == "Crashed", "it is ended")
    assert client.read_flow_run(look.id).state_name == "Running", "it looks at a run of its own"
    assert newest.state == "Running"
    monkeypatch.setattr(sweep, "_MOST_SECONDS", 0.0)
    client.set_flow_run_state(made(client, deployed["recover"]).id, Running(), force=True)
    assert newest.has_ended()
    assert stand_ins() == []


def test_a_sweep_leaves_its_slot_to_who_is_waited_for(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    stand_ins: Callable[[], list[FlowRun]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker of one slot would else look at no lost run, and route no job, for ten minutes."""
    at_work = Sweep(client, deployed["recover"])
    wait_until(lambda: len(stand_ins()) == 1, "its stand-in waits")
    since = datetime.now(UTC) - timedelta(seconds=5)
    client.create_flow_run_from_deployment(
        deployed["recover"],
        parameters={"run_id": str(uuid4())},
        state=Scheduled(scheduled_time=since),
    )
    assert not at_work.has_ended(2.0), "a worker may be about to take it"
    monkeypatch.setattr(sweep, "_WAITED_SECONDS", 1.0)
    assert at_work.has_ended()
    assert at_work.state == "Completed"
    assert len(stand_ins()) == 1, "it looks on, a minute later"


def test_a_sweep_whose_worker_is_drained_ends_and_its_stand_in_goes_on(
    client: SyncPrefectClient, deployed: dict[str, UUID], stand_ins: Callable[[], list[FlowRun]]
) -> None:
    """tests/faults/test_sweep_at_the_end.py drains a real worker."""
    at_work = Sweep(client, deployed["recover"])
    wait_until(lambda: len(stand_ins()) == 1, "its stand-in waits")
    client.update_flow_run_labels(at_work.id, {LABEL_DRAINED: 1})
    assert at_work.has_ended()
    assert at_work.state == "Completed"
    assert len(stand_ins()) == 1


def test_a_sweep_that_begins_again_is_not_the_one_that_was_drained(
    client: SyncPrefectClient, deployed: dict[str, UUID], stand_ins: Callable[[], list[FlowRun]]
) -> None:
    """A service that starts again schedules the runs of its drained and killed worker."""
    drained = Sweep(client, deployed["recover"])
    wait_until(lambda: len(stand_ins()) == 1, "its stand-in waits")
    client.update_flow_run_labels(drained.id, {LABEL_DRAINED: 1})
    assert drained.has_ended()
    again = Sweep(client, deployed["recover"], drained.id)
    assert not again.has_ended(3.0), "nobody waits for this attempt"
    assert again.state == "Running"
    client.update_flow_run_labels(again.id, {LABEL_DRAINED: 2})
    assert again.has_ended()
    assert again.state == "Completed"


def test_a_server_that_is_away_for_a_look_ends_no_sweep(
    client: SyncPrefectClient, deployed: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [0], sweep.appoint_unseen
    away = {2, 3, 5, 7, 8, 9, 10}

    def appoint_unseen(*arguments: Any) -> str:
        asked[0] += 1
        if asked[0] in away:
            raise httpx.ConnectError("away")
        return real(*arguments)

    monkeypatch.setattr(sweep, "appoint_unseen", appoint_unseen)
    at_work = Sweep(client, deployed["recover"])
    assert at_work.has_ended(60.0)
    assert asked[0] == 10, "four in a row end it: its stand-in tries then"
    assert at_work.state == "Failed"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([""], "no lost run that nobody looked at"),
        (["1 lost run that nobody looked at", ""], "1 lost run that nobody looked at"),
        (["3 callbacks sent", "", "3 callbacks sent"], "3 callbacks sent"),
    ],
    ids=["nothing", "once", "twice-the-same"],
)
def test_a_sweep_says_what_its_looks_have_found(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    monkeypatch: pytest.MonkeyPatch,
    found: list[str],
    told: str,
) -> None:
    left = list(found)

    def appoint_unseen(*_: Any) -> str:
        return left.pop(0) if left else ""

    monkeypatch.setattr(sweep, "appoint_unseen", appoint_unseen)
    monkeypatch.setattr(sweep, "send_waiting", lambda: "")
    at_work = Sweep(client, deployed["recover"])
    wait_until(lambda: not left, "it has looked")
    client.set_flow_run_state(made(client, deployed["recover"]).id, Running(), force=True)
    assert at_work.has_ended()
    assert at_work.message == told
