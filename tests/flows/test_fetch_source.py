"""A job whose source is slow leaves its worker's slot, and `fetch-source` brings the source."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingRetry, Cancelled, Completed, Failed

from flows.fetch_source import fetch_source
from seedvr2_core.errors import SourceTooSlowError
from tasks import probe as probing
from tasks.fetch import fetch
from tasks.run import handover
from tasks.run.handover import LABEL_CUTTER, LABEL_FETCHER
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tests.kits.deployed import QUICK, attempt, deploy, seconds_until
from tests.kits.faults import use_small_pictures
from tests.kits.http.video_server import VideoServer

pytestmark = pytest.mark.slow


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    """A client of the test server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def server() -> Iterator[VideoServer]:
    """A server of videos."""
    server = VideoServer()
    yield server
    server.close()


@pytest.fixture
def settings(server: VideoServer, settings_with: Callable[..., Settings]) -> Settings:
    """Settings for small jobs, on a server that is private."""
    return settings_with(
        allow_cpu_engine=True, segment_seconds=1.5, fetch_allow=(server.host,), fetch_seconds=60
    )


@pytest.fixture
def job(
    client: SyncPrefectClient,
    server: VideoServer,
    settings: Settings,
    demo_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FlowRun]:
    """A deployed run whose source stops in the middle; `fetch-source` is deployed too."""
    monkeypatch.setattr(handover, "PATIENCE_SECONDS", 0.5)
    stall = threading.Event()
    server.offer("/clip.mp4", content=demo_clip.read_bytes(), stall=stall, etag=None)
    fetcher_id = deploy(client, fetch_source, "cpu")
    parameters = {"video_url": server.url("/clip.mp4"), **QUICK}
    yield client.create_flow_run_from_deployment(deploy_upscale(client), parameters=parameters)
    stall.set()
    client.delete_deployment(fetcher_id)


@pytest.fixture
def long_job(
    client: SyncPrefectClient,
    demo_clip: Path,
    settings_with: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FlowRun]:
    """A deployed run of an engine that needs cuts, whose video counts as long."""
    use_small_pictures(monkeypatch, 64 * 36)
    monkeypatch.setattr(probing, "MOST_FRAMES_HERE", 74)
    settings_with(allow_local_files=True, test_engines=True, segment_seconds=1.0)
    fetcher_id = deploy(client, fetch_source, "cpu")
    parameters = {"video_path": str(demo_clip), "model": "tiny", "resolution": "720p"}
    yield client.create_flow_run_from_deployment(deploy_upscale(client), parameters=parameters)
    client.delete_deployment(fetcher_id)


def deploy_upscale(client: SyncPrefectClient) -> UUID:
    """`upscale`, deployed on a pool without workers."""
    from flows.upscale import upscale

    return deploy(client, upscale, "slow-source")


def fetchers(client: SyncPrefectClient, job: FlowRun, task: str = "fetch-source") -> list[FlowRun]:
    """The runs of `fetch-source` for a job."""
    wanted = {"idempotency_key": {"any_": [f"{task}:{job.id}"]}}
    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))


@pytest.mark.long
def test_a_slow_source_is_fetched_outside_and_not_asked_for_again(
    client: SyncPrefectClient, server: VideoServer, job: FlowRun, demo_clip: Path
) -> None:
    state = attempt(client, job.id)
    (fetcher,) = fetchers(client, job)
    told = f"waiting for its source, which run {fetcher.id} is fetching"
    assert (state.name, state.message) == ("AwaitingRetry", told)
    assert client.read_flow_run(job.id).labels[LABEL_FETCHER] == str(fetcher.id)
    asked = len(server.requests)
    state = attempt(client, job.id)
    assert (state.name, state.message) == ("AwaitingRetry", told)
    assert len(server.requests) == asked, "it asks for nothing while another run is at work"
    assert len(fetchers(client, job)) == 1
    server.offer("/clip.mp4", content=demo_clip.read_bytes(), etag=None)
    brought = fetch_source(job.id, return_state=True)
    assert brought.message == "clip.mp4: 0.152 MB"
    assert seconds_until(client.read_flow_run(job.id)) < 1
    asked = len(server.requests)
    state = attempt(client, job.id)
    assert state.is_completed(), state
    assert str(state.message).startswith("clip_720p_")
    assert len(server.requests) == asked, "the source is here, though it has no ETag"


@pytest.mark.long
def test_a_source_that_never_comes_fails_the_job_without_a_gpu(
    client: SyncPrefectClient,
    server: VideoServer,
    job: FlowRun,
    settings_with: Callable[..., Settings],
) -> None:
    attempt(client, job.id)
    settings_with(fetch_allow=(server.host,), fetch_seconds=0.5)
    brought = fetch_source(job.id, return_state=True)
    state = client.read_flow_run(job.id).state
    assert state is not None
    assert (brought.name, state.name) == ("Failed", "Failed")
    assert "0.5 s over all attempts" in str(state.message)


