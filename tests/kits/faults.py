"""Runs real commands on real files and disturbs them: by faults inside and by kills from outside.

Jobs are made by the engine `sleep` (50 ms a frame, so that kills find it at work on any machine) or
`tiny` (SeedVR2's graph). Where a kill falls is not left to chance: the process itself stops at a
named place (`Fault`, tests/faults/inject) and waits for it.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from seedvr2_core.planning import sizes
from tasks.schemas import UpscaleResult
from tasks.settings import Settings, use_settings
from tests.kits.processes import (
    MARK,
    ROOT,
    children_of,
    command_line,
    environment,
    is_running,
    kill_tree,
    marked,
)

OPTIONS = ("--resolution", "720p", "--preset", "ultrafast", "--json")
NUM_SEGMENTS = 6
"""Of the demo clip in segments of half a second."""
PATIENCE_SECONDS = 400.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a process does wrong by itself, once (see tests/faults/inject/sitecustomize.py)."""

    at: str
    call: int = 1
    do: str = "hold"
    mark: str = ""
    after: str = ""
    since: str = ""


SMALL_PICTURES = Fault(at="seedvr2_core.planning.sizes:BUDGETS_PX", call=96 * 54, do="small")
"""Makes 720p mean 96x54 pixels in the process that plans: these tests need frames, not pixels."""


def carrying(*faults: Fault) -> dict[str, str]:
    """The environment variables with which a process, and its children, do these wrong."""
    inject = ROOT / "tests" / "faults" / "inject"
    return {
        "PYTHONPATH": os.pathsep.join((str(inject), str(ROOT))),
        "SEEDVR2_TEST_FAULTS": json.dumps([asdict(fault) for fault in faults]),
    }


def use_small_pictures(monkeypatch: pytest.MonkeyPatch, pixels: int = SMALL_PICTURES.call) -> None:
    """Make 720p so many pixels, in this process and in the children that plan for it."""
    monkeypatch.setattr(sizes, "BUDGETS_PX", {"720p": pixels})
    for name, value in carrying(replace(SMALL_PICTURES, call=pixels)).items():
        monkeypatch.setenv(name, value)


