"""A second run of a request that is at work, and a later attempt of a run that was killed.

A deployed run is run in this process, as its worker would; the test holds the job in the place of
the run at work.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import Running

from flows.upscale import upscale
from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files import hold_lock
from seedvr2_core.job import JobDir
from tasks.job.hold import LABEL_WAITS_FOR
from tasks.run import PROGRESS_KEY, read_progress
from tasks.run.artifacts import newest_artifact
from tasks.run.attempts import end_task_runs
from tasks.run.record import JobProgress, shown_to
from tasks.schemas import PlannedJob, UpscaleResult
from tasks.settings import Settings, get_settings
from tests.kits.deployed import QUICK, attempt, deploy, seconds_until

pytestmark = pytest.mark.long

HOLDER = {"run_id": "11111111-2222-3333-4444-555555555555", "name": "clip.mp4 -> 720p"}


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    """A client of the test server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def settings(settings_with: object) -> Settings:
    """Settings for small jobs on this machine."""
    return settings_with(  # type: ignore[operator]
        allow_local_files=True, allow_cpu_engine=True, segment_seconds=1.5
    )


@pytest.fixture
def deployment(client: SyncPrefectClient) -> UUID:
    """`upscale`, deployed on a pool without workers."""
    return deploy(client, upscale, "second")


@contextlib.contextmanager
def held(job_dir: JobDir) -> Iterator[None]:
    """Hold a job as a run does that is at work on it."""
    with hold_lock(job_dir.lock_path, timeout=0, on_wait=lambda: None):
        job_dir.lock_path.write_text(json.dumps(HOLDER))
        yield


def task_runs(client: SyncPrefectClient, run_id: UUID) -> dict[str, str]:
    """State names by task run name; task runs are recorded in the background."""
    from prefect.events.worker import EventsWorker

    EventsWorker.instance().wait_until_empty()
    of_run = FlowRunFilter.model_validate({"id": {"any_": [run_id]}})
    runs = client.read_task_runs(flow_run_filter=of_run)
    return {run.name: run.state.name or "" if run.state else "" for run in runs}


def test_a_second_run_leaves_its_slot_says_for_whom_it_waits_and_is_woken(
    client: SyncPrefectClient, deployment: UUID, settings: Settings, demo_clip: Path
) -> None:
    parameters = {"video_path": str(demo_clip), **QUICK}
    made = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    first: UpscaleResult = upscale(**parameters)
    job_dir = JobDir(settings.job_dir(first.job_key))
    with held(job_dir):
        state = attempt(client, made.id)
        assert (state.name, state.type.value) == ("AwaitingRetry", "SCHEDULED")
        told = f"waiting for job {HOLDER['run_id']} ({HOLDER['name']})"
        assert str(state.message).startswith(told)
        run = client.read_flow_run(made.id)
        assert 5 < seconds_until(run) < 16
        assert run.labels[LABEL_WAITS_FOR] == first.job_key
        progress = read_progress(newest_artifact(client, made.id, PROGRESS_KEY))
        assert f"wait: waiting for job {HOLDER['run_id']}" in str(progress.description)
        assert progress.percent == 0
        before = task_runs(client, made.id)
        assert {"fetch", "probe", "estimate"} <= {name.rpartition("-")[0] for name in before}
        again = attempt(client, made.id)
        assert again.name == "AwaitingRetry"
        assert 20 < seconds_until(client.read_flow_run(made.id)) < 31
        assert task_runs(client, made.id) == before, "nothing is fetched or probed while it waits"
    third: UpscaleResult = upscale(**parameters)  # it ends the job, as the run at work does
    woken = client.read_flow_run(made.id)
    assert seconds_until(woken) < 1
    assert not job_dir.waiting_path.exists()
    state = attempt(client, made.id)
    assert state.is_completed()
    assert str(state.message).startswith(f"{third.filename}: 1280x720, 75 frames")
    assert (third.filename, third.sha256) == (first.filename, first.sha256)


def test_a_run_of_the_command_waits_in_its_place_and_says_for_whom(
    client: SyncPrefectClient, settings: Settings, demo_clip: Path
) -> None:
    parameters = {"video_path": str(demo_clip), **QUICK}
    first: UpscaleResult = upscale(**parameters)
    job_dir, shown = JobDir(settings.job_dir(first.job_key)), list[JobProgress]()
    release = threading.Event()

    class Display:
        def planned(self, job: PlannedJob) -> None:
            del job

        def progressed(self, progress: JobProgress) -> None:
            shown.append(progress)
            if progress.phase == "wait":
                release.set()

    taken = threading.Event()

    def hold() -> None:
        with held(job_dir):
            taken.set()
            assert release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    with shown_to(Display()):
        second: UpscaleResult = upscale(**parameters)
    thread.join()
    assert second.sha256 == first.sha256
    told = next(one.detail for one in shown if one.phase == "wait")
    assert told.startswith(f"waiting for job {HOLDER['run_id']} ({HOLDER['name']})")


def test_who_takes_a_killed_run_up_ends_its_task_runs(
    client: SyncPrefectClient, deployment: UUID, settings: Settings, demo_clip: Path
) -> None:
    parameters = {"video_path": str(demo_clip), **QUICK}
    made = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    client.set_flow_run_state(made.id, Running(), force=True)
    left = client.create_task_run(
        task=upscale_task(), flow_run_id=made.id, dynamic_key="killed", name="killed"
    )
    client.set_task_run_state(left.id, Running(), force=True)
    assert attempt(client, made.id).is_completed()
    states = task_runs(client, made.id)
    assert states.pop("killed") == "Crashed"
    assert set(states.values()) <= {"Completed", "Reused"}
    assert end_task_runs(client, made.id, "again") == 0


def upscale_task() -> object:
    """Any task of the flow."""
    from tasks.stitch import stitch

    return stitch


def test_no_line_leads_from_an_earlier_task_to_a_segment(
    client: SyncPrefectClient, settings: Settings, demo_clip: Path
) -> None:
    result: UpscaleResult = upscale(video_path=str(demo_clip), **QUICK)
    task_runs(client, UUID(result.job_id))
    deadline = time.monotonic() + 30
    segments: list[dict[str, object]] = []
    while len(segments) < 2 and time.monotonic() < deadline:
        graph = client.request(  # type: ignore[call-arg]
            "GET", "/flow_runs/{id}/graph-v2", path_params={"id": result.job_id}
        ).json()
        nodes = [node for _, node in graph["nodes"]]
        segments = [node for node in nodes if node["label"].startswith("segment ")]
    assert len(segments) == 2
    assert all(node["parents"] == [] for node in segments)
    estimate = next(node for node in nodes if node["label"].startswith("estimate"))
    assert len({str(parent) for parent in estimate["parents"]}) == 2, "fetch and probe"


def test_a_failure_is_one_sentence_and_no_traceback(
    client: SyncPrefectClient,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged = tmp_path / "damaged.mp4"  # it passes the door, and a task fails on it
    damaged.write_bytes(b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(1000))
    state = upscale(video_path=str(damaged), **QUICK, return_state=True)
    assert state.is_failed()
    assert "exception" not in str(state.message)
    assert "damaged.mp4" in str(state.message)
    with pytest.raises(InvalidVideoError):
        state.result()
    assert get_settings() is settings
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.name for record in told] == ["prefect.task_runs"]
    assert not [record for record in told if record.exc_info]
