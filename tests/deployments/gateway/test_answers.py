"""A job as the gateway describes it, from its run and its progress artifact."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.states import Cancelled, Completed, Running, State

from deployments.gateway.answers import Job, describe
from tasks.run.artifacts import PROGRESS_KEY


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
