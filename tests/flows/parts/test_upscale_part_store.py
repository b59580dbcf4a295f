"""A helper of a long job on another machine: the two have an object store and no common disk.

Both run in this process. Each has a folder of its own: the job its job's, the helper one below
WORK_DIR/helpers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Running

from flows.upscale import upscale
from tasks.child import pending
from tasks.net.bucket import Bucket
from tasks.parts import crew, division
from tasks.parts.crew import parts_of
from tasks.schemas import UpscaleResult
from tasks.settings import Settings
from tests.kits.deployed import attempt
from tests.kits.faults import use_small_pictures
from tests.kits.hosts.crews import SLOW, Worker, helped, job_of, let_helpers_begin
from tests.kits.http.s3 import S3

pytestmark = pytest.mark.long


@pytest.fixture
def settings(
    settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, s3: S3
) -> Settings:
    """Small pictures, segments enough to divide a shot, helpers for any work, and a store."""
    use_small_pictures(monkeypatch)
    monkeypatch.setattr(crew, "PART_SECONDS", 0.001)
    monkeypatch.setattr(crew, "TEND_SECONDS", 0.5)
    monkeypatch.setattr(pending, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(division, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr("tasks.store.keeper.LOOK_SECONDS", 0.1)
    return settings_with(
        allow_local_files=True,
        allow_cpu_engine=True,
        test_engines=True,
        segment_seconds=0.3,
        store=s3.address,
        **s3.settings(),
    )


@pytest.fixture
def helper_is_first(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """The job's own child begins when a helper has made something."""
    made = "*/segments/[0-9]*.json"
    let_helpers_begin(monkeypatch, lambda _: list(settings.helpers_dir.glob(made)))


@pytest.mark.parametrize(
    "options", [{}, {"model": "tiny", "batch_size": 12}], ids=["sleep", "tiny"]
)
@pytest.mark.usefixtures("helper_is_first")
def test_a_helper_makes_segments_and_the_bytes_are_the_same(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    demo_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    s3: S3,
    options: dict[str, Any],
) -> None:
    """SeedVR2's graph as well, whose segments inside a shot go on from the one before."""
    bucket = Bucket(s3.address, settings)
    made = job_of(client, deployments[0], demo_clip, max_workers=2, **options)
    worker = Worker(made.id)
    state = attempt(client, made.id)
    worker.join()
    assert state.is_completed(), state
    assert worker.state is not None
    assert worker.state.is_completed(), worker.state
    assert "segment" in str(worker.state.message)
    assert not str(worker.state.message).startswith("0 segments"), worker.state.message
    assert bucket.names("jobs") == [], "nothing of the job stays but its result and its source"
    assert list(settings.helpers_dir.iterdir()) == []
    (found,) = settings.jobs_dir.glob("*/result.json")
    result = UpscaleResult.model_validate_json(found.read_bytes())
    monkeypatch.undo()
    use_small_pictures(monkeypatch)
    alone: Any = upscale(**{"video_path": str(demo_clip), **SLOW, **options, "fresh": True})
    assert (alone.sha256, alone.job_key) == (result.sha256, result.job_key)


def test_a_job_that_nobody_helps_is_made_alone(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    demo_clip: Path,
    s3: S3,
) -> None:
    made = job_of(client, deployments[0], demo_clip, max_workers=2)
    assert attempt(client, made.id).is_completed()
    (part,) = parts_of(client, made.id)
    assert part.state is not None
    assert part.state.is_cancelled()
    assert helped(client, part).message == "the job needs no help"
    assert Bucket(s3.address, settings).names("jobs") == []


def test_a_job_that_offers_nothing_here_has_no_helper(
    client: SyncPrefectClient, settings: Settings, deployments: tuple[UUID, UUID], demo_clip: Path
) -> None:
    made = job_of(client, deployments[0], demo_clip)
    client.set_flow_run_state(made.id, Running(), force=True)
    parameters = {"job_id": str(made.id), "job_key": "0" * 64, "number": 1}
    helper = client.create_flow_run_from_deployment(deployments[1], parameters=parameters)
    assert helped(client, helper).message == "the job needs no help"


def test_a_job_that_keeps_its_master_is_made_on_one_worker(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    demo_clip: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = job_of(client, deployments[0], demo_clip, max_workers=2, keep_master=True)
    assert attempt(client, made.id).is_completed()
    assert "the master is kept by the job's own worker" in caplog.text
    assert parts_of(client, made.id) == []
