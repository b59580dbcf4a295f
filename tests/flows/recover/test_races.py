"""Somebody else changes a run while `recover` is at work on it."""

from collections.abc import Callable
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Running,
)

from deployments.gateway.answers import status_word
from tasks.recovery.states import MARK, move, move_ended
from tasks.run.appointments import LABEL_RECOVERING
from tasks.settings import Settings, use_settings
from tests.kits.lost_runs import LostRun, recovered, store


@pytest.mark.soak
def test_who_cancels_while_recover_is_at_work_is_heard(settings: Settings, job: LostRun) -> None:
    """The other cancel comes between our cancel and the re-queue."""
    use_settings(settings.model_copy(update={"recover_wait_seconds": 30.0}))
    job.beat(age=10)
    with job.when("Cancelling", Cancelling(message="I changed my mind"), Cancelled()):
        assert recovered(job) == "silent: Running; it went on by itself"
    assert job.run.state_name == "Cancelled"
    assert job.run.labels[LABEL_RECOVERING] is False


@pytest.mark.soak
def test_a_run_that_its_worker_cancels_for_recover_is_at_work(
    settings: Settings, job: LostRun
) -> None:
    use_settings(settings.model_copy(update={"recover_wait_seconds": 30.0}))
    job.beat(age=10)
    words: list[str] = []
    with job.when("Cancelling", Cancelled(), then=lambda: words.append(status_word(job.run))):
        assert recovered(job) == "silent: Running; re-queued, 1"
    assert words == ["processing"]
    assert status_word(job.run) == "pending"


@pytest.mark.soak
def test_a_run_that_completes_while_it_is_watched_wins(
    settings: Settings, job: LostRun, at_second_look: Callable[[Callable[[], object]], None]
) -> None:
    store(settings)
    job.beat(age=10)
    at_second_look(lambda: job.becomes(Completed(message="by itself")))
    assert recovered(job) == "ended: Completed; it went on by itself"
    assert job.state == "Completed: by itself"
    assert not job.results()


@pytest.mark.long
def test_a_run_that_completes_while_it_is_cancelled_wins(settings: Settings, job: LostRun) -> None:
    """Its process was about to end anyway; Prefect lets it complete although it is cancelled."""
    store(settings)
    job.beat(age=10)
    patient = settings.model_copy(update={"recover_wait_seconds": 30.0})
    use_settings(patient)
    with job.when("Cancelling", Completed(message="by itself")):
        assert recovered(job) == "silent: Running; it went on by itself"
    assert job.state == "Completed: by itself"


class LateClient:
    """A client that is late: right before it first sets a state, somebody else sets one."""

    def __init__(self, client: SyncPrefectClient, state: State) -> None:
        self._client = client
        self._state: State | None = state

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def set_flow_run_state(self, run_id: UUID, state: State, force: bool = False) -> object:
        """Set the state, the first time after the other one."""
        first, self._state = self._state, None
        if first is not None:
            self._client.set_flow_run_state(run_id, first, force=True)
        return self._client.set_flow_run_state(run_id, state, force=force)


def test_a_state_that_overtook_ours_is_put_back(job: LostRun) -> None:
    """The run completes after we look at its state and before we set ours; it stays completed."""
    job.becomes(Crashed())
    judged = job.run.state
    assert judged is not None
    late = LateClient(job.client, Completed(message="by itself"))
    with disable_run_logger():
        moved = move(late, job.id, judged.id, Failed(message="output file not found"))  # type: ignore[arg-type]
    assert not moved
    assert job.state == "Completed: by itself"
    assert not move(job.client, job.id, judged.id, Failed(message="too late"))
    assert job.state == "Completed: by itself"


def test_a_worker_that_is_slow_to_cancel_costs_no_attempt(job: LostRun) -> None:
    """The worker sets Cancelled at the moment of the re-queue."""
    job.becomes(Crashed(), Cancelling(message=f"{MARK}it crashed"))
    late = LateClient(job.client, Cancelled(message="by its worker"))
    with disable_run_logger():
        assert move_ended(late, job.id, AwaitingRetry())  # type: ignore[arg-type]
        assert job.run.state_name == "AwaitingRetry"
        assert not move_ended(job.client, job.id, Failed())
    assert job.run.state_name == "AwaitingRetry"


@pytest.mark.soak
def test_a_second_recover_leaves_it_to_the_first(
    client: SyncPrefectClient, deployed: dict[str, UUID], job: LostRun
) -> None:
    job.beat().becomes(Crashed())
    first = client.create_flow_run_from_deployment(
        deployed["recover"], parameters={"run_id": str(job.id)}
    )
    client.set_flow_run_state(first.id, Running(), force=True)
    assert recovered(job) == "crashed: Crashed; another recover is at work on it"
    assert job.run.state_name == "Crashed"
    assert job.looks()
    client.set_flow_run_state(first.id, Crashed(), force=True)
    assert "re-queued, 1" in recovered(job)
