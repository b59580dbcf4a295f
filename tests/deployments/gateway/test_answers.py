"""A job as the gateway describes it, from its run and its progress artifact."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import Artifact, FlowRun, StateType
from prefect.states import Cancelled, Completed, Running, State

from deployments.gateway.answers import Job, describe
from seedvr2_core.errors import BudgetError
from tasks.run.artifacts import PROGRESS_KEY
from tasks.run.failures import failed


def job(state: State, **told: str) -> Job:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="clip", state=state, parameters={}, tags=[])
    progress = Artifact(
        key=PROGRESS_KEY,
        type="progress",
        data=40.0,
        flow_run_id=run.id,
        created=datetime.now(UTC),
        metadata_={"phase": "restore", **told},
    )
    return describe(run, [progress], position=None)


def test_a_job_at_work_tells_how_far_it_is_and_what_is_left() -> None:
    found = job(Running(), frames="30", num_frames="75", seconds_left="12.3", detail="")
    assert (found.frames_done, found.seconds_left, found.detail) == (30, 12.3, None)
    waiting = job(Running(), phase="wait", detail="waiting for cuda:0")
    assert (waiting.phase, waiting.detail) == ("wait", "waiting for cuda:0")
    assert (waiting.frames_done, waiting.seconds_left) == (None, None)


@pytest.mark.parametrize("state", [Completed(), Cancelled()])
def test_a_job_that_has_ended_has_nothing_left(state: State) -> None:
    found = job(state, frames="30", seconds_left="12.3", detail="30 of 400 MB")
    assert (found.seconds_left, found.detail) == (None, None)


def test_a_job_has_the_measures_of_its_run_and_rates_end_with_the_work() -> None:
    told = {"segment": "2", "segments": "7", "frames_per_second": "3.5", "gpu_seconds": "12.5"}
    told |= {"seconds_left_low": "10.0", "seconds_left_high": "20.0", "seed": "7", "cost": "1.25"}
    found = job(Running(), seconds_left="15.0", device="cuda:0", **told)
    assert (found.segment, found.segments, found.frames_per_second) == (2, 7, 3.5)
    assert (found.seconds_left_low, found.seconds_left_high) == (10.0, 20.0)
    ended = job(Cancelled(), seconds_left="15.0", device="cuda:0", **told)
    assert (ended.frames_per_second, ended.seconds_left_low, ended.seconds_left) == (None,) * 3
    assert (ended.gpu_seconds, ended.cost, ended.seed, ended.device) == (12.5, 1.25, 7, "cuda:0")


def test_a_failed_job_has_the_code_and_the_remedy_of_its_error() -> None:
    found = job(failed(BudgetError("all is spent")))
    assert (found.state, found.error, found.error_code) == (
        "OverBudget",
        "all is spent",
        "over_budget",
    )
    assert found.error_remedy == BudgetError.remedy
    old = job(State(type=StateType.FAILED, message="a version before wrote this"))
    assert (old.error, old.error_code) == ("a version before wrote this", None)
