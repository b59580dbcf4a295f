"""The flow, run in this process against a real Prefect server, with a real child."""

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
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
from prefect.settings import PREFECT_API_URL, temporary_settings

import deployments.gateway as gateway
from deployments.cli.screen import DOING
from flows.upscale import upscale
from seedvr2_core.child.protocol import REQUESTS
from seedvr2_core.errors import InvalidRequestError, InvalidVideoError
from seedvr2_core.files.durable import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning.outline import PlanOutline, outline_of
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.probe import probe_video
from tasks.child import guard, processes
from tasks.child.processes import ChildProcess
from tasks.run.artifacts import PROGRESS_KEY, RESULT_KEY, newest_artifact, read_result
from tasks.run.record import shown_to
from tasks.schemas import UpscaleResult
from tasks.settings import Settings, get_settings, use_settings
from tests.kits.factories import Audience
from tests.kits.job_copies import copy_jobs

pytestmark = pytest.mark.usefixtures("in_api")


def work_in(folder: Path, *, report: bool = False) -> None:
    """Let this process work in a folder, with segments of half a second."""
    use_settings(
        Settings(
            work_dir=folder,
            allow_local_files=True,
            allow_cpu_engine=True,
            keep_segments=True,
            segment_seconds=0.5,
            report=report,
        )
    )


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """A work directory of the test's own."""
    work_in(tmp_path)
    return tmp_path


def run(clip: Path, **options: object) -> UpscaleResult:
    """Run the flow with quick settings."""
    chosen = {"model": "lanczos", "resolution": "720p", "preset": "ultrafast"} | options
    return upscale(video_path=str(clip), **chosen)


@pytest.fixture(scope="module")
def audience() -> Audience:
    """What the finished job has told."""
    return Audience()


@pytest.fixture(scope="module")
def finished(
    demo_clip: Path,
    api_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    audience: Audience,
) -> tuple[Path, UpscaleResult]:
    """A finished job, and its work directory."""
    folder = tmp_path_factory.mktemp("finished")
    work_in(folder, report=True)
    with temporary_settings({PREFECT_API_URL: api_url}), shown_to(audience):
        return folder, run(demo_clip)


@pytest.fixture
def first(work_dir: Path, finished: tuple[Path, UpscaleResult]) -> UpscaleResult:
    """The finished job, copied into this test's work directory without its stored output."""
    copy_jobs(finished[0], work_dir)
    return finished[1]


def finished_record(result: UpscaleResult) -> str:
    """The result.json beside the output's folder."""
    folder = Path(str(result.output_path)).parents[1]
    return (folder / "jobs" / result.job_key / "result.json").read_text()


def artifacts_of(result: UpscaleResult) -> dict[str | None, object]:
    """Data of the run's artifacts by key."""
    run_id = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(result.job_id)]))
    with get_client(sync_client=True) as client:
        return {a.key: a.data for a in client.read_artifacts(artifact_filter=run_id)}


def told_result(result: UpscaleResult) -> Mapping[str, object]:
    """What the run's result artifact says."""
    with get_client(sync_client=True) as client:
        return read_result(newest_artifact(client, UUID(result.job_id), RESULT_KEY))


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


@pytest.mark.usefixtures("first")
def test_people_have_a_word_for_every_phase(audience: Audience) -> None:
    phases = {phase for phase, _ in audience.told}
    phases |= {request.phase for request in REQUESTS.values() if request.phase}
    assert {"plan", "restore", "join", "picture", "report", "finish", "done"} <= phases
    page = Path(str(gateway.__file__)).parent / "page/job.js"
    stages = re.search(r"const STAGES = (\[.*?\n\]);", page.read_text(), re.DOTALL)
    assert stages
    shown = set(re.findall(r'"(\w+)"', stages[1]))
    assert phases - set(DOING) <= {"prepare", "done"}, "the screen shows its name only"
    assert phases <= shown, "the page has no stage for it"


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("phase", ["probe", "plan", "load", "join", "picture", "report"])
def test_work_of_a_child_is_heard_of_from_its_first_moment(audience: Audience, phase: str) -> None:
    details = [detail for told, detail in audience.told if told == phase]
    assert details[0] == "starting", "before there is a process"
    assert "" in details, "it is there, and loads what it needs"