@pytest.mark.long
def test_what_is_refused_elsewhere_is_tried_by_the_job_itself(
    client: SyncPrefectClient, job: FlowRun, settings_with: Callable[..., Settings]
) -> None:
    attempt(client, job.id)
    settings_with(fetch_allow=())
    assert fetch_source(job.id, return_state=True).is_failed()
    run = client.read_flow_run(job.id)
    assert run.state_name == "AwaitingRetry"
    assert seconds_until(run) < 1


@pytest.mark.long
def test_the_cuts_of_a_long_video_are_found_outside(
    client: SyncPrefectClient, long_job: FlowRun, demo_clip: Path, tmp_path: Path
) -> None:
    state = attempt(client, long_job.id)
    (cutter,) = fetchers(client, long_job, "find-cuts")
    told = f"waiting for its cuts, which run {cutter.id} is looking for"
    assert (state.name, state.message) == ("AwaitingRetry", told)
    assert client.read_flow_run(long_job.id).labels[LABEL_CUTTER] == str(cutter.id)
    assert cutter.parameters == {"run_id": str(long_job.id), "cuts": True}
    state = attempt(client, long_job.id)
    assert (state.name, state.message) == ("AwaitingRetry", told)
    assert len(fetchers(client, long_job, "find-cuts")) == 1
    assert not list(tmp_path.rglob("*.cuts.json"))
    (record,) = tmp_path.rglob("probes/*.json")
    probed = record.stat().st_mtime_ns
    found = fetch_source(long_job.id, cuts=True, return_state=True)
    assert found.message == f"{demo_clip.name}: its cuts are known"
    assert seconds_until(client.read_flow_run(long_job.id)) < 1
    (cuts,) = tmp_path.rglob("*.cuts.json")
    written = cuts.stat().st_mtime_ns
    client.set_flow_run_state(cutter.id, Completed(), force=True)
    state = attempt(client, long_job.id)
    assert state.is_completed(), state
    assert cuts.stat().st_mtime_ns == written, "the job has not looked for them again"
    assert record.stat().st_mtime_ns == probed, "nobody has read the whole source a second time"


@pytest.mark.long
def test_cuts_that_are_not_found_outside_are_found_by_the_job_itself(
    client: SyncPrefectClient,
    long_job: FlowRun,
    settings_with: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    attempt(client, long_job.id)
    (cutter,) = fetchers(client, long_job, "find-cuts")
    settings_with(allow_local_files=False, work_dir=tmp_path / "elsewhere")
    assert fetch_source(long_job.id, cuts=True, return_state=True).is_failed()
    run = client.read_flow_run(long_job.id)
    assert (run.state_name, str(run.state and run.state.message)) == (
        "AwaitingRetry",
        "it looks for its cuts by itself",
    )
    assert seconds_until(run) < 1
    client.set_flow_run_state(cutter.id, Failed(), force=True)
    settings_with(allow_local_files=True, test_engines=True, segment_seconds=1.0)
    state = attempt(client, long_job.id)
    assert state.is_completed(), state


def test_a_job_that_was_cancelled_meanwhile_stays_so(
    client: SyncPrefectClient, server: VideoServer, job: FlowRun, demo_clip: Path
) -> None:
    client.set_flow_run_state(job.id, AwaitingRetry(), force=True)
    client.set_flow_run_state(job.id, Cancelled(), force=True)
    server.offer("/clip.mp4", content=demo_clip.read_bytes())
    assert fetch_source(job.id, return_state=True).is_completed()
    assert client.read_flow_run(job.id).state_name == "Cancelled"


@pytest.mark.long
def test_all_attempts_together_have_one_deadline(
    client: SyncPrefectClient, server: VideoServer, settings_with: Callable[..., Settings]
) -> None:
    settings_with(fetch_allow=(server.host,), fetch_seconds=2.0)
    server.answer("/a.mp4", 503)
    quick = fetch.with_options(retry_delay_seconds=[0.1, 3.0, 0.1, 0.1, 0.1], retry_jitter_factor=0)

    @flow(name="one deadline")
    def attempts() -> None:
        quick(UpscaleRequest(video_url=server.url("/a.mp4")))

    began = time.monotonic()
    with pytest.raises(SourceTooSlowError, match=r"within 2 s over all attempts.*SEEDVR2_FETCH"):
        attempts()
    assert time.monotonic() - began < 60
    assert len(server.requests) == 2, "after the deadline nothing is asked for"
