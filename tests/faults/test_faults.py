"""Faults other than kills: stalls, exits, noise, clocks that jump, pieces that lie, a full disk.

The flow runs in this process, its children are real and carry the fault inside them. The job ends
with the bytes of an undisturbed run, alone or after it was asked for again.
"""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.upscale import upscale
from seedvr2_core.errors import ChildFailedError, DeadlineError, ResourceError
from seedvr2_core.files.locks import hold_lock
from seedvr2_core.job import JobDir
from seedvr2_core.planning import timing
from tasks.schemas import UpscaleResult
from tasks.settings import use_settings
from tests.kits.faults import (
    NUM_SEGMENTS,
    Fault,
    FaultyJob,
    assert_nothing_left,
    here,
    run_here,
    wait_until,
)
from tests.kits.job_copies import copy_jobs
from tests.kits.processes import mounted

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("in_api"),
]

FRAME = "seedvr2_core.engines.sleep:_enlarge"


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the children of this process carry faults, and the job's mark."""

    def into(job: FaultyJob, *faults: Fault) -> None:
        job.work_dir.mkdir(exist_ok=True)
        for name, value in job.variables(*faults).items():
            if name != "PREFECT_API_URL":
                monkeypatch.setenv(name, value)

    return into


def run_with(job: FaultyJob, **settings: object) -> UpscaleResult:
    """The job's request in this process, under these settings."""
    use_settings(here(job).model_copy(update=settings))
    return run_here(job, keep_settings=True)


