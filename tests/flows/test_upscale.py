"""The flow, run in this process against a real Prefect server, with a real child."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)

from flows.upscale import upscale
from seedvr2_core.errors import InvalidRequestError, InvalidVideoError
from seedvr2_core.plan import Plan
from seedvr2_core.records import read_record
from seedvr2_core.video.probe import probe_video
from tasks.record import PROGRESS_KEY, RESULT_KEY
from tasks.schemas import UpscaleResult
from tasks.settings import Settings, use_settings

pytestmark = pytest.mark.usefixtures("in_api")


@pytest.fixture
def work_dir(tmp_path: Path) -> Iterator[Path]:
    """A work directory of its own, segments of half a second."""
    use_settings(
        Settings(
            work_dir=tmp_path, allow_local_files=True, allow_cpu_engine=True, segment_seconds=0.5
        )
    )
    yield tmp_path
    use_settings(None)


def run(clip: Path, **options: object) -> UpscaleResult:
    """Run the flow with quick settings."""
    chosen = {"model": "lanczos", "resolution": "720p", "preset": "ultrafast"} | options
    return upscale(video_path=str(clip), **chosen)


def artifacts_of(result: UpscaleResult) -> dict[str | None, object]:
    """Data of the run's artifacts by key."""
    run_id = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(result.job_id)]))
    with get_client(sync_client=True) as client:
        return {a.key: a.data for a in client.read_artifacts(artifact_filter=run_id)}


def task_states(result: UpscaleResult) -> dict[str, str]:
    """State names by task run name; task runs are recorded in the background."""
    from prefect.events.worker import EventsWorker

    EventsWorker.instance().wait_until_empty()
    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(result.job_id)]))
    with get_client(sync_client=True) as client:
        return {
            run.name: run.state.name if run.state else ""
            for run in client.read_task_runs(flow_run_filter=flow_run)
        }


def test_every_frame_comes_out_and_the_record_tells(work_dir: Path, demo_clip: Path) -> None:
    result = run(demo_clip)
    assert result.output_path is not None
    source, output = probe_video(demo_clip), probe_video(Path(result.output_path))
    assert (output.width, output.height) == (1280, 720)
    assert output.pts == source.pts
    assert [s.kind for s in output.streams] == ["audio"]
    assert (result.frames, result.engine, result.segments_reused) == (75, "lanczos", 0)
    artifacts = artifacts_of(result)
    assert json.loads(str(artifacts[RESULT_KEY])) == [result.model_dump(mode="json")]
    assert PROGRESS_KEY in artifacts
    saved = (work_dir / "jobs" / result.job_key / "result.json").read_text()
    assert UpscaleResult.model_validate_json(saved) == result
    assert result.preview_path is not None
    assert Path(result.preview_path).stat().st_size > 20_000
    assert not list(work_dir.rglob("*.part*"))


@pytest.mark.slow
def test_a_second_run_reuses_segments_and_gives_the_same_bytes(
    work_dir: Path, demo_clip: Path
) -> None:
    first = run(demo_clip)
    second = run(demo_clip)
    assert second.sha256 == first.sha256
    assert second.output_path == first.output_path
    assert second.segments_reused == 6
    states = task_states(second)
    assert {states[f"infer-segment-{k}"] for k in range(6)} == {"Reused"}
    third = run(demo_clip, fresh=True)
    assert (third.segments_reused, third.sha256) == (0, first.sha256)


@pytest.mark.slow
def test_a_lost_segment_alone_is_redone(work_dir: Path, demo_clip: Path) -> None:
    first = run(demo_clip)
    job_dir = work_dir / "jobs" / first.job_key
    (job_dir / "segments" / "00003.json").unlink()
    kept = {p: p.stat().st_mtime_ns for p in (job_dir / "segments").glob("*.mp4")}
    again = run(demo_clip)
    assert (again.segments_reused, again.sha256) == (5, first.sha256)
    changed = [p.name for p, mtime in kept.items() if p.stat().st_mtime_ns != mtime]
    assert changed == ["00003.mp4"]


@pytest.mark.slow
def test_plan_on_disk_is_obeyed(work_dir: Path, demo_clip: Path) -> None:
    first = run(demo_clip)
    path = work_dir / "jobs" / first.job_key / "plan.json"
    before = read_record(path, Plan)
    run(demo_clip, seed=5)  # lanczos has no noise: the same job
    assert read_record(path, Plan) == before


def test_bad_input_fails_before_a_child_is_spent(work_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all\n" * 100)
    with pytest.raises(InvalidVideoError):
        run(text)
    with pytest.raises(InvalidRequestError, match="exactly one source"):
        upscale(model="lanczos")
    assert not (work_dir / "jobs").exists()


def test_wrong_pool_is_refused(work_dir: Path, demo_clip: Path) -> None:
    use_settings(Settings(work_dir=work_dir, allow_local_files=True, resolutions=("2k", "4k")))
    with pytest.raises(InvalidRequestError, match="this pool takes 2k, 4k, got 720p"):
        run(demo_clip)


@pytest.mark.slow
def test_log_lines_reach_the_run(work_dir: Path, demo_clip: Path) -> None:
    run_id = UUID(run(demo_clip).job_id)
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    deadline = time.monotonic() + 30  # Prefect sends logs in batches from a thread
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run_id).name == "bunny_320x180.mp4 -> 720p"
        while not any("to 1280x720 by lanczos" in log.message for log in client.read_logs(of_run)):
            assert time.monotonic() < deadline, "the log line never came"
            time.sleep(0.2)
