"""The process of a child: how it is started and ended, and one that somebody else has started."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any, Protocol

from tasks.settings import child_environment, get_settings

COMMAND = (sys.executable, "-P", "-u", "-m", "seedvr2_core.child")
"""What starts a child, but for our process id and its bounds."""
UNKNOWN_EXIT = 1000
"""Exit code of a process that is no child of ours: how it ended is not known."""
GRACE_SECONDS = 5.0
"""Time between TERM and KILL."""
_resting: "list[ChildProcess]" = []
"""Children that live on without us. Each is kept, so that it is no zombie when it ends."""


class ChildProcess(Protocol):
    """What `Child` needs of a process: a `subprocess.Popen`, or a warm process (warm.py)."""

    stdin: IO[str] | None
    stdout: IO[str] | None
    stderr: IO[str] | None
    returncode: Any
    """None as long as nobody has seen its end."""

    @property
    def pid(self) -> int:
        """Id of the process, and of the group that it leads."""
        ...

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        ...


def child_command() -> list[str]:
    """What starts a child, but for our process id."""
    return [*COMMAND, *_bounds()]


def start(command: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a child.

    It asks the kernel to kill it when the thread that started it ends. So this must be a thread
    that lives as long as the job: flow and tasks run in the main thread.
    """
    keep_resting()
    return subprocess.Popen(
        [*command, str(os.getpid()), *_bounds()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=child_environment(),
    )


def _bounds() -> list[str]:
    """What the child may have, as arguments of its command."""
    settings = get_settings()
    memory = settings.child_memory_bytes
    return [
        *([] if memory is None else ["--memory-bytes", str(memory)]),
        *([] if settings.confine_children else ["--unconfined"]),
    ]


def keep_resting(*more: ChildProcess) -> None:
    """Keep the children that live on without us, and forget those that have ended."""
    _resting[:] = [process for process in (*_resting, *more) if process.poll() is None]


def kill_group(process: ChildProcess) -> None:
    """End a process group: TERM, grace, KILL. Returns when no process of it is left.

    A warm process has another parent, which may leave it a zombie: its own end is enough.
    """
    for sig, grace in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 2.0)):
        end = time.monotonic() + grace
        try:
            os.killpg(process.pid, sig)
            while time.monotonic() < end:
                if process.poll() == UNKNOWN_EXIT:
                    os.killpg(process.pid, signal.SIGKILL)
                    return
                os.killpg(process.pid, 0)
                time.sleep(0.02)
        except ProcessLookupError:
            return


class Pipes:
    """Four pipes to a child: requests, events, log, and one whose end is ours alone."""

    def __init__(self) -> None:
        requests, events, log, life = (os.pipe() for _ in range(4))
        self.ours = (requests[1], events[0], log[0], life[1])
        self.its = (requests[0], events[1], log[1], life[0])

    def close(self, ends: tuple[int, ...]) -> None:
        """Close one side."""
        for end in ends:
            os.close(end)


class Attached:
    """A warm process that works for us: the part of `subprocess.Popen` that `Child` uses."""

    def __init__(self, pid: int, pipes: Pipes) -> None:
        """Take over a process and our ends of its pipes.

        Raises:
            ProcessLookupError: it has ended; the pipes are as they were.
        """
        self.pid = pid
        self.returncode: int | None = None
        self._process: int | None = os.pidfd_open(pid)
        requests, events, log, self._life = pipes.ours
        self.stdin: IO[str] | None = os.fdopen(requests, "w")
        self.stdout: IO[str] | None = os.fdopen(events, "r", errors="replace")
        self.stderr: IO[str] | None = os.fdopen(log, "r", errors="replace")

    def poll(self) -> int | None:
        """None while it runs; how it ended is told to its parent alone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self._process is not None and not select.select([self._process], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("warm child", timeout or 0.0)
        self.returncode = UNKNOWN_EXIT
        return self.returncode

    def release(self) -> None:
        """Close what is not closed with the three pipes. Nothing more is known of it then."""
        if self._process is not None:
            os.close(self._process)
            os.close(self._life)
        self._process = None


def release(process: ChildProcess) -> None:
    """Let go of a process that has ended, or that lives on without us."""
    if isinstance(process, Attached):
        process.release()
