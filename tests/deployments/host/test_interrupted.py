"""What becomes of runs whose processes ended with `seedvr2 serve`."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType

from deployments.host.interrupted import MAX_STARTS, runs_at_work, schedule_again
from tasks.recovery.states import RECOVERING
from tasks.run.appointments import LABEL_RECOVERING
from tasks.run.attempts import LABEL_WAITS
from tests.kits.http.gateway import job_run, set_state

POOLS = ("h100",)


pytestmark = pytest.mark.usefixtures("on_the_server")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def new_run(client: SyncPrefectClient, pool: str = "h100") -> str:
    deployment = client.read_deployment_by_name(f"upscale/{pool}").id
    parameters = {"video_url": "https://example.org/clip.mp4"}
    return str(client.create_flow_run_from_deployment(deployment, parameters=parameters).id)


def test_what_was_at_work_is_scheduled_again_under_its_own_id(client: SyncPrefectClient) -> None:
    running, pending, crashed, cancelling, done, other = (new_run(client) for _ in range(6))
    elsewhere = new_run(client, "h200")
    for run in (running, crashed, done, elsewhere):
        set_state(run, StateType.RUNNING)
    set_state(pending, StateType.PENDING)
    set_state(cancelling, StateType.CANCELLING)
    found = runs_at_work(client, POOLS)
    assert {str(run.id) for run in found} == {running, pending, crashed, cancelling, done}
    # Between the question and the end of the workers:
    set_state(crashed, StateType.CRASHED)
    set_state(done, StateType.COMPLETED)
    assert {str(run.id) for run in schedule_again(client, found)} == {running, pending, crashed}
    names = {run: (job_run(run).state_name or "") for run in (running, pending, crashed)}
    assert set(names.values()) == {"AwaitingRetry"}
    assert [job_run(run).state_name for run in (cancelling, done)] == ["Cancelled", "Completed"]
    assert [job_run(run).state_name for run in (elsewhere, other)] == ["Running", "Scheduled"]
    assert schedule_again(client, runs_at_work(client, POOLS)) == []


def test_a_run_that_was_being_brought_back_goes_on(client: SyncPrefectClient) -> None:
    """`recover` cancels a lost run before it queues it again; serve may end in between."""
    run = new_run(client)
    set_state(run, StateType.RUNNING)
    client.update_flow_run_labels(UUID(run), {LABEL_RECOVERING: True})
    set_state(run, StateType.CANCELLING)
    assert [str(one.id) for one in schedule_again(client, runs_at_work(client, POOLS))] == [run]


@pytest.mark.parametrize("since", [None, StateType.CRASHED, StateType.RUNNING])
def test_no_worker_hears_of_an_earlier_cancel(
    client: SyncPrefectClient, since: StateType | None
) -> None:
    """A worker that starts hears of each run that became Cancelling in the last minute, and kills
    its process, whatever state it has by then."""
    run = new_run(client)
    set_state(run, StateType.RUNNING)
    found = runs_at_work(client, POOLS)
    client.update_flow_run_labels(UUID(run), {LABEL_RECOVERING: True})
    set_state(run, StateType.CANCELLING)
    cancelled = job_run(run).state
    if since is not None:
        set_state(run, since)
    assert [str(one.id) for one in schedule_again(client, found)] == [run]
    again = job_run(run).state
    assert again
    assert cancelled
    begins = again.state_details.scheduled_time
    assert begins
    assert 60 < (begins - cancelled.timestamp).total_seconds() < 80


@pytest.mark.parametrize("name", [RECOVERING, None])
def test_what_no_worker_hears_of_goes_on_at_once(
    client: SyncPrefectClient, name: str | None
) -> None:
    run = new_run(client)
    set_state(run, StateType.RUNNING)
    if name is not None:
        client.update_flow_run_labels(UUID(run), {LABEL_RECOVERING: True})
        set_state(run, StateType.CANCELLING, name)
    before = datetime.now(UTC)
    assert schedule_again(client, runs_at_work(client, POOLS))
    again = job_run(run).state
    assert again
    begins = again.state_details.scheduled_time
    assert begins
    assert begins <= max(before, datetime.now(UTC))


def test_starts_that_ended_in_waiting_do_not_count(client: SyncPrefectClient) -> None:
    run = new_run(client)
    for _ in range(MAX_STARTS):
        set_state(run, StateType.RUNNING)
        set_state(run, StateType.PENDING)
    client.update_flow_run_labels(UUID(run), {LABEL_WAITS: 2})
    assert [str(one.id) for one in schedule_again(client, runs_at_work(client, POOLS))] == [run]


def test_a_run_that_ends_it_again_and_again_is_left_alone(client: SyncPrefectClient) -> None:
    run = new_run(client)
    for start in range(MAX_STARTS):
        set_state(run, StateType.RUNNING)
        assert job_run(run).run_count == start + 1
        going_on = schedule_again(client, runs_at_work(client, POOLS))
        assert [str(found.id) for found in going_on] == ([run] if start < MAX_STARTS - 1 else [])
    ended = job_run(run)
    assert ended.state_name == "Crashed"
    assert ended.state
    assert "ended 5 times while this job was at work" in (ended.state.message or "")
