"""Runs the child process and ends it when it hangs.

The child (`python -m seedvr2_core.child`) takes requests on stdin and gives events on stdout (see
`seedvr2_core/child/protocol.py`); its stderr is log text. It has its own process group, which is
ended as a whole: TERM, a few seconds of grace, KILL. Limits count only the time in which this
process was running (`awake.py`). This module knows nothing of Prefect.
"""

import contextlib
import contextvars
import logging
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import IO, Any, TypedDict

from seedvr2_core import errors
from seedvr2_core.child.memory import oom_kills
from seedvr2_core.child.messages.life import Stop
from seedvr2_core.child.protocol import (
    Event,
    Failed,
    Request,
    decode_event,
    encode_request,
)
from seedvr2_core.errors import ChildFailedError, DeadlineError, SeedVR2Error, StalledError
from tasks.child.awake import awake_seconds
from tasks.child.processes import (
    COMMAND,
    UNKNOWN_EXIT,
    ChildProcess,
    keep_resting,
    kill_group,
    release,
    start,
)

TAIL_LINES = 20
"""Log lines that are kept for error messages."""
MAX_LOG_LINES_PER_SECOND = 20
"""Log lines that are passed on; the rest is dropped, so that a child cannot flood the run's log."""
MAX_EVENT_CHARS = 1_000_000
"""Longest line that may be an event; what a longer one has beyond that is read and thrown away."""
MAX_LOG_CHARS = 2_000
"""What is kept of a line of the log."""
_POLL_SECONDS = 0.25


class WaitLimits(TypedDict):
    """The limits of one wait for a child's next event: the arguments of `Child.next_event`."""

    stall_seconds: float
    """Time without any event after which the child counts as hung."""
    doing: str
    """What the child is doing, in words, for the messages."""
    deadline: float
    """`awake_seconds()` at which waiting ends in any case."""


