"""Warm engines, with real children: a child outlives its job, and nobody can tell from the bytes.

Nothing of Prefect is needed: a watch makes the segments of a job as the flow does.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from seedvr2_core.errors import ChildFailedError
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning import Plan
from tasks.child import warm
from tasks.child.session import SegmentWatch
from tasks.child.warm import WarmEngine, attach, warm_engines, with_returned
from tasks.inference import wait_for
from tasks.schemas import Device, FetchedSource, PlannedJob
from tasks.settings import Settings, use_settings
from tests.kits.faults import Fault, carrying, wait_until
from tests.kits.pipeline import packets, tiny_plan, use_small_pictures
from tests.kits.processes import ROOT, is_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Warm for two minutes. Whoever is left is ended."""
    settings = Settings(work_dir=tmp_path / "work", warm_seconds=120, test_engines=True)
    use_settings(settings)
    yield settings
    for engine in warm_engines(settings):
        os.kill(engine.pid, signal.SIGKILL)
    use_settings(None)


@pytest.fixture
def plan(demo_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The demo clip for the tiny engine, float32: one shot in five segments."""
    use_small_pictures(monkeypatch)
    plan = tiny_plan(demo_clip)
    assert plan.memory is not None
    assert (plan.memory.dit_dtype, plan.memory.vae_dtype) == ("float32", "float32")
    return plan


@pytest.fixture
def make(tmp_path: Path, demo_clip: Path) -> Callable[..., "Made"]:
    """Make a job in a directory of its own."""

    def make_one(plan: Plan, name: str, *, segments: int = 1) -> Made:
        return Made(plan, tmp_path / name, demo_clip, segments)

    return make_one


class Made:
    """A job of the first segments of a plan."""

    def __init__(self, plan: Plan, folder: Path, source: Path, segments: int) -> None:
        self.plan = replace(plan, segments=plan.segments[:segments])
        self.folder = folder
        folder.mkdir(exist_ok=True)
        write_plan(JobDir(folder).plan_path, self.plan)
        self.watch = SegmentWatch(_planned(self.plan, folder, source))

    def run(self) -> list[bytes]:
        """Make all segments, as the flow does; returns their bytes."""
        try:
            for segment in self.plan.segments:
                wait_for(self.watch, segment.index)
            self.watch.let_rest()
        finally:
            self.watch.close()
        return packets(self.plan, self.folder)

    @property
    def was_warm(self) -> bool | None:
        """Whether its engine was loaded by an earlier job."""
        return self.watch.account.engine_was_warm


def _planned(plan: Plan, folder: Path, source: Path) -> PlannedJob:
    return PlannedJob(
        job_key="k" * 64,
        job_dir=folder,
        source=FetchedSource(path=source, sha256="0" * 64, num_bytes=1, name=source.name),
        num_segments=len(plan.segments),
        num_frames=sum(segment.num_frames for segment in plan.segments),
        width=plan.width,
        height=plan.height,
        resolution="720p",
        engine=plan.engine.name,
        engine_label=plan.engine.name,
        device="cpu",
        output_name="o.mp4",
        eta_seconds=1.0,
        job_limit_seconds=None,
        stall_limit_seconds=60.0,
        duration_seconds=3.0,
    )


@pytest.fixture
def other(plan: Plan, demo_clip: Path) -> Plan:
    """The same clip with another seed and other windows."""
    wider = tiny_plan(demo_clip, window=5, overlap=2)
    return replace(wider, engine=replace(wider.engine, seed=plan.engine.seed + 1))


def the_warm_one(settings: Settings) -> WarmEngine:
    """The engine that is kept loaded; fails unless there is exactly one."""
    (found,) = warm_engines(settings)
    return found


def gone(pid: int) -> None:
    wait_until(lambda: not is_running(pid), "the warm process was gone", seconds=20)


@pytest.mark.long
def test_jobs_on_a_warm_engine_have_the_bytes_of_jobs_on_a_fresh_one(
    plan: Plan, other: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    use_settings(settings.model_copy(update={"warm_seconds": 0.0}))
    fresh = [make(plan, "fresh-a", segments=2), make(other, "fresh-b", segments=2)]
    expected = [made.run() for made in fresh]
    assert [made.was_warm for made in fresh] == [False, False]
    assert not warm_engines(settings)
    assert expected[0] != expected[1]

    use_settings(settings)
    jobs = [make(plan, "a", segments=2), make(other, "b", segments=2), make(plan, "c")]
    got, pids = [], []
    for made in jobs:
        got.append(made.run())
        pids.append(the_warm_one(settings).pid)
    assert [made.was_warm for made in jobs] == [False, True, True]
    assert len(set(pids)) == 1
    assert got == [*expected, expected[0][:1]]


@pytest.mark.long
def test_what_it_holds_and_what_it_does_not(
    plan: Plan, make: Callable[..., Made], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEDVR2_S3_SECRET_ACCESS_KEY", "a key of ours")
    made = make(plan, "a")
    made.run()
    engine = the_warm_one(settings)
    assert (engine.engine, engine.device) == ("tiny", "cpu")
    assert 60 < engine.seconds_left <= 120
    process = Path(f"/proc/{engine.pid}")
    assert b"a key of ours" not in (process / "environ").read_bytes()
    open_files = [os.readlink(entry) for entry in (process / "fd").iterdir()]
    assert not [name for name in open_files if str(made.folder) in name or ".mp4" in name]
    assert os.readlink(process / "cwd") == "/"
    (folder,) = settings.warm_dir.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.soak
def test_another_engine_takes_its_place(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    make(plan, "a").run()
    first = the_warm_one(settings).pid
    smaller = replace(plan, engine=replace(plan.engine, name="tiny-3b"))
    made = make(smaller, "b")
    made.run()
    assert made.was_warm is False
    gone(first)
    assert the_warm_one(settings).engine == "tiny-3b"


@pytest.mark.soak
def test_other_code_or_another_environment_takes_its_place(
    plan: Plan, make: Callable[..., Made], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(plan, "a").run()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    made = make(plan, "b")
    made.run()
    assert made.was_warm is False
    before = the_warm_one(settings).pid
    monkeypatch.setattr("seedvr2_core.child.warm.terms.code_state", lambda: [("a.py", 1, 1)])
    assert attach(plan, "cpu") is None
    gone(before)


@pytest.mark.long
def test_one_that_was_killed_leaves_nothing_in_the_way(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    make(plan, "a").run()
    pid = the_warm_one(settings).pid
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    assert warm.sockets_in(settings.warm_dir), "its socket is stale"
    made = make(plan, "b")
    made.run()
    assert made.was_warm is False
    assert the_warm_one(settings).pid != pid


@pytest.mark.soak
def test_one_that_does_not_answer_is_ended(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    make(plan, "a").run()
    pid = the_warm_one(settings).pid
    os.kill(pid, signal.SIGSTOP)
    made = make(plan, "b")
    made.run()
    assert made.was_warm is False
    gone(pid)


@pytest.mark.long
def test_without_its_socket_it_ends(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    """Nobody could ask it to end otherwise."""
    make(plan, "a").run()
    pid = the_warm_one(settings).pid
    for path in warm.sockets_in(settings.warm_dir):
        path.unlink()
    gone(pid)


@pytest.mark.soak
def test_it_ends_when_its_time_is_up(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    use_settings(settings.model_copy(update={"warm_seconds": 1.0}))
    make(plan, "a").run()
    pid = the_warm_one(settings).pid
    gone(pid)
    assert not warm.sockets_in(settings.warm_dir)


@pytest.mark.soak
def test_a_full_disk_costs_the_warmth_alone(
    plan: Plan, make: Callable[..., Made], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "seedvr2_core.child.warm.rest:make_private"
    full = Fault(at=place, do="enospc", mark=str(settings.work_dir.parent / "mark"))
    for name, value in carrying(full).items():
        monkeypatch.setenv(name, value)
    made = make(plan, "a")
    assert len(made.run()) == 1
    assert Path(full.mark).exists()
    assert not warm_engines(settings)


@pytest.mark.long
def test_killed_in_a_segment_the_work_goes_on_on_a_fresh_one(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    expected = make(plan, "a", segments=3).run()
    pid = the_warm_one(settings).pid
    made = make(plan, "b", segments=3)
    wait_for(made.watch, 0)
    assert made.was_warm is True
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ChildFailedError, match="an unknown exit code"):
        wait_for(made.watch, 2)
    assert made.run() == expected  # as the task's retry does
    assert made.was_warm is False


@pytest.mark.long
def test_a_job_that_is_stopped_in_a_segment_ends_it(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    make(plan, "a").run()
    pid = the_warm_one(settings).pid
    made = make(plan, "b", segments=5)
    wait_for(made.watch, 0)
    made.watch.close()  # what a cancellation comes to
    assert not is_running(pid)
    assert not warm_engines(settings)


@pytest.mark.soak
def test_of_two_jobs_at_once_one_has_it(
    plan: Plan, make: Callable[..., Made], settings: Settings
) -> None:
    expected = make(plan, "a").run()
    jobs = [make(plan, "b"), make(plan, "c")]
    got: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda made=made: got.append(made.run())) for made in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected, expected]
    assert {made.was_warm for made in jobs} == {True, False}
    the_warm_one(settings)


@pytest.mark.long
def test_it_ends_with_the_worker_and_not_with_its_job(
    plan: Plan, tmp_path: Path, demo_clip: Path, settings: Settings
) -> None:
    """A worker is a process that starts one for each job and lives on."""
    made = Made(plan, tmp_path / "a", demo_clip, 1)
    script = tmp_path / "flow.py"
    script.write_text(
        "from pathlib import Path\n"
        "from seedvr2_core.files import read_record\n"
        "from tasks.child.session import SegmentWatch\n"
        "from tasks.inference import wait_for\n"
        "from tasks.schemas import PlannedJob\n"
        f"job = PlannedJob.model_validate_json({_json(made, demo_clip)!r})\n"
        "watch = SegmentWatch(job)\n"
        "wait_for(watch, 0)\n"
        "watch.let_rest()\n"
    )
    worker = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import subprocess, sys, time\n"
            f"subprocess.run([sys.executable, {str(script)!r}], check=True)\n"
            "print('the job is done', flush=True)\n"
            "time.sleep(600)\n",
        ],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "SEEDVR2_WORK_DIR": str(settings.work_dir),
            "SEEDVR2_WARM_SECONDS": "120",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "the job is done\n"
    pid = the_warm_one(settings).pid
    assert is_running(pid)
    worker.kill()
    worker.communicate()
    gone(pid)
    assert not warm_engines(settings)


def _json(made: Made, source: Path) -> str:
    return _planned(made.plan, made.folder, source).model_dump_json()


def test_a_job_is_planned_with_what_a_warm_engine_gives_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = WarmEngine(
        pid=7,
        engine="seedvr2-7b",
        device="cuda:0",
        seconds_left=60.0,
        device_bytes=16_000,
        host_bytes=3_000,
    )
    monkeypatch.setattr(warm, "warm_engines", lambda settings: [engine])
    found = Device(name="cuda:0", kind="NVIDIA H200", free_bytes=100_000, host_bytes=50_000)
    returned = with_returned(found, [engine], settings)
    assert (returned.free_bytes, returned.host_bytes) == (116_000, 53_000)
    beside = found.model_copy(update={"name": "cuda:1"})
    assert with_returned(beside, [engine], settings) == beside
    assert with_returned(Device(name="cpu", kind="cpu"), [engine], settings).free_bytes is None
    monkeypatch.setattr(warm, "warm_engines", lambda settings: [])
    assert with_returned(found, [engine], settings) == found, "it ended while we looked"