@pytest.mark.usefixtures("first")
def test_the_end_of_a_job_is_heard_of(audience: Audience) -> None:
    assert ("report", "100 %") in audience.told
    assert [phase for phase, _ in audience.told][-2:] == ["finish", "done"]


def test_every_frame_comes_out_and_the_record_tells(
    work_dir: Path, demo_clip: Path, first: UpscaleResult
) -> None:
    assert first.output_path is not None
    source, output = probe_video(demo_clip), probe_video(Path(first.output_path))
    assert (output.width, output.height) == (1280, 720)
    assert output.pts == source.pts
    assert [s.kind for s in output.streams] == ["audio"]
    assert (first.frames, first.engine, first.segments_reused) == (75, "lanczos", 0)
    artifacts = artifacts_of(first)
    assert told_result(first) == first.model_dump(mode="json")
    assert float(str(artifacts[PROGRESS_KEY])) == 100.0
    assert UpscaleResult.model_validate_json(finished_record(first)) == first
    assert first.preview_path is not None
    assert Path(first.preview_path).stat().st_size > 20_000
    assert first.report_path is not None
    beside = Path(first.output_path).with_suffix("")
    assert first.report_path == f"{beside}.report.html"
    report = json.loads(Path(f"{beside}.report.json").read_text())
    assert report["output"]["sha256"] == first.sha256
    assert {"probe", "restore", "join"} <= report["stage_seconds"].keys()
    assert sum(report["stage_seconds"].values()) < first.seconds
    assert not list(work_dir.rglob("*.part*"))


def test_log_lines_reach_the_run(first: UpscaleResult) -> None:
    run_id = UUID(first.job_id)
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    deadline = time.monotonic() + 30  # Prefect sends logs in batches from a thread
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run_id).name == "bunny_320x180.mp4 -> 720p"
        while not any("to 1280x720 by lanczos" in log.message for log in client.read_logs(of_run)):
            assert time.monotonic() < deadline, "the log line never came"
            time.sleep(0.2)


def test_a_second_run_reuses_segments_and_gives_the_same_bytes(
    work_dir: Path, demo_clip: Path, first: UpscaleResult
) -> None:
    second = run(demo_clip)
    assert second.sha256 == first.sha256
    assert Path(second.output_path or "").name == first.filename
    assert second.segments_reused == 6
    states = task_states(second)
    assert {states[f"segment {k} of 6"] for k in range(1, 7)} == {"Reused"}


@pytest.mark.long
def test_fresh_makes_all_of_it_again(demo_clip: Path, first: UpscaleResult) -> None:
    again = run(demo_clip, fresh=True)
    assert (again.segments_reused, again.sha256) == (0, first.sha256)


@pytest.mark.long
def test_after_the_clean_up_the_same_request_finds_its_output(
    work_dir: Path, demo_clip: Path, first: UpscaleResult
) -> None:
    """A finished job keeps its result; nothing is made again while storage has its bytes."""
    use_settings(get_settings().model_copy(update={"keep_segments": False}))
    second = run(demo_clip)
    assert not list((work_dir / "jobs").rglob("*.mp4"))
    third = run(demo_clip)
    assert (third.sha256, third.output_path) == (first.sha256, second.output_path)
    assert third.job_id != second.job_id
    assert told_result(third) == third.model_dump(mode="json")
    assert not [name for name in task_states(third) if name.startswith("infer")]


@pytest.mark.soak
def test_other_bytes_under_its_name_are_left_and_the_job_is_made_again(
    work_dir: Path, demo_clip: Path, first: UpscaleResult
) -> None:
    use_settings(get_settings().model_copy(update={"keep_segments": False}))
    second = run(demo_clip)
    theirs = Path(str(second.output_path))
    theirs.write_bytes(b"other bytes")
    again = run(demo_clip)
    assert (again.sha256, again.segments_reused) == (first.sha256, 0)
    assert again.filename == first.filename.replace(".mp4", "-1.mp4")
    assert theirs.read_bytes() == b"other bytes"


