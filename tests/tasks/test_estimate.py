"""The plan of a job is obeyed where it can be, and made anew where it cannot."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tasks.estimate import _write_or_obey
from tasks.settings import Settings
from tests.kits.factories import make_info, make_options

SOURCE = "ab" * 32


@pytest.fixture
def plan() -> Plan:
    return build_plan(make_info(), SOURCE, make_options(), cuts=())


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(tmp_path / "job")


def obeyed(plan: Plan, job_dir: JobDir, *, fresh: bool = False) -> PlanOutline:
    """What a run obeys that would have made `plan`."""
    made = job_dir.path.with_name("plan.json")
    planned = write_plan(made, plan)
    with disable_run_logger():
        return _write_or_obey(made, planned, job_dir, fresh=fresh)


@pytest.fixture
def earlier(plan: Plan, job_dir: JobDir) -> Plan:
    """The job's plan, as the version before wrote it: without an outline."""
    earlier = dataclasses.replace(plan, torch_threads=plan.torch_threads + 1, eta_seconds=1.0)
    job_dir.path.mkdir()
    write_record(job_dir.plan_path, earlier)
    return earlier


def test_an_earlier_plan_is_obeyed(plan: Plan, earlier: Plan, job_dir: JobDir) -> None:
    written = job_dir.plan_path.read_bytes()
    assert obeyed(plan, job_dir) == outline_of(earlier)
    assert read_record(job_dir.outline_path, PlanOutline) == outline_of(earlier)
    assert obeyed(plan, job_dir, fresh=True) == outline_of(plan)
    assert job_dir.plan_path.read_bytes() == written, "until the fresh run holds the job"
    assert read_record(job_dir.outline_path, PlanOutline) == outline_of(earlier)
    assert read_record(job_dir.fresh_plan_path, Plan) == plan
    assert read_record(job_dir.fresh_outline_path, PlanOutline) == outline_of(plan)


@pytest.mark.parametrize("fresh", [False, True], ids=["again", "fresh"])
def test_a_plan_that_cannot_be_obeyed_is_made_anew(
    plan: Plan, earlier: Plan, job_dir: JobDir, fresh: bool
) -> None:
    """`tests/seedvr2_core/job/test_plan_file.py` has all the ways in which it cannot be."""
    job_dir.plan_path.write_bytes(job_dir.plan_path.read_bytes()[:100])
    job_dir.outline_path.mkdir()
    assert obeyed(plan, job_dir, fresh=fresh) == outline_of(plan)
    assert read_record(job_dir.plan_path, Plan) == plan
    assert read_record(job_dir.outline_path, PlanOutline) == outline_of(plan)


LONGEST = """
import dataclasses, os, sys
from pathlib import Path
from prefect.logging import disable_run_logger
from seedvr2_core.files import write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning.plan import CutList
from tasks.child.session import SegmentWatch
from tasks.estimate import _write_or_obey, plan_job
from tasks.job.sweep import sweep
from tasks.probe import _known_cuts
from tasks.schemas import Device, FetchedSource, PlannedJob, ProbedSource, UpscaleRequest
from tasks.settings import Settings, use_settings
from tests.kits.factories import make_info
from tests.kits.hosts.memory import forget_peak, peak_kib

folder = Path(sys.argv[1])
settings = Settings(work_dir=folder, test_engines=True, max_eta_seconds=1e12)
use_settings(settings)

def write_probe(path, cuts, num_frames, shot):
    # In a process of its own, since this one must not hold what it writes.
    if (pid := os.fork()) == 0:
        write_record(path, make_info(pts=tuple(range(0, 40 * num_frames, 40))))
        write_record(cuts, CutList(detector="d", frames=tuple(range(shot, num_frames, shot))))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def flow(num_frames, shot):
    info, cuts = folder / f"{num_frames}.json", folder / f"{num_frames}.cuts.json"
    write_probe(info, cuts, num_frames, shot)
    source = FetchedSource(path=folder / "a", sha256=f"{num_frames:064x}", num_bytes=1, name="a")
    video = dataclasses.replace(make_info().outline, num_frames=num_frames)
    probed = ProbedSource(source=source, info_path=info, video=video, cuts_path=cuts, cpu_count=2,
                          devices=(Device(name="cpu", kind="cpu"),))
    _known_cuts(probed)
    request = UpscaleRequest(video_path="/a", model="tiny", resolution="720p", allow_damaged=True)
    (folder / "made").mkdir(exist_ok=True)
    job_dir = None
    for _ in range(2):  # the second run obeys the first one's plan
        made = folder / "made" / "plan.json"
        planned = plan_job(request, probed, settings, out=made)
        job_dir = JobDir(settings.job_dir(planned.job_key))
        with disable_run_logger():
            plan = _write_or_obey(made, planned, job_dir, fresh=False)
    assert plan.num_frames == num_frames and plan.num_shots == num_frames // shot
    job = PlannedJob(
        job_key=plan.job_key, job_dir=job_dir.path, source=source, width=1, height=1,
        num_segments=len(plan.segments), num_frames=num_frames, resolution="720p", engine="tiny",
        engine_label="t", device="cpu", output_name="o", eta_seconds=1.0, job_limit_seconds=None,
        stall_limit_seconds=60.0, duration_seconds=1.0,
    )
    watch = SegmentWatch(job)
    sweep(settings)
    return watch, len(plan.segments)

flow(1000, 40)  # loads what this takes
forget_peak()
begun = peak_kib()
watch, segments = flow(int(sys.argv[2]), int(sys.argv[3]))
print(peak_kib() - begun, segments)
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("shot", [40, 100_000])
def test_the_longest_video_costs_the_flow_process_little_for_each_segment(
    shot: int, tmp_path: Path
) -> None:
    """Two KiB for each; times, shots and pieces of a million frames are read by children alone."""
    ended = subprocess.run(
        [sys.executable, "-c", LONGEST, str(tmp_path), str(Settings().max_frames), str(shot)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    grown_kib, segments = map(int, ended.stdout.split())
    assert grown_kib < 2 * segments
