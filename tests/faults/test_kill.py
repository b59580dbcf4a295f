"""Kills, stalls, Ctrl-C and rivals: the job ends with the same bytes, redoing hardly anything.

Real commands on real files. Where a kill falls is watched on disk (a segment's part file, its
sidecar), plus a random moment of a seeded generator; both are printed.
"""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.processes import ROOT, children_of, command_line, environment, is_running, kill_tree

pytestmark = pytest.mark.slow

# Half a second a segment on two idle cores: time enough for kills to fall into the work.
OPTIONS = ("--model", "lanczos", "--resolution", "720p", "--preset", "slow", "--json")
NUM_SEGMENTS = 6
MARK = "SEEDVR2_TEST_MARK"
PATIENCE_SECONDS = 120.0


def listen_to_ctrl_c() -> None:
    """A shell's background jobs ignore it, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(kw_only=True)
class Job:
    """One job of one work directory and the commands that were started for it."""

    clip: Path
    work_dir: Path
    api_url: str
    mark: str = field(default_factory=lambda: uuid4().hex)
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, **changes: str) -> subprocess.Popen[str]:
        """Start the command; its output goes to files."""
        self.work_dir.mkdir(exist_ok=True)
        number = len(self.commands)
        variables = {
            "PREFECT_API_URL": self.api_url,
            "SEEDVR2_SEGMENT_SECONDS": "0.5",
            MARK: self.mark,
            **changes,
        }
        with (
            (self.work_dir / f"{number}.out").open("w") as out,
            (self.work_dir / f"{number}.err").open("w") as err,
        ):
            process = subprocess.Popen(
                command_line("upscale", self.clip, *OPTIONS, "--work-dir", self.work_dir),
                env=environment(variables),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                preexec_fn=listen_to_ctrl_c,
                stdout=out,
                stderr=err,
                text=True,
            )
        self.commands.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """What a command wrote to stdout and stderr."""
        number = self.commands.index(process)
        return (
            (self.work_dir / f"{number}.out").read_text(),
            (self.work_dir / f"{number}.err").read_text(),
        )

    def result(self, process: subprocess.Popen[str]) -> dict[str, object]:
        """Wait for a command that must succeed; its result."""
        code = process.wait(timeout=PATIENCE_SECONDS)
        out, err = self.said(process)
        assert code == 0, err
        result: dict[str, object] = json.loads(out.splitlines()[-1])
        return result

    def finish(self) -> dict[str, object]:
        """Run the command to its end, undisturbed."""
        return self.result(self.start())

    def sidecars(self) -> dict[str, int]:
        """Committed segments: sidecar name -> when it was written (ns)."""
        found = self.work_dir.glob("jobs/*/segments/?????.json")
        return {path.name: path.stat().st_mtime_ns for path in found}

    def at_work(self) -> bool:
        """Whether a segment is being written right now."""
        return self.has("segments/?????.mp4.part")

    def has(self, pattern: str) -> bool:
        """Whether the job's directory holds such a file."""
        return any(self.work_dir.glob(f"jobs/*/{pattern}"))

    def processes(self) -> list[int]:
        """Everything that was started for this job and runs, orphans included."""
        wanted = f"{MARK}={self.mark}".encode()
        return [pid for pid in all_processes() if wanted in environ_of(pid) and is_running(pid)]

    def leftovers(self) -> list[Path]:
        """What a killed run left half-written."""
        return list(self.work_dir.rglob("*.part"))


def all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def environ_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it ended meanwhile


def wait_until(true: Callable[[], bool], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.01)


def worker_of(process: subprocess.Popen[str]) -> int | None:
    """The running child of a command."""
    for pid in children_of(process.pid)[1:]:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"seedvr2_core.worker" in line:
            return pid
    return None