def test_a_lost_segment_alone_is_redone_by_the_plan_on_disk(
    work_dir: Path, demo_clip: Path, first: UpscaleResult
) -> None:
    job_dir = work_dir / "jobs" / first.job_key
    plan = read_record(job_dir / "plan.json", Plan)
    (job_dir / "segments" / "00003.json").unlink()
    kept = {p: p.stat().st_mtime_ns for p in (job_dir / "segments").glob("*.mp4")}
    again = run(demo_clip, seed=5)  # lanczos has no noise: the same job
    assert (again.segments_reused, again.sha256) == (5, first.sha256)
    changed = [p.name for p, mtime in kept.items() if p.stat().st_mtime_ns != mtime]
    assert changed == ["00003.mp4"]
    assert read_record(job_dir / "plan.json", Plan) == plan


@pytest.mark.long
def test_a_job_of_the_version_before_goes_on_by_its_own_plan(
    work_dir: Path, demo_clip: Path, first: UpscaleResult
) -> None:
    """It wrote no outlines, and its plan may differ from what would be planned today."""
    job_dir = JobDir(work_dir / "jobs" / first.job_key)
    job_dir.outline_path.unlink()
    job_dir.result_path.unlink()
    job_dir.sidecar_path(3).unlink()
    before = dataclasses.replace(read_record(job_dir.plan_path, Plan), eta_seconds=12345.0)
    write_record(job_dir.plan_path, before)
    again = run(demo_clip)
    assert (again.segments_reused, again.sha256) == (5, first.sha256)
    assert read_record(job_dir.plan_path, Plan) == before
    assert read_record(job_dir.outline_path, PlanOutline) == outline_of(before)


@pytest.mark.long
def test_damaged_records_and_folders_in_their_place_are_made_anew_and_pieces_kept(
    work_dir: Path, demo_clip: Path, first: UpscaleResult
) -> None:
    job_dir = work_dir / "jobs" / first.job_key
    segments = job_dir / "segments"
    (job_dir / "plan.json").write_bytes(b"no plan")
    (segments / "00001.json").write_bytes(b"{}")
    for path in (
        job_dir / "result.json",
        job_dir / "job.lock",
        job_dir / "output.mp4",
        job_dir / "preview.jpg",
        segments / "00002.json",
        segments / "00003.mp4",
        next((work_dir / "probes").glob("*.json")),
    ):
        path.unlink()
        path.mkdir()
        (path / "theirs").touch()
    again = run(demo_clip)
    assert (again.segments_reused, again.sha256) == (3, first.sha256)
    assert len(list(work_dir.rglob("*.set-aside-1/theirs"))) == 7, "nothing of theirs is lost"


@pytest.mark.long
def test_bad_input_fails_before_a_child_is_spent(work_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all\n" * 100)
    with pytest.raises(InvalidVideoError):
        run(text)
    with pytest.raises(InvalidRequestError, match="exactly one source"):
        upscale(model="lanczos")
    assert not (work_dir / "jobs").exists()


def test_a_pool_refuses_a_factor_once_it_knows_the_source(work_dir: Path, demo_clip: Path) -> None:
    use_settings(Settings(work_dir=work_dir, allow_local_files=True, resolutions=("720p", "1080p")))
    with pytest.raises(InvalidRequestError, match=r"got 10x, which makes this picture 3200x1800"):
        run(demo_clip, resolution="10x")


@pytest.mark.long
def test_a_smaller_picture_is_made_and_said(work_dir: Path, demo_clip: Path) -> None:
    result = run(demo_clip, resolution="0.5x")
    assert (result.width, result.height) == (160, 90)
    assert result.filename.startswith(f"{demo_clip.stem}_0.5x_")
    assert any("320x180) is larger than the target (160x90)" in note for note in result.notes)


def test_wrong_pool_is_refused(work_dir: Path, demo_clip: Path) -> None:
    use_settings(Settings(work_dir=work_dir, allow_local_files=True, resolutions=("2k", "4k")))
    with pytest.raises(InvalidRequestError, match="this pool takes 2k, 4k, got 720p"):
        run(demo_clip)


@pytest.mark.long
def test_a_job_on_a_cpu_has_one_child(
    work_dir: Path, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has probed goes on to restore, to join and to compare: a start takes a second."""
    begun: list[int] = []

    def start(command: Sequence[str]) -> ChildProcess:
        process = processes.start(command)
        begun.append(process.pid)
        return process

    monkeypatch.setattr(guard, "start", start)
    first = run(demo_clip)
    assert (first.segments_reused, len(begun)) == (0, 1)
