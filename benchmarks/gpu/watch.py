"""Ends a step that hangs, and goes on without it.

A kernel that never ends cannot be stopped from inside its process, nor can a process be trusted
that a kernel has killed. So the parts run in a worker, and this process, which never touches the
GPU, watches it. The worker says which step it is at, and gives signs of life while it works:
measurements, and the beats of a session. Where none comes for the limit, the worker is asked for
the stacks of its threads, then killed with all its children; a worker that dies is told alike. A
new worker goes on with the parts that are not done, and leaves out the step. What was measured is
in the file all the time.
"""

import faulthandler
import functools
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

STACK_SECONDS = 3.0
"""For a worker that hangs to tell its stacks."""
BEAT_SECONDS = 0.5
"""Shortest time between two signs of life of one step."""
STACK_CHARACTERS = 3000
SHOWN_EXITS = (0, 1, 2)
"""Exit codes of a worker that came to its end by itself: right, wrong, refused."""


class Signs:
    """The worker's side: tells which step it is at."""

    def __init__(self, descriptor: int | None, stacks: Path) -> None:
        """Tell through a pipe.

        Args:
            descriptor: of the pipe; None: nobody listens.
            stacks: file for the stacks of all threads, which come at SIGUSR1.
        """
        self._descriptor, self._step, self._told = descriptor, "", 0.0
        if descriptor is not None:
            self._stacks = stacks.open("w")
            faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)

    def step(self, name: str) -> None:
        """A step begins, or goes on after a measurement."""
        self._step = name
        self._tell()

    def beat(self, *_: object) -> None:
        """The step goes on."""
        if time.monotonic() - self._told >= BEAT_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        if self._descriptor is not None:
            os.write(self._descriptor, f"{self._step}\n".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a worker ended that did not come to its end by itself."""

    step: str
    """"part/attempt", or the name of a part; "" before the first."""
    reason: str
    stacks: str = ""


def supervise(
    out: Path,
    command: Callable[[Sequence[str], float, bool, int], list[str]],
    *,
    seconds: float,
    step_seconds: float,
    skip: Sequence[str] = (),
    more: bool = False,
) -> int:
    """Run workers until one comes to its end, or no time is left.

    Args:
        out: the report.
        command: of a worker, from the steps that it leaves out, the seconds that it has, whether it
            goes on with the report, and the descriptor of its pipe.
        seconds: for all of them.
        step_seconds: without a sign of life.
        skip: steps that the first worker leaves out.
        more: whether the first one goes on with a report that is there.

    Returns:
        The exit code: 1 if a step hung or died, else that of the worker.
    """
    began, left_out = time.monotonic(), list(skip)
    while True:
        left = max(0.0, seconds - (time.monotonic() - began))
        ended = _work(functools.partial(command, [*left_out], left, more), out, step_seconds)
        if isinstance(ended, int):
            return ended
        _tell(out, ended, at=time.monotonic() - began)
        if not ended.step or ended.step in left_out:
            return 1  # another worker would end alike
        left_out.append(ended.step)
        more = True


def stacks_of(out: Path) -> Path:
    """Where a worker puts the stacks of its threads."""
    return out.with_name(f"{out.name}.stacks")


def _work(command: Callable[[int], list[str]], out: Path, step_seconds: float) -> Ended | int:
    """Run one worker.

    Returns:
        Its exit code, or how it ended where that was not by itself.
    """
    reading, writing = os.pipe()
    worker = subprocess.Popen(command(writing), pass_fds=(writing,), start_new_session=True)
    os.close(writing)
    step, hangs = "", False
    try:
        with open(reading, "rb", buffering=0) as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not hangs:
                hangs = not selector.select(step_seconds)
                told = b"" if hangs else pipe.read(1 << 16)
                if not told:
                    break
                step = told.decode().splitlines()[-1]
            stacks = _end_hanging(worker, out) if hangs else ""
        code = worker.wait()
    finally:
        _kill(worker)
        stacks_of(out).unlink(missing_ok=True)
    if hangs:
        reason = f"no sign of life for {step_seconds:.0f} s; the process was ended"
        return Ended(step=step, reason=reason, stacks=stacks)
    if code in SHOWN_EXITS:
        return code
    return Ended(step=step, reason=f"the process died with exit code {code}")


def _end_hanging(worker: subprocess.Popen[bytes], out: Path) -> str:
    """End it; the stacks of its threads, innermost call first, as far as it tells them."""
    worker.send_signal(signal.SIGUSR1)
    until = time.monotonic() + STACK_SECONDS
    path = stacks_of(out)
    while time.monotonic() < until and not (path.is_file() and path.stat().st_size):
        time.sleep(0.1)
    time.sleep(0.2)  # for the rest of it
    _kill(worker)
    return path.read_text(errors="replace") if path.is_file() else ""


def _kill(worker: subprocess.Popen[bytes]) -> None:
    """With all its children; none of them matters any more."""
    try:
        os.killpg(worker.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    worker.wait()


def _tell(out: Path, ended: Ended, *, at: float) -> None:
    """A line of the report, on its own line even where the worker was writing one."""
    part, _, name = ended.step.partition("/")
    line = {"part": part, "name": name or "error", "at": round(at, 2), "error": ended.reason}
    if ended.stacks:
        line["stacks"] = ended.stacks[:STACK_CHARACTERS]
    text = json.dumps(line)
    print(text, flush=True)
    with out.open("ab+") as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(text.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
