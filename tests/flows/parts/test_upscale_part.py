"""Helpers of a long job on a real server: who makes what, who ends when, and what people see.

Runs are made in this process, as their workers would: the job's in the main thread, a helper's in
another.
"""

import contextlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled, Failed, Running

from flows.upscale import upscale
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.sharing import read_sharing
from tasks.child import pending
from tasks.child.session import SegmentWatch
from tasks.parts import crew, end_parts, way
from tasks.parts.crew import parts_of
from tasks.run import PROGRESS_KEY, read_progress
from tasks.run.appointments import LABEL_RECOVERING
from tasks.run.artifacts import newest_artifact
from tasks.run.record import JobProgress, shown_to
from tasks.schemas import PlannedJob, UpscaleResult
from tasks.settings import Settings
from tests.kits.clips.transparent import HEIGHT, WIDTH, saved, shown_alpha, textured
from tests.kits.deployed import attempt, deploy, seconds_until
from tests.kits.faults import use_small_pictures, wait_until
from tests.kits.hosts.crews import SLOW, Worker, helped, job_of, let_helpers_begin

pytestmark = pytest.mark.long


@pytest.fixture
def settings(settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Small pictures, six segments, and helpers for any work."""
    use_small_pictures(monkeypatch)
    monkeypatch.setattr(crew, "PART_SECONDS", 0.5)
    monkeypatch.setattr(crew, "TEND_SECONDS", 0.5)
    monkeypatch.setattr(pending, "_LOOK_SECONDS", 0.1)
    return settings_with(
        allow_local_files=True, allow_cpu_engine=True, test_engines=True, segment_seconds=0.5
    )


def asked(clip: Path) -> dict[str, Any]:
    """The same request without helpers, made anew."""
    return {"video_path": str(clip), **SLOW, "fresh": True}


@pytest.fixture
def helper_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's own child begins when a helper has taken something."""

    def has_taken(watch: SegmentWatch) -> object:
        with Claims(watch._job_dir) as claims:
            return claims.taken_by_others(range(6))

    let_helpers_begin(monkeypatch, has_taken)


@pytest.mark.usefixtures("helper_is_first")
def test_a_helper_makes_segments_and_the_bytes_are_the_same(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    demo_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = job_of(client, deployments[0], demo_clip, max_workers=3, fresh=True)
    shown: list[JobProgress] = []

    class Display:
        def planned(self, job: PlannedJob) -> None:
            del job

        def progressed(self, progress: JobProgress) -> None:
            shown.append(progress)

    worker = Worker(made.id)
    with shown_to(Display()):
        state = attempt(client, made.id)
    worker.join()
    assert state.is_completed(), state
    assert worker.state is not None
    assert worker.state.is_completed()
    assert "segment" in str(worker.state.message)
    assert not str(worker.state.message).startswith("0 segments"), worker.state.message

    (job_dir,) = [JobDir(path) for path in settings.jobs_dir.iterdir()]
    result = UpscaleResult.model_validate_json(job_dir.result_path.read_bytes())
    monkeypatch.undo()
    use_small_pictures(monkeypatch)
    alone: Any = upscale(**asked(demo_clip))
    assert alone.sha256 == result.sha256
    assert alone.job_key == result.job_key, "the number of workers is no part of it"
    assert not job_dir.sharing_path.exists()

    frames = [progress.frames for progress in shown if progress.phase == "restore"]
    assert frames == sorted(frames)
    assert max(progress.hands for progress in shown) > 1
    parts = {run.id: run for run in parts_of(client, made.id)}
    assert len(parts) == 2, "two beside the run itself"
    assert {run.name for run in parts.values()} == {
        f"part {k} of {client.read_flow_run(made.id).name}" for k in (1, 2)
    }
    waiting = next(run for key, run in parts.items() if key != worker.run_id)
    assert waiting.state is not None
    assert waiting.state.is_cancelled(), "who has not begun is not needed any more"
    progress = read_progress(newest_artifact(client, worker.run_id or made.id, PROGRESS_KEY))
    assert progress.prospect_json is None, "recover must not take the job's output for a helper's"


@pytest.mark.usefixtures("helper_is_first")
@pytest.mark.parametrize(("container", "decoder"), [("mov", ""), ("webm", "libvpx-vp9")])
def test_alpha_is_the_same_whoever_makes_a_segment(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    container: str,
    decoder: str,
) -> None:
    """One shot of the tiny network: alpha goes past it, in the job and in a helper alike."""
    clip = saved(tmp_path / "png.mov", textured(75))
    options = {"model": "tiny", "batch_size": 12, "container": container, "fresh": True}
    made = job_of(client, deployments[0], clip, max_workers=2, **options)
    worker = Worker(made.id)
    state = attempt(client, made.id)
    worker.join()
    assert state.is_completed(), state
    assert worker.state is not None
    assert re.match("[1-9] segments? made", str(worker.state.message)), worker.state
    (job_dir,) = [JobDir(path) for path in settings.jobs_dir.iterdir()]
    result = UpscaleResult.model_validate_json(job_dir.result_path.read_bytes())
    alpha = shown_alpha(Path(result.output_path or ""), (WIDTH, HEIGHT), decoder=decoder)
    off = np.abs(alpha.astype(int) - shown_alpha(clip, (WIDTH, HEIGHT)))
    assert (len(alpha), alpha.min(), alpha.max()) == (75, 0, 255)
    assert off.mean() < 2 if container == "webm" else off.max() == 0
    monkeypatch.undo()
    use_small_pictures(monkeypatch)
    alone: Any = upscale(**{**asked(clip), **options})
    assert alone.sha256 == result.sha256


def test_a_job_that_nobody_helps_is_made_alone(
    client: SyncPrefectClient, settings: Settings, deployments: tuple[UUID, UUID], demo_clip: Path
) -> None:
    """No worker is free: the job waits for nobody. And by default it asks for nobody."""
    alone = job_of(client, deployments[0], demo_clip, fresh=True)
    assert attempt(client, alone.id).is_completed()
    assert not parts_of(client, alone.id)
    made = job_of(client, deployments[0], demo_clip, max_workers=2, fresh=True)
    assert attempt(client, made.id).is_completed()
    (part,) = parts_of(client, made.id)
    assert part.state is not None
    assert part.state.is_cancelled()
    late = helped(client, part)
    assert late.message == "the job needs no help"


def test_where_no_helper_is_deployed_the_job_says_so(
    client: SyncPrefectClient,
    settings: Settings,
    demo_clip: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = job_of(client, deploy(client, upscale, f"lonely-{uuid4()}"), demo_clip, max_workers=2)
    assert attempt(client, made.id).is_completed()
    assert "nobody helps: upscale-part/lonely-" in caplog.text


def a_shared_job(
    client: SyncPrefectClient, settings: Settings, job_id: UUID, clip: Path
) -> tuple[JobDir, str]:
    """The directory of a job at whose work somebody is, as a worker with the same files sees it."""
    from seedvr2_core.files import write_record
    from seedvr2_core.job.sharing import Sharing

    result: Any = upscale(**asked(clip))
    job_dir = JobDir(settings.job_dir(result.job_key))
    job_dir.result_path.unlink()
    sharing = Sharing(
        run_id=str(job_id),
        workers=2,
        device="cpu",
        source=clip,
        source_name=clip.name,
        source_bytes=clip.stat().st_size,
    )
    write_record(job_dir.sharing_path, sharing)
    client.set_flow_run_state(job_id, Running(), force=True)
    return job_dir, result.job_key


def test_a_helper_ends_with_its_job_and_makes_way_for_another(
    client: SyncPrefectClient, settings: Settings, deployments: tuple[UUID, UUID], demo_clip: Path
) -> None:
    made = job_of(client, deployments[0], demo_clip, max_workers=2)
    job_dir, key = a_shared_job(client, settings, made.id, demo_clip)

    def helper() -> FlowRun:
        parameters = {"job_id": str(made.id), "job_key": key, "number": 1}
        return client.create_flow_run_from_deployment(deployments[1], parameters=parameters)

    waiting = job_of(client, deployments[0], demo_clip)
    told = helped(client, helper())
    assert (
        told.message == f"1 segment made; made way for job {waiting.id}, which waits for a worker"
    )
    # The first one's child may have committed another while it was ended.
    left = 6 - len(list(job_dir.segments_path.glob("[0-9]*.json")))
    told = helped(client, helper())
    assert str(told.message).startswith(f"{left} segments made; nothing is left"), (
        "one made way already"
    )
    assert read_sharing(job_dir, str(made.id)) is not None

    for path in job_dir.segments_path.iterdir():
        path.unlink()
    client.set_flow_run_state(made.id, Failed(message="no"), force=True)
    assert helped(client, helper()).message == "the job needs no help"
    client.set_flow_run_state(made.id, Running(), force=True)
    job_dir.sharing_path.unlink()
    assert helped(client, helper()).message == "the job needs no help"


def test_a_worker_that_sees_another_directory_is_told(
    client: SyncPrefectClient, settings: Settings, deployments: tuple[UUID, UUID], demo_clip: Path
) -> None:
    made = job_of(client, deployments[0], demo_clip)
    client.set_flow_run_state(made.id, Running(), force=True)
    parameters = {"job_id": str(made.id), "job_key": "0" * 64, "number": 1}
    helper = client.create_flow_run_from_deployment(deployments[1], parameters=parameters)
    state = helped(client, helper)
    assert state.is_failed()
    assert "all workers of a pool must see the same work directory" in str(state.message)


def test_the_end_of_a_job_reaches_its_helpers(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    demo_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancelled or failed, by a hook; what has ended is left as it is."""
    made = job_of(client, deployments[0], demo_clip, max_workers=3)
    helpers = []
    for number in (1, 2):
        link = client.create_task_run(
            task=upscale_part_link(), flow_run_id=made.id, dynamic_key=f"part-{number}"
        )
        parameters = {"job_id": str(made.id), "job_key": "0" * 64, "number": number}
        helpers.append(
            client.create_flow_run_from_deployment(
                deployments[1], parameters=parameters, parent_task_run_id=link.id
            )
        )
    client.set_flow_run_state(helpers[0].id, Failed(message="before"), force=True)
    client.set_flow_run_state(helpers[1].id, Running(), force=True)

    def states() -> list[str | None]:
        end_parts(upscale, made, Cancelled())
        return [client.read_flow_run(helper.id).state_name for helper in helpers]

    client.update_flow_run_labels(made.id, {LABEL_RECOVERING: True})
    assert states() == ["Failed", "Running"], "recover brings the job back: that is not its end"
    client.update_flow_run_labels(made.id, {LABEL_RECOVERING: False})
    assert states() == ["Failed", "Cancelling"]
    assert {end_parts} <= set(upscale.on_failure_hooks) & set(upscale.on_cancellation_hooks)


def upscale_part_link() -> Any:
    """Any task."""
    from tasks.stitch import stitch

    return stitch


def test_a_long_job_leaves_its_worker_to_one_that_waits_and_goes_on(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    demo_clip: Path,
) -> None:
    """Only one that may be shared does so, only for one that never began, and only once for it."""
    waiting = job_of(client, deployments[0], demo_clip)
    made = job_of(client, deployments[0], demo_clip, max_workers=2, fresh=True)
    state = attempt(client, made.id)
    assert state.name == "AwaitingRetry"
    assert state.message == f"waiting for a worker: it made way for job {waiting.id}"
    assert seconds_until(client.read_flow_run(made.id)) < 6
    assert attempt(client, made.id).is_completed(), "it goes on, and makes way once"
    (job_dir,) = [JobDir(path) for path in settings.jobs_dir.iterdir()]
    result = UpscaleResult.model_validate_json(job_dir.result_path.read_bytes())
    assert 0 < result.segments_reused < 6
    assert way.make_way([waiting.id], settings) is None


def test_nobody_makes_way_for_a_queue_that_comes_after_its_own(
    client: SyncPrefectClient,
    settings: Settings,
    deployments: tuple[UUID, UUID],
    demo_clip: Path,
) -> None:
    """Workers would take up the long job again, and the other would wait on."""
    pool = "no-workers"
    for name, priority in (("low", 500), ("high", 1)):
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_queue(name, priority=priority, work_pool_name=pool)

    def queued(queue: str) -> FlowRun:
        return client.create_flow_run_from_deployment(
            deployments[0],
            parameters={"video_path": str(demo_clip), **SLOW},
            work_queue_name=queue,
        )

    low, other, high = queued("low"), queued("default"), queued("high")

    def known(queue: str) -> list[UUID]:
        return [run.id for run in way.waiting_jobs(client, way.WorkPlace(pool, queue))]

    wait_until(lambda: high.id in known("high"), "all are due", seconds=10)
    taken = client.get_scheduled_flow_runs_for_work_pool(pool, scheduled_before=datetime.now(UTC))
    order = [one.flow_run.id for one in taken]
    assert order == [high.id, other.id, low.id], "so a worker takes them, whoever waited longest"
    assert known("low") == order
    assert known("default") == order[:2]
    assert known("high") == order[:1]

    for run in (high, other):
        client.set_flow_run_state(run.id, Cancelled(), force=True)
    made = job_of(client, deployments[0], demo_clip, max_workers=2, fresh=True)
    assert attempt(client, made.id).is_completed(), "only `low` waits"


def test_who_waits_for_another_run_is_not_made_way_for(
    client: SyncPrefectClient, settings: Settings, deployments: tuple[UUID, UUID], demo_clip: Path
) -> None:
    from tasks.job.hold import LABEL_WAITS_FOR
    from tests.flows.test_second_runs import held

    made = job_of(client, deployments[0], demo_clip)
    key = "a" * 64
    client.update_flow_run_labels(made.id, {LABEL_WAITS_FOR: key})
    job_dir = JobDir(settings.job_dir(key))
    job_dir.path.mkdir(parents=True)
    wait_until(
        lambda: (
            made.id in {run.id for run in way.waiting_jobs(client, way.WorkPlace("no-workers"))}
        ),
        "the run is due",
        seconds=10,
    )
    with held(job_dir):
        assert made.id not in {
            run.id for run in way.waiting_jobs(client, way.WorkPlace("no-workers"))
        }