@pytest.mark.soak
def test_a_child_that_waits_for_another_is_not_loading(
    make_job: Callable[..., FaultyJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, load_seconds = make_job(), 10.0
    monkeypatch.setattr(timing, "LOAD_SECONDS", load_seconds)
    first = run_with(job)
    job_dir = JobDir(job.job_dir())
    job_dir.result_path.unlink()
    job_dir.sidecar_path(0).unlink()
    lock = ExitStack()
    lock.enter_context(hold_lock(job_dir.child_lock_path, timeout=0, on_wait=lambda: None))
    threading.Timer(1.5 * load_seconds, lock.close).start()
    again = run_with(job)
    assert (again.segments_reused, again.sha256) == (NUM_SEGMENTS - 1, first.sha256)
    assert again.seconds > load_seconds
    assert_nothing_left(job)


@pytest.mark.soak
def test_noise_jumping_clocks_stalls_and_exits_change_nothing(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    inject: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All the time: lines on the protocol that are no events, hours that come and go.

    Two children in a row hang in the third segment: one retry, then the run has timed out. Asked
    for again, a child leaves with code 7: one retry, and the job is done.
    """
    job = make_job()
    real, jumps = time.time, itertools.cycle((0, 7 * 3600, -90_000, 30, 86_400 * 400))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    always = [
        Fault(at="seedvr2_core.files.process:die_with_parent", do="garbage"),
        Fault(at=":", do="jump"),
    ]
    first, second = job.place("stall1"), job.place("stall2")
    hang = [Fault(at=FRAME, call=30, mark=first), Fault(at=FRAME, call=5, mark=second, after=first)]
    inject(job, *always, *hang)
    use_settings(here(job).model_copy(update={"stall_seconds": 5.0}))
    state = upscale(**job.request(), return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "TimedOut")
    assert "no sign of life for 5 s while restoring segment 2" in str(state.message)
    wait_until(lambda: not job.processes(), "both children were gone", seconds=15)
    assert len(job.sidecars()) == 2

    inject(job, *always, Fault(at=FRAME, call=5, do="exit", mark=job.place("exit")))
    result = run_with(job, stall_seconds=60.0)
    assert Path(job.place("exit")).exists()
    assert (result.sha256, result.segments_reused) == (undisturbed("sleep"), 2)
    assert_nothing_left(job)


@pytest.mark.soak
def test_a_child_that_keeps_leaving_fails_the_job_with_its_last_words(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    inject: Callable[..., None],
) -> None:
    job = make_job()
    first, second = job.place("exit1"), job.place("exit2")
    inject(
        job,
        Fault(at=FRAME, call=30, do="exit", mark=first),
        Fault(at=FRAME, call=5, do="exit", mark=second, after=first),
    )
    with pytest.raises(ChildFailedError, match=r"exit code 7(.|\n)*leaving on purpose"):
        run_with(job)
    result = run_with(job)
    assert result.sha256 == undisturbed("sleep")
    assert_nothing_left(job)


@pytest.mark.soak
def test_the_job_limit_is_final_and_the_job_goes_on_under_a_larger_one(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    inject: Callable[..., None],
) -> None:
    job = make_job()
    inject(job)
    with pytest.raises(DeadlineError, match="the job passed the limit of 3 s"):
        run_with(job, job_seconds=3.0)
    wait_until(lambda: not job.processes(), "the child was gone", seconds=15)
    result = run_with(job)
    assert result.sha256 == undisturbed("sleep")
    assert_nothing_left(job)


def _truncate(job_dir: Path) -> None:
    path = JobDir(job_dir).video_path(1)
    path.write_bytes(path.read_bytes()[:-200])


def _lie(job_dir: Path) -> None:
    path = JobDir(job_dir).sidecar_path(2)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"sha256": "0" * 64}))


def _of_another_plan(job_dir: Path) -> None:
    path = JobDir(job_dir).sidecar_path(4)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"plan_sha256": "0" * 64}))


@pytest.mark.long
def test_pieces_that_do_not_tell_the_truth_are_made_again(
    make_job: Callable[..., FaultyJob],
    finished: Callable[[str], FaultyJob],
    undisturbed: Callable[[str], str],
    inject: Callable[..., None],
) -> None:
    """A cut segment, a lying sidecar, one of another plan; the output itself is lost as well."""
    job = make_job()
    inject(job)
    copy_jobs(finished("sleep").work_dir, job.work_dir)
    for harm in (_truncate, _lie, _of_another_plan):
        harm(job.job_dir())
    again = run_with(job)
    assert (again.sha256, again.segments_reused) == (undisturbed("sleep"), NUM_SEGMENTS - 3)
    assert_nothing_left(job)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB, of which a job needs a few."""
    with mounted(tmp_path / "disk", size="40m") as folder:
        yield folder


def fill(folder: Path, leave: int) -> Path:
    """Take up the disk but for so many bytes."""
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(folder).free - leave))
    return ballast


@pytest.mark.long
def test_a_disk_without_room_is_refused_before_work_begins(
    make_job: Callable[..., FaultyJob], small_disk: Path, inject: Callable[..., None]
) -> None:
    job = make_job("lanczos", small_disk)
    inject(job)
    fill(small_disk, 15 * 2**20)
    with pytest.raises(ResourceError, match=r"the job needs about .* MB of disk .* make room"):
        run_with(job)
    assert not job.has("segments/*")


@pytest.mark.long
def test_a_disk_that_fills_up_stops_the_job_cleanly(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    small_disk: Path,
    inject: Callable[..., None],
) -> None:
    """It ends in one sentence, without half files; after room is made it goes on."""
    job = make_job("sleep", small_disk)
    place = Fault(at=FRAME, call=40, do="fill", mark=str(small_disk / "fault-fill"))
    inject(job, place)
    with pytest.raises(ResourceError, match="make room"):
        run_with(job)
    assert job.leftovers() == []
    committed = len(job.sidecars())
    assert 1 <= committed < NUM_SEGMENTS
    (small_disk / "fault-fill.ballast").unlink()
    result = run_with(job)
    assert (result.sha256, result.segments_reused) == (undisturbed("sleep"), committed)
    assert_nothing_left(job)


@pytest.mark.soak
@pytest.mark.parametrize(
    "at",
    [
        "seedvr2_core.video.writer:SegmentWriter.write",
        "seedvr2_core.job.sidecar:write_record",
        "seedvr2_core.video.join:check_joined",
    ],
)
def test_a_full_disk_anywhere_is_one_sentence_and_a_resume(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    inject: Callable[..., None],
    at: str,
) -> None:
    """As a full disk shows itself to each writer, where no small disk can be mounted."""
    job = make_job()
    inject(job, Fault(at=at, call=2 if "join" not in at else 1, do="enospc", mark=job.place("it")))
    with pytest.raises(ResourceError, match="the disk is full"):
        run_with(job)
    assert job.leftovers() == []
    assert run_with(job).sha256 == undisturbed("sleep")
    assert_nothing_left(job)
