"""The measures of a job: one set of names, from the artifact to the gateway's answer."""

from dataclasses import fields
from uuid import uuid4

from prefect.client.orchestration import get_client

from deployments.gateway.answers import Job
from tasks.run import PROGRESS_KEY, read_progress
from tasks.run.artifacts import SavedProgress, newest_artifact, save_progress
from tasks.run.measures import Measures, as_text, from_text
from tasks.schemas import Account, UpscaleResult

ALL = Measures(
    segment=2,
    segments=7,
    frames_per_second=3.25,
    seconds_left_low=10.5,
    seconds_left_high=20.25,
    estimated_seconds=60.0,
    device="cuda:0",
    seed=2**64 - 1,
    gpu_seconds=12.5,
    cost=0.0042,
)


def test_what_is_known_is_written_and_read_back() -> None:
    assert None not in [getattr(ALL, one.name) for one in fields(Measures)], "all have a value here"
    assert from_text(as_text(ALL)) == ALL
    assert as_text(Measures()) == {}
    assert from_text({}) == Measures()


def test_what_another_version_wrote_is_left_out() -> None:
    told = {"segment": "two", "seed": "5", "phase": "restore", "of_tomorrow": "1"}
    assert from_text(told) == Measures(seed=5)


def test_the_gateway_and_the_result_have_the_same_names() -> None:
    names = {one.name for one in fields(Measures)}
    assert names <= set(Job.model_fields)
    assert set(Account.model_fields) <= set(Job.model_fields)
    assert set(Account.model_fields) <= set(UpscaleResult.model_fields)


def test_the_artifact_holds_them(in_api: None) -> None:
    run_id = uuid4()
    save_progress(run_id, SavedProgress(phase="restore", percent=1.0, measures=ALL), None)
    with get_client(sync_client=True) as client:
        assert read_progress(newest_artifact(client, run_id, PROGRESS_KEY)).measures == ALL
