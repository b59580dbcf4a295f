"""Lost helpers of a long job: `recover` and its sweep know them as they know jobs."""

from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Crashed

from flows.recover import recover
from tasks.recovery.states import MARK
from tasks.run.appointments import LABEL_RECOVERIES, MAX_RECOVERIES
from tasks.settings import Settings
from tests.kits.lost_runs import LostRun, recovered, store


@pytest.fixture
def helper(client: SyncPrefectClient, deployed: dict[str, UUID]) -> LostRun:
    """A helper whose state is Running."""
    told = {"job_id": str(uuid4()), "job_key": "0" * 64, "number": 1}
    return LostRun(client, deployed["upscale-part"], **told)


@pytest.mark.long
def test_a_lost_helper_is_queued_again_and_at_last_given_up(
    settings: Settings, helper: LostRun
) -> None:
    """The output of its job is not its own, also where it is stored."""
    store(settings)
    helper.beat(age=10, job="")
    assert recovered(helper) == "silent: Running; re-queued, 1"
    assert helper.state.startswith("AwaitingRetry: ")
    helper.becomes(Crashed())
    assert recovered(helper) == "crashed: Crashed; re-queued, 2"
    assert helper.run.labels[LABEL_RECOVERIES] == MAX_RECOVERIES == 2
    helper.becomes(Crashed())
    told = recovered(helper)
    job = helper.run.parameters["job_id"]
    assert told.startswith(
        f"crashed: Crashed; failed: it crashed and was re-queued {MAX_RECOVERIES}"
    )
    assert f"job {job} goes on without this helper" in told
    assert helper.state.startswith("Failed: ")
    assert not helper.results()
    assert MARK not in told


def test_the_sweep_finds_a_lost_helper(impatient: None, helper: LostRun) -> None:
    helper.becomes(Crashed())
    recover()
    assert len(helper.looks()) == 1