@dataclass(kw_only=True)
class FaultyJob:
    """One job in a work directory of its own, and the commands that were started for it."""

    clip: Path
    work_dir: Path
    api_url: str
    model: str = "sleep"
    options: tuple[str, ...] = ()
    """More arguments of its command."""
    mark: str = field(default_factory=lambda: uuid4().hex)
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *faults: Fault, **changes: str) -> subprocess.Popen[str]:
        """Start the command; its output goes to files."""
        self.work_dir.mkdir(exist_ok=True)
        number = len(self.commands)
        arguments = ("upscale", self.clip, "--model", self.model, *OPTIONS, *self.options)
        if self.model == "tiny":
            arguments = (*arguments, "--batch-size", "12")
        variables = {**self.variables(*faults), **changes}
        with (
            (self.work_dir / f"{number}.out").open("w") as out,
            (self.work_dir / f"{number}.err").open("w") as err,
        ):
            process = subprocess.Popen(
                command_line(*arguments, "--work-dir", self.work_dir),
                env=environment(variables),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
            )
        self.commands.append(process)
        return process

    def variables(self, *faults: Fault) -> dict[str, str]:
        """The environment variables of a process that works on this job."""
        own = {
            "PREFECT_API_URL": self.api_url,
            "SEEDVR2_SEGMENT_SECONDS": "0.5",
            "SEEDVR2_TEST_ENGINES": "true",
            "SEEDVR2_KEEP_SEGMENTS": "true",
            MARK: self.mark,
        }
        return own | carrying(*faults, SMALL_PICTURES)

    def request(self) -> dict[str, Any]:
        """The same job as parameters of the flow."""
        return {
            "video_path": str(self.clip),
            "model": self.model,
            "resolution": "720p",
            "preset": "ultrafast",
        }

    def place(self, name: str) -> str:
        """The path of a file that a fault makes when it acts (`Fault.mark`)."""
        return str(self.work_dir / f"fault-{name}")

    def said(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """What a command wrote to stdout and stderr."""
        number = self.commands.index(process)
        return (
            (self.work_dir / f"{number}.out").read_text(),
            (self.work_dir / f"{number}.err").read_text(),
        )

    def result(self, process: subprocess.Popen[str]) -> dict[str, object]:
        """Wait for a command, which must succeed; returns its result."""
        code = process.wait(timeout=PATIENCE_SECONDS)
        out, err = self.said(process)
        assert code == 0, err
        result: dict[str, object] = json.loads(out.splitlines()[-1])
        return result

    def finish(self) -> dict[str, object]:
        """Run the command to its end without any fault; returns its result."""
        return self.result(self.start())

    def job_dir(self) -> Path:
        """The job's directory; fails unless there is exactly one."""
        (found,) = self.work_dir.glob("jobs/*")
        return found

    def sidecars(self) -> dict[str, int]:
        """Committed segments: sidecar name -> when it was written (ns)."""
        found = self.work_dir.glob("jobs/*/segments/[0-9]*.json")
        return {path.name: path.stat().st_mtime_ns for path in found}

    def at_work(self) -> bool:
        """Whether a segment is being written right now."""
        return self.has("segments/?????.mp4.part")

    def has(self, pattern: str) -> bool:
        """Whether a file in the job's directory matches the pattern."""
        return any(self.work_dir.glob(f"jobs/*/{pattern}"))

    def processes(self) -> list[int]:
        """Ids of all running processes of this job, those included whose parent has died."""
        return marked(self.mark)

    def leftovers(self) -> list[Path]:
        """Files that were being written when their process was killed."""
        parts = self.work_dir.rglob("*.part")
        return [path for path in parts if not path.name.startswith("fault-")]

    def end(self) -> None:
        """Kill every command that still runs."""
        for process in self.commands:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()


def wait_until(true: Callable[[], object], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Ask every 50 ms until the condition is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.05)


def worker_of(pid: int) -> int | None:
    """The id of the child with the model among a process's descendants, or None."""
    for child in children_of(pid)[1:]:
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"seedvr2_core.child" in line:
            return child
    return None


def assert_nothing_left(job: FaultyJob) -> None:
    """Check that the job left no half-written file, no process, and exactly one output."""
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    assert job.leftovers() == []
    assert len(list((job.work_dir / "output").glob("*.mp4"))) == 1


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What a kill left and what it cost."""

    command: "subprocess.Popen[str]"
    committed: dict[str, int]
    """The sidecars on disk after the kill: name -> when it was written (ns)."""
    redone: int
    """How many segments had been begun and were not on disk, so that they are made again."""


def kill_there(job: FaultyJob, fault: Fault, whom: str) -> Killed | None:
    """Start the command, wait until it stops at a place, and kill -9 a process of it there.

    Args:
        job: the job whose command is started.
        fault: where the process stops; it must be one that holds, and name a mark.
        whom: "child" (the command lives on), "command" or "tree" (the command and all below it).

    Returns:
        None if the command ended before it came to that place.
    """
    begun = job.place(f"begun{len(job.commands)}")
    count = Fault(at="seedvr2_core.child.channel:InFlight.begin", do="count", mark=begun)
    before = job.sidecars()
    process = job.start(fault, count, SEEDVR2_STALL_SECONDS="60")
    wait_until(
        lambda: Path(fault.mark).exists() or process.poll() is not None,
        f"a process came to {fault.at}",
    )
    if process.poll() is not None:
        return None
    _kill(process, whom)
    committed = job.sidecars()
    assert before.items() <= committed.items()  # what was committed is never made again
    done = len(committed) - len(before)
    redone = (Path(begun).stat().st_size if Path(begun).exists() else 0) - done
    print(
        f"{fault.at} call {fault.call}: killed {whom}, {len(committed)} segments committed, "
        f"{redone} to be redone, left {[path.name for path in job.leftovers()]}"
    )
    assert 0 <= redone <= 2
    return Killed(command=process, committed=committed, redone=redone)


def _kill(process: subprocess.Popen[str], whom: str) -> None:
    child = worker_of(process.pid)
    if whom == "tree":
        kill_tree(process.pid)
    elif whom == "command":
        process.kill()
    else:
        assert child is not None, "no child runs at this place"
        os.kill(child, signal.SIGKILL)
    if whom != "child":
        process.wait(timeout=60)
    if child is not None:
        wait_until(lambda: not is_running(child), "the child was gone", seconds=15)


def here(job: FaultyJob) -> Settings:
    """The settings with which the flow does this job in the test's own process."""
    return Settings(
        work_dir=job.work_dir,
        allow_local_files=True,
        allow_cpu_engine=True,
        test_engines=True,
        keep_segments=True,
        segment_seconds=0.5,
    )


def run_here(job: FaultyJob, *, keep_settings: bool = False) -> UpscaleResult:
    """Do the job with the flow in the test's own process; the settings stay in force afterwards."""
    from flows.upscale import upscale

    if not keep_settings:
        use_settings(here(job))
    return upscale(**job.request())
