"""`recover` removes an output when its time is over, and not before."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed

from flows.recover import recover
from tasks.run import publish_result
from tasks.run.retention import (
    LABEL_DELETED,
    LABEL_EXPIRES,
    callers_own,
    job_tag,
    keep_output,
)
from tasks.settings import Settings
from tests.kits.factories import upscale_result
from tests.kits.lost_runs import LostRun

KEY = "0123456789ab" + "c" * 52
NAME = "clip_720p_0123456789ab.mp4"


def complete(
    client: SyncPrefectClient, run: LostRun, settings: Settings, until: str | None
) -> None:
    """Let a run complete as its process would, with an output that expires."""
    settings.storage_dir.mkdir(exist_ok=True)
    (settings.storage_dir / NAME).write_bytes(b"video")
    settings.job_dir(KEY).mkdir(parents=True, exist_ok=True)
    result = upscale_result(
        NAME,
        output_path=str(settings.storage_dir / NAME),
        engine="lanczos",
        sha256=hashlib.sha256(b"video").hexdigest(),
        job_key=KEY,
        job_id=str(run.id),
        expires_at=until,
    )
    publish_result(result)
    keep_output(client, run.run, KEY, until)
    run.becomes(Completed())


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def appointments(client: SyncPrefectClient, run: LostRun) -> list[FlowRun]:
    name = {"name": {"any_": [f"remove the output of {run.id}"]}}
    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(name))


def test_when_an_output_expires() -> None:
    def seconds(given: float | None, default: float | None) -> float | None:
        until = callers_own("", "", given, default)["expires_at"]
        if until is None:
            return None
        return (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds()

    assert seconds(None, None) is None
    assert seconds(0, 3600) is None, "0 keeps it whatever the installation says"
    assert 3590 < (seconds(None, 3600) or 0) <= 3600
    assert 50 < (seconds(60, 3600) or 0) <= 60


@pytest.mark.long
def test_it_goes_at_the_appointment_and_stays_before(
    client: SyncPrefectClient, job: LostRun, settings: Settings
) -> None:
    until = in_seconds(3600)
    complete(client, job, settings, until)
    (look,) = appointments(client, job)
    planned = look.state.state_details.scheduled_time if look.state else None
    assert planned == datetime.fromisoformat(until)
    assert look.parameters == {"run_id": str(job.id)}
    assert job_tag(KEY) in job.run.tags

    recover(job.id)
    assert (settings.storage_dir / NAME).exists(), "its time is not over"
    client.update_flow_run_labels(job.id, {LABEL_EXPIRES: in_seconds(-1)})
    state = recover(job.id, return_state=True)
    assert "expired: removed" in (state.message or "")
    assert not (settings.storage_dir / NAME).exists()
    assert not settings.job_dir(KEY).exists()
    assert LABEL_DELETED in job.run.labels
    assert recover(job.id, return_state=True).message == "ended: Completed", "only once"


def test_an_output_that_does_not_expire_is_never_touched(
    client: SyncPrefectClient, job: LostRun, settings: Settings
) -> None:
    complete(client, job, settings, None)
    assert not appointments(client, job)
    recover(job.id)
    assert (settings.storage_dir / NAME).exists()


@pytest.mark.long
def test_another_job_of_the_same_request_keeps_it(
    client: SyncPrefectClient, deployed: dict[str, UUID], job: LostRun, settings: Settings
) -> None:
    other = LostRun(client, deployed["upscale"])
    complete(client, job, settings, in_seconds(-1))
    complete(client, other, settings, None)
    state = recover(job.id, return_state=True)
    assert "another job has the same output" in (state.message or "")
    assert (settings.storage_dir / NAME).exists()
    client.update_flow_run_labels(other.id, {LABEL_EXPIRES: in_seconds(-1)})
    recover(other.id)
    assert not (settings.storage_dir / NAME).exists()
