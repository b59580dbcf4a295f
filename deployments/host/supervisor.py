"""Keeps several processes running: starts them in order, restarts those that die, ends all.

The kernel ends every process together with this one (attached.py), so that kill -9 leaves nothing
behind. The first start of each must succeed. A process that dies later is started again after 1, 2,
4 ... seconds. If one dies again and again, the supervisor gives up with the last lines of its log.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from deployments.host.attached import attached
from seedvr2_core.errors import ServiceError

MAX_DEATHS = 5
"""Deaths in a row that are tolerated; a life of STEADY_SECONDS ends the row."""
STEADY_SECONDS = 60.0
MAX_DELAY_SECONDS = 30.0
START_SECONDS = 120.0
MAX_LOG_BYTES = 20 * 2**20
"""A log that has become longer is kept once, as .1, and begins again."""
_POLL_SECONDS = 0.2
_LOG_LINES = 5
_TAIL_BYTES = 65_536

Say = Callable[[str], None]


@dataclass(kw_only=True)
class ManagedProcess:
    """A process that the supervisor starts, watches and ends."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str]
    log: Path
    """The process's output is appended to this file."""
    port: int | None = None
    """Port to listen on; 0 takes a free one. The process prints `name: http://host:port`. None: it
    does not listen."""
    is_ready: Callable[[], bool] = lambda: True
    """Whether the process has come up; asked once its address is known."""
    grace_seconds: float = 15.0
    """Seconds that the process gets to end after SIGTERM, before SIGKILL."""

    url: str | None = None
    """Its address, once it has printed it."""
    started_at: float = 0.0
    """`time.time()` of its last start."""
    _process: "subprocess.Popen[bytes] | None" = None
    _log_offset: int = 0
    _deaths: int = 0
    _next_start: float | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; after the first start it keeps the port that it was given."""
        self._next_start = None
        port = [] if self.port is None else ["--port", str(self.port)]
        with self.log.open("ab") as out:
            self._log_offset = out.tell()
            self.started_at = time.time()
            self._process = subprocess.Popen(
                attached(self.module, *self.arguments, *port),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C must not reach it: we end processes in order
            )

    def check_ready(self) -> bool:
        """Whether it has come up.

        Raises:
            ServiceError: it has ended instead.
        """
        if not self.alive:
            raise ServiceError(f"{self.name} did not start: {self.last_words()}")
        if self.port is not None and self.url is None:
            line = re.search(rf"^{self.name}: (http://\S+:(\d+))$", self._new_log(), re.M)
            if line is None:
                return False
            self.url, self.port = line[1], int(line[2])
        return self.is_ready()

    def keep_running(self, say: Say) -> None:
        """Start it again if it has died and its delay is over; keep its log small.

        Raises:
            ServiceError: it has died too often in a row.
        """
        if self.log.stat().st_size > MAX_LOG_BYTES:
            self._shorten_log()
        if self.alive:
            return
        if self._next_start is None:
            self._next_start = time.monotonic() + self._delay(say)
        elif time.monotonic() >= self._next_start:
            self.start()

    def _shorten_log(self) -> None:
        """Keep the log so far as .1 and empty it. The process goes on writing into the same file.

        What it writes between the copy and the cut is lost: a line or two.
        """
        shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
        os.truncate(self.log, 0)
        self._log_offset = 0

    def _delay(self, say: Say) -> float:
        """Count a death; returns the seconds until the next start."""
        if time.time() - self.started_at > STEADY_SECONDS:
            self._deaths = 0
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise ServiceError(
                f"{self.name} ended {self._deaths} times in a row, the last time with: "
                f"{self.last_words()}"
            )
        delay = min(2.0 ** (self._deaths - 1), MAX_DELAY_SECONDS)
        say(f"{self.name} ended ({self.last_words()}); it is started again in {delay:g} s")
        return delay

    def end(self, hurry: Callable[[], bool]) -> None:
        """End it: SIGTERM, then SIGKILL for it and all that is left of its process group.

        Args:
            hurry: asked while we wait; True kills it at once.
        """
        if self._process is None:
            return
        if self.alive:
            self._process.terminate()
        limit = time.monotonic() + self.grace_seconds
        while self.alive and time.monotonic() < limit and not hurry():
            time.sleep(_POLL_SECONDS / 4)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """How it ended, where its log is, and the log's last lines."""
        code = self._process.poll() if self._process else None
        lines = [line for line in self._new_log().splitlines() if line.strip()][-_LOG_LINES:]
        how = "running" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        return "\n".join([f"{how}; log: {self.log}", *lines])

    def _new_log(self) -> str:
        """What it has written since its last start; only the end if that is long."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset, size - _TAIL_BYTES))
            return log.read().decode(errors="replace")


class AskedToStop(BaseException):
    """Ctrl-C or SIGTERM; a BaseException, so that no `except Exception` catches it."""


@dataclass
class Supervisor:
    """Starts, watches and ends processes.

    Use it as a context manager: when the block ends, for whatever reason, it ends the processes in
    reverse order of their start.
    """

    say: Say
    processes: list[ManagedProcess] = field(default_factory=list)
    """In the order in which they were started."""
    _asked: str = ""
    """Name of the signal that has asked us to stop."""
    _hurry: bool = False

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.end(lambda: self._hurry)

    def start(self, *processes: ManagedProcess) -> None:
        """Start processes at the same time and return when all have come up.

        Raises:
            ServiceError: one of them did not come up.
            AskedToStop: Ctrl-C or SIGTERM.
        """
        for process in processes:
            self.processes.append(process)
            process.start()
        limit = time.monotonic() + START_SECONDS
        waiting = list(processes)
        while waiting := [process for process in waiting if not process.check_ready()]:
            if time.monotonic() > limit:
                raise ServiceError(
                    f"{waiting[0].name} did not come up within {START_SECONDS:g} s: "
                    f"{waiting[0].last_words()}"
                )
            self._stop_if_asked()
            time.sleep(_POLL_SECONDS)

    def end(self, *processes: ManagedProcess) -> None:
        """End these processes now, in this order. They may include some that were never started."""
        for process in processes:
            process.end(lambda: self._hurry)
        self.processes = [process for process in self.processes if process not in processes]

    def watch(self) -> None:
        """Keep all processes running until a signal comes.

        Raises:
            ServiceError: a process dies again and again.
            AskedToStop: Ctrl-C or SIGTERM.
        """
        while True:
            for process in self.processes:
                process.keep_running(self.say)
            self._stop_if_asked()
            time.sleep(_POLL_SECONDS)

    def _stop_if_asked(self) -> None:
        """Raise what a signal's handler has raised before, if that came to nothing.

        Python drops it where a finalizer or a callback runs.
        """
        if self._asked:
            raise AskedToStop(self._asked)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM raise AskedToStop once; a further one ends processes at once."""

        def asked(number: int, _: FrameType | None) -> None:
            if self._asked:
                self._hurry = True
                return
            self._asked = signal.Signals(number).name
            raise AskedToStop(self._asked)

        before = {n: signal.signal(n, asked) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