@pytest.fixture
def make_job(demo_clip: Path, tmp_path: Path, api_url: str) -> Iterator[Callable[[], Job]]:
    """Make jobs, each with a work directory of its own; nothing of them runs on after the test."""
    jobs: list[Job] = []

    def make() -> Job:
        jobs.append(Job(clip=demo_clip, work_dir=tmp_path / f"job{len(jobs)}", api_url=api_url))
        return jobs[-1]

    yield make
    for job in jobs:
        for process in job.commands:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """What a run without faults gives, and how long it takes here."""

    sha256: object
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(
    demo_clip: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    job = Job(clip=demo_clip, work_dir=tmp_path_factory.mktemp("undisturbed"), api_url=api_url)
    began = time.monotonic()
    result = job.finish()
    assert (result["frames"], len(job.sidecars())) == (75, NUM_SEGMENTS)
    return Undisturbed(sha256=result["sha256"], seconds=time.monotonic() - began)


def assert_nothing_left(job: Job) -> None:
    """No half-written file, no process, one output."""
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    assert job.leftovers() == []
    assert len(list((job.work_dir / "output").iterdir())) == 1


def kill_at(job: Job, moment: Callable[[], bool], delay: float) -> dict[str, int]:
    """Start the command, kill -9 it and all below it; returns what was committed then."""
    process = job.start()
    wait_until(lambda: moment() or process.poll() is not None, "the moment of the kill came")
    time.sleep(delay)
    killed = kill_tree(process.pid)
    code = process.wait()
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    committed = job.sidecars()
    print(
        f"killed {len(killed)} processes {delay:.2f} s after it: {len(committed)} of "
        f"{NUM_SEGMENTS} segments committed, exit code {code}, left {names(job.leftovers())}"
    )
    # What is lost was begun and not committed: the segment being encoded, the one behind it.
    assert len(list(job.work_dir.glob("jobs/*/segments/?????.mp4.part"))) <= 2
    return committed


def names(paths: list[Path]) -> list[str]:
    return sorted(path.name for path in paths)


@pytest.mark.parametrize("seed", [1])
def test_kill_of_the_whole_tree_is_survived(
    make_job: Callable[[], Job], undisturbed: Undisturbed, seed: int
) -> None:
    rng = random.Random(seed)
    job = make_job()
    some = rng.randint(2, 4)
    moments: dict[str, tuple[Callable[[], bool], float]] = {
        "first segment": (lambda: job.has("child.lock"), 1.0),
        f"{some} segments done": (lambda: len(job.sidecars()) >= some, 0.5),
        "stitch, upload": (lambda: job.has("output.mp4*"), 0.3),
    }
    before: dict[str, int] = {}
    pending = []
    for name, (moment, spread) in moments.items():
        print(f"seed {seed}, {name}: ", end="")
        committed = kill_at(job, moment, rng.uniform(0, spread))
        assert before.items() <= committed.items()  # what was committed is never made again
        pending.append(NUM_SEGMENTS - len(committed))
        before = committed
    assert any(pending), "no kill fell into the work; a slower preset is needed"
    result = job.finish()
    assert result["sha256"] == undisturbed.sha256
    assert result["segments_reused"] == len(before)
    assert before.items() <= job.sidecars().items()
    assert_nothing_left(job)


def attempts_of(api_url: str, job_id: object) -> dict[str, int]:
    """How often each task run of a flow run was started."""
    run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(str(job_id))]))
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        return {task.name: task.run_count for task in client.read_task_runs(flow_run_filter=run)}


def log_of(api_url: str, job_id: object) -> list[str]:
    """Log lines of a flow run."""
    run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(str(job_id))]))
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        return [log.message for log in client.read_logs(run)]


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGSTOP], ids=["child-killed", "child-stalled"]
)
def test_a_lost_child_is_replaced_once(
    make_job: Callable[[], Job], undisturbed: Undisturbed, api_url: str, how: signal.Signals
) -> None:
    """The command goes on by itself: the task that waited is retried on a fresh child."""
    job = make_job()
    process = job.start(SEEDVR2_STALL_SECONDS="3")
    wait_until(lambda: len(job.sidecars()) >= 1 and job.at_work(), "the second segment began")
    child, committed = worker_of(process), job.sidecars()
    assert child is not None
    os.kill(child, how)
    result = job.result(process)
    assert result["sha256"] == undisturbed.sha256
    assert committed.items() <= job.sidecars().items()
    assert not is_running(child)
    assert_nothing_left(job)
    infer = range(NUM_SEGMENTS)
    wait_until(
        lambda: (
            {f"infer-segment-{k}" for k in infer} <= attempts_of(api_url, result["job_id"]).keys()
        ),
        "all task runs were recorded",
        seconds=30,
    )
    attempts = attempts_of(api_url, result["job_id"])
    assert sorted(attempts[f"infer-segment-{k}"] for k in infer) == [1, 1, 1, 1, 1, 2]


