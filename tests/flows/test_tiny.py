"""The SeedVR2 engine through flow, child and segments, with the tiny network on a CPU.

The picture is made small by a smaller pixel budget, which only the processes that plan look at: the
others obey the plan. The clip is one shot, divided into segments at its windows.
"""

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import pytest
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.upscale import upscale
from seedvr2_core.files.durable import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.sidecar import Sidecar
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.probe import probe_video
from tasks.schemas import UpscaleResult
from tasks.settings import Settings, use_settings
from tests.kits.faults import use_small_pictures
from tests.kits.job_copies import copy_jobs
from tests.kits.processes import children_of

SMALL_PX = 64 * 36

pytestmark = pytest.mark.usefixtures("in_api")


@pytest.fixture(autouse=True, scope="module")
def _one_core() -> Iterator[None]:
    """The plan takes as many threads as there are cores; tiny tensors are quicker with one."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_small_pictures(monkeypatch, SMALL_PX)
    yield
    use_settings(None)


def offer_tiny(work_dir: Path) -> Path:
    """Let this process work in a directory, with short segments and the tiny engines."""
    use_settings(
        Settings(
            work_dir=work_dir,
            allow_local_files=True,
            test_engines=True,
            keep_segments=True,
            segment_seconds=0.5,
        )
    )
    return work_dir


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job that nothing disturbed."""

    work_dir: Path
    result: UpscaleResult

    def copy_to(self, work_dir: Path) -> Path:
        """Let this process work on a copy of the job, whose output is lost; its directory."""
        copy_jobs(self.work_dir, work_dir)
        return offer_tiny(work_dir) / "jobs" / self.result.job_key


@pytest.fixture(scope="module")
def finished(demo_clip: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    work_dir = offer_tiny(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: api_url}):
        use_small_pictures(patch, SMALL_PX)
        return Finished(work_dir=work_dir, result=run(demo_clip))


@pytest.fixture(scope="module")
def two_shots(
    demo_clip: Path,
    ffmpeg: Callable[..., subprocess.CompletedProcess[bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """40 frames of the demo clip, then 40 of colour bars."""
    path = tmp_path_factory.mktemp("clips") / "two_shots.mp4"
    bars = ["-f", "lavfi", "-i", "smptehdbars=s=320x180:r=25"]
    graph = (
        "[0:v]trim=end_frame=40,settb=1/25,setpts=N[a];[1:v]trim=end_frame=40,settb=1/25,"
        "setpts=N,format=yuv420p[b];[a][b]concat"
    )
    ffmpeg("-i", demo_clip, *bars, "-filter_complex", graph, "-an", "-r", "25", path)
    return path


def run(clip: Path, model: str = "tiny") -> UpscaleResult:
    """Windows of 3 latents, one of them shared."""
    return upscale(
        video_path=str(clip), model=model, resolution="720p", preset="ultrafast", batch_size=12
    )


def read_plan(work_dir: Path, result: UpscaleResult) -> Plan:
    return read_record(work_dir / "jobs" / result.job_key / "plan.json", Plan)


def test_one_shot_in_many_segments(finished: Finished, demo_clip: Path) -> None:
    result = finished.result
    plan = read_plan(finished.work_dir, result)
    assert (len(plan.shots), len(plan.segments)) == (1, 5)
    output = Path(result.output_path or "")
    source, made = probe_video(demo_clip), probe_video(output)
    assert (made.pts, made.width, made.height) == (source.pts, 64, 36)
    with av.open(str(output)) as container:
        assert "tiny test network" in str(container.metadata)
    job_dir = finished.work_dir / "jobs" / result.job_key
    sidecars = [read_record(JobDir(job_dir).sidecar_path(k), Sidecar) for k in range(5)]
    assert {sidecar.precision for sidecar in sidecars} == {"float32 vae, float32 dit"}
    assert all(JobDir(job_dir).latents_path(k).is_file() for k in range(5))


@pytest.mark.soak
@pytest.mark.parametrize("lost", [(0, 3), (1, 2, 4)], ids=str)
def test_lost_segments_are_made_again_from_what_is_committed(
    finished: Finished, demo_clip: Path, tmp_path: Path, lost: tuple[int, ...]
) -> None:
    job_dir = finished.copy_to(tmp_path)
    for index in lost:
        JobDir(job_dir).sidecar_path(index).unlink()
    again = run(demo_clip)
    assert (again.segments_reused, again.sha256) == (5 - len(lost), finished.result.sha256)


@pytest.mark.long
def test_a_changed_commit_is_not_built_on(
    finished: Finished, demo_clip: Path, tmp_path: Path
) -> None:
    """Latents that do not fit their sidecar's digest: their segment is made again as well."""
    job_dir = finished.copy_to(tmp_path)
    latents = JobDir(job_dir).latents_path(1)
    content = bytearray(latents.read_bytes())
    content[-1] ^= 1
    latents.write_bytes(content)
    JobDir(job_dir).sidecar_path(2).unlink()
    again = run(demo_clip)
    assert (again.segments_reused, again.sha256) == (3, finished.result.sha256)


@pytest.mark.soak
def test_a_child_killed_inside_a_shot_is_replaced(
    finished: Finished, demo_clip: Path, tmp_path: Path
) -> None:
    """Its successor takes up the shot from what was committed; the bytes are the same."""
    killed: list[int] = []

    def kill_between_segments() -> None:
        while not list((tmp_path / "jobs").glob("*/segments/00001.json")):
            time.sleep(0.01)
        for pid in children_of(os.getpid())[1:]:
            if b"seedvr2_core.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    offer_tiny(tmp_path)
    killer = threading.Thread(target=kill_between_segments, daemon=True)
    killer.start()
    result = run(demo_clip)
    killer.join(timeout=1)
    assert len(killed) == 1
    assert result.sha256 == finished.result.sha256


@pytest.mark.soak
def test_the_3b_style_runs_too(demo_clip: Path, tmp_path: Path) -> None:
    work_dir = offer_tiny(tmp_path)
    first = run(demo_clip, "tiny-3b")
    Path(first.output_path or "").unlink()
    JobDir(work_dir / "jobs" / first.job_key).sidecar_path(2).unlink()
    again = run(demo_clip, "tiny-3b")
    assert (again.segments_reused, again.sha256) == (4, first.sha256)


@pytest.mark.long
def test_cuts_begin_shots(two_shots: Path, tmp_path: Path) -> None:
    work_dir = offer_tiny(tmp_path)
    result = run(two_shots)
    plan = read_plan(work_dir, result)
    assert [(shot.start, shot.stop) for shot in plan.shots] == [(0, 40), (40, 80)]
    assert result.frames == 80
    begun = [piece.start for segment in plan.segments for piece in segment.pieces]
    assert 40 in begun
    for before, after in itertools.pairwise(plan.segments):
        assert before.stop == after.start


def test_tiny_is_offered_only_on_request(demo_clip: Path, tmp_path: Path) -> None:
    use_settings(Settings(work_dir=tmp_path, allow_local_files=True))
    with pytest.raises(ParameterTypeError, match="choose one of auto, seedvr2-7b"):
        run(demo_clip)