class Child:
    """A running child process and the events it has sent so far."""

    def __init__(
        self,
        *,
        log: Callable[[str], None] | None = None,
        command: Sequence[str] = COMMAND,
        process: ChildProcess | None = None,
    ) -> None:
        """Start the child, or take a process that runs already.

        Args:
            log: called from a reader thread with each line of the child's log, at most
                `MAX_LOG_LINES_PER_SECOND`.
            command: what to run; our process id and the child's bounds are appended.
            process: a warm one to take; nothing is started then.
        """
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        """The last lines of its log."""
        self.last_life = awake_seconds()
        """When it sent its last event, by the clock of `awake_seconds`."""
        self._log = log or logging.getLogger(__name__).info
        self._events: queue.Queue[Event | ChildFailedError] = queue.Queue()
        self._oom_kills = oom_kills()
        self.warm = process is not None
        """Whether its engine may be loaded already."""
        self._process: ChildProcess = process or start(command)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin: IO[str] = self._process.stdin
        # Prefect's log handler needs our context variables, which a new thread does not inherit.
        self._context = contextvars.copy_context()
        readers = (
            (self._read_events, self._process.stdout),
            (self._read_log, self._process.stderr),
        )
        self._readers = [
            threading.Thread(target=read, args=(pipe,), daemon=True) for read, pipe in readers
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Id of the process and of its group."""
        return self._process.pid

    @property
    def is_ahead(self) -> bool:
        """Whether it has told more than was asked for: who reads it may have waited for Prefect."""
        return not self._events.empty()

    @property
    def alive(self) -> bool:
        """Whether the child is still running."""
        return self._process.poll() is None

    def begin_anew(self) -> None:
        """Belong to the caller from now on: its silence counts anew, and its log goes there."""
        self.last_life = awake_seconds()  # it may have waited for an hour
        self.tail.clear()
        self._context = contextvars.copy_context()

    def send(self, request: Request[Any]) -> None:
        """Give the child something to do. If it is dead, the next `next_event` raises."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(encode_request(request) + "\n")
            self._stdin.flush()

    def next_event(self, *, stall_seconds: float, doing: str, deadline: float = inf) -> Event:
        """Wait for the child's next event.

        Args:
            stall_seconds: time without any event after which the child counts as hung.
            doing: what the child is doing, in words, for the messages.
            deadline: `awake_seconds()` at which waiting ends in any case.

        Raises:
            StalledError: no event for `stall_seconds`.
            DeadlineError: the deadline passed.
            ChildFailedError: the child ended, or sent an event that we do not know.
            SeedVR2Error: the child reported an error of its own; its class is kept.
        """
        while True:
            if awake_seconds() > deadline:
                raise DeadlineError(f"the time limit was passed while {doing}" + self._tail_words())
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=_POLL_SECONDS)
                if isinstance(event, ChildFailedError):
                    raise event
                if isinstance(event, Failed):
                    raise self._reported(event)
                return event
            if not self.alive and self._drained():
                last = self._tail_words()
                raise ChildFailedError(
                    f"the child process ended with {self._exit_words()} while {doing}"
                    f"{self._memory_words()}{last}"
                )
            if awake_seconds() - self.last_life > stall_seconds:
                raise StalledError(
                    f"no sign of life for {stall_seconds:g} s while {doing}" + self._tail_words()
                )

    def close(self) -> None:
        """End the child and every process it has started; may be called twice."""
        if self._stdin.closed:
            return
        self.send(Stop())
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5 if self.alive else 0)
        kill_group(self._process)
        for reader in self._readers:
            reader.join(timeout=2.0)
        release(self._process)

    def let_go(self) -> None:
        """Let a child that rests live on without us; `close` does nothing then."""
        self._stdin.close()
        for reader in self._readers:
            reader.join(timeout=2.0)
        keep_resting(self._process)
        release(self._process)

    def _read_events(self, stream: IO[str]) -> None:
        """Reader thread: queue the events; anything else on stdout is log text."""
        with stream:
            for line in _lines(stream, MAX_EVENT_CHARS):
                try:
                    event = decode_event(line)
                except ChildFailedError as error:
                    event = error  # raised where somebody waits for the event
                if event is None:
                    self.tail.append(line.rstrip()[:MAX_LOG_CHARS])
                    continue
                self.last_life = awake_seconds()
                self._events.put(event)

    def _read_log(self, stream: IO[str]) -> None:
        """Reader thread: keep the last lines, and pass lines on as fast as is allowed."""
        second, passed = 0.0, 0
        with stream:
            for line in _lines(stream, MAX_LOG_CHARS):
                text = line.rstrip()
                self.tail.append(text)
                now = time.monotonic()
                if now - second >= 1.0:
                    second, passed = now, 0
                passed += 1
                if passed <= MAX_LOG_LINES_PER_SECOND:
                    self._context.run(self._log, text)

    def _drained(self) -> bool:
        """Whether all events of a dead child have been taken."""
        self._readers[0].join(timeout=1.0)
        return self._events.empty()

    def _exit_words(self) -> str:
        code = self._process.returncode
        if code == UNKNOWN_EXIT:
            return "an unknown exit code"
        if code is not None and code < 0:
            try:
                return f"signal {signal.Signals(-code).name}"
            except ValueError:  # most real-time signals have no name
                return f"signal {-code}"
        return f"exit code {code}"

    def _memory_words(self) -> str:
        """Whether it was killed or gave up for want of memory, and what to do then."""
        if (
            self._process.returncode in (-signal.SIGKILL, UNKNOWN_EXIT)
            and oom_kills() > self._oom_kills
        ):
            return (
                ": the kernel ended it, because memory ran out; give this container or machine "
                "more, let less run beside it, or choose a smaller resolution or batch_size"
            )
        if any("std::bad_alloc" in line for line in self.tail):  # the last words of C++
            return (
                ": it was refused memory; raise SEEDVR2_CHILD_MEMORY_BYTES if that is set, or "
                "choose a smaller resolution or batch_size"
            )
        return ""

    def _tail_words(self) -> str:
        self._readers[1].join(timeout=0.2 if self.alive else 1.0)
        if not self.tail:
            return ""
        return "; its last lines:\n" + "\n".join(self.tail)

    @staticmethod
    def _reported(event: Failed) -> SeedVR2Error:
        """The error the child reported, in its own class."""
        kind = getattr(errors, event.kind, None)
        if isinstance(kind, type) and issubclass(kind, SeedVR2Error):
            return kind(event.message)
        return ChildFailedError(f"{event.kind}: {event.message}")


def _lines(stream: IO[str], most: int) -> Iterator[str]:
    """The lines of a stream, each cut after `most` characters, so that memory stays bounded."""
    while line := stream.readline(most):
        yield line
        while len(line) == most and not line.endswith("\n"):
            line = stream.readline(most)