def test_two_equal_requests_at_once_share_the_work(
    make_job: Callable[[], Job], undisturbed: Undisturbed, api_url: str
) -> None:
    job = make_job()
    rivals = [job.start(), job.start()]
    results = [job.result(process) for process in rivals]
    assert {result["sha256"] for result in results} == {undisturbed.sha256}
    assert sorted(int(str(result["segments_reused"])) for result in results) == [0, NUM_SEGMENTS]
    assert len({result["output_path"] for result in results}) == 1
    assert_nothing_left(job)

    def waiting() -> list[bool]:
        logs = (log_of(api_url, result["job_id"]) for result in results)
        return [any("waiting for it" in line for line in lines) for lines in logs]

    wait_until(lambda: sum(waiting()) == 1, "one of the two logged that it waits", seconds=30)


def test_ctrl_c_leaves_one_sentence_and_no_process(
    make_job: Callable[[], Job], undisturbed: Undisturbed
) -> None:
    """With a server of the command's own, which has to go as well."""
    job = make_job()
    process = job.start(PREFECT_API_URL="", PREFECT_HOME=str(job.work_dir / "prefect"))
    wait_until(lambda: len(job.sidecars()) >= 1 and job.at_work(), "the second segment began")
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=60)
    out, err = job.said(process)
    assert code == 130, err
    assert out == ""
    assert "Traceback" not in err
    *_, last = err.strip().splitlines()
    assert re.match(r"interrupted; .* run it again", last)
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    committed = job.sidecars()
    result = job.finish()
    assert (result["sha256"], result["segments_reused"]) == (undisturbed.sha256, len(committed))
    assert committed.items() <= job.sidecars().items()
    assert_nothing_left(job)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [7, 8])
def test_twelve_kills_at_any_time(
    make_job: Callable[[], Job], undisturbed: Undisturbed, seed: int
) -> None:
    """Of the tree, of the command alone or of the child alone, each followed by a resume."""
    rng = random.Random(seed)
    job, before, kills, pending = make_job(), {}, 0, 0
    while kills < 12:
        process = job.start()
        moment, kind = rng.uniform(0, undisturbed.seconds), rng.choice(["tree", "command", "child"])
        end = time.monotonic() + moment
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            child = worker_of(process)
            if kind == "child" and child is not None:
                os.kill(child, signal.SIGKILL)
                process.wait(timeout=PATIENCE_SECONDS)
            elif kind == "command":
                process.kill()
            else:
                kill_tree(process.pid)
            process.wait()
            wait_until(lambda job=job: not job.processes(), "every process was gone", seconds=15)
            kills += 1
        committed = job.sidecars()
        print(
            f"seed {seed}, kill {kills}: {kind} after {moment:.2f} s, {len(committed)} of "
            f"{NUM_SEGMENTS} segments committed, exit code {process.returncode}"
        )
        assert before.items() <= committed.items()
        pending += 0 < len(committed) < NUM_SEGMENTS
        before = committed
        if process.returncode == 0:
            assert job.result(process)["sha256"] == undisturbed.sha256
            assert_nothing_left(job)
            job, before = make_job(), {}
    assert pending, "no kill fell between two segments; a slower preset is needed"
    assert job.finish()["sha256"] == undisturbed.sha256
    assert_nothing_left(job)
