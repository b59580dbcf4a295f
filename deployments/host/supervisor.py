"""Keeps a few processes running: starts them in order, restarts those that die, ends all of them.

Every part is tied to this process by the kernel (attached.py), so kill -9 leaves nothing behind.
The first start must succeed. A part that dies later is started again after 1, 2, 4 ... seconds; one
that dies again and again ends the whole, with its last lines.
"""

import contextlib
import os
import re
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
"""In a row, without STEADY_SECONDS of life between two of them."""
STEADY_SECONDS = 60.0
MAX_DELAY_SECONDS = 30.0
START_SECONDS = 120.0
_POLL_SECONDS = 0.2
_LOG_LINES = 5
_TAIL_BYTES = 65_536

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Part:
    """One process of the whole."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str]
    log: Path
    """Its output is appended here."""
    port: int | None = None
    """Listens there (0: anywhere) and says so in a line `name: http://...`; None: it does not."""
    is_ready: Callable[[], bool] = lambda: True
    """Asked after it has said its address."""
    grace: float = 15.0
    """Seconds between TERM and KILL."""

    url: str | None = None
    """Its address, once it has said it."""
    started: float = 0.0
    """`time.time()` of its last start."""
    _process: "subprocess.Popen[bytes] | None" = None
    _log_offset: int = 0
    _deaths: int = 0
    _next_start: float | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; a part that has had a port keeps it."""
        self._next_start = None
        listens = [] if self.port is None else ["--port", str(self.port)]
        with self.log.open("ab") as out:
            self._log_offset = out.tell()
            self.started = time.time()
            self._process = subprocess.Popen(
                attached(self.module, *self.arguments, *listens),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C in a terminal is ours to pass on, in order
            )

    def check_ready(self) -> bool:
        """Whether it has come up.

        Raises:
            ServiceError: it has ended instead.
        """
        if not self.alive:
            raise ServiceError(f"{self.name} did not start: {self.last_words()}")
        if self.port is not None and self.url is None:
            said = re.search(rf"^{self.name}: (http://\S+:(\d+))$", self._new_log(), re.M)
            if said is None:
                return False
            self.url, self.port = said[1], int(said[2])
        return self.is_ready()

    def keep(self, say: Say) -> None:
        """Start it again if it died and its time has come.

        Raises:
            ServiceError: it has died too often.
        """
        if self.alive:
            return
        if self._next_start is None:
            self._next_start = time.monotonic() + self._delay(say)
        elif time.monotonic() >= self._next_start:
            self.start()

    def _delay(self, say: Say) -> float:
        """Seconds until the next start of a part that has just died."""
        if time.time() - self.started > STEADY_SECONDS:
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
        """TERM, grace, KILL; whatever is left of its process group goes with it."""
        if self._process is None:
            return
        if self.alive:
            self._process.terminate()
        limit = time.monotonic() + self.grace
        while self.alive and time.monotonic() < limit and not hurry():
            time.sleep(_POLL_SECONDS / 4)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """How it ended and the last lines of its log."""
        code = self._process.poll() if self._process else None
        lines = [line for line in self._new_log().splitlines() if line.strip()][-_LOG_LINES:]
        how = "running" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        return "\n".join([f"{how}; log: {self.log}", *lines])

    def _new_log(self) -> str:
        """What it has written since its last start, of a long log the end."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset, size - _TAIL_BYTES))
            return log.read().decode(errors="replace")


class AskedToStop(BaseException):
    """Somebody asked for the end: Ctrl-C or SIGTERM. No Exception, so that nobody swallows it."""


@dataclass
class Supervisor:
    """The parts, in the order in which they were started.

    Use as a context manager: whatever happens, its end ends the parts, the last one first.
    """

    say: Say
    parts: list[Part] = field(default_factory=list)
    _asked: bool = False
    _hurry: bool = False

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self.parts):
            part.end(lambda: self._hurry)

    def start(self, *parts: Part) -> None:
        """Start parts at the same time and return when all have come up.

        Raises:
            ServiceError: one did not.
        """
        for part in parts:
            self.parts.append(part)
            part.start()
        limit = time.monotonic() + START_SECONDS
        waiting = list(parts)
        while waiting := [part for part in waiting if not part.check_ready()]:
            if time.monotonic() > limit:
                raise ServiceError(
                    f"{waiting[0].name} did not come up within {START_SECONDS:g} s: "
                    f"{waiting[0].last_words()}"
                )
            time.sleep(_POLL_SECONDS)

    def end(self, *parts: Part) -> None:
        """End these parts now, in this order; those that were never started as well."""
        for part in parts:
            part.end(lambda: self._hurry)
        self.parts = [part for part in self.parts if part not in parts]

    def watch(self) -> None:
        """Keep all parts running until a signal comes.

        Raises:
            ServiceError: a part dies again and again.
            Stopped: Ctrl-C or SIGTERM.
        """
        while True:
            for part in self.parts:
                part.keep(self.say)
            time.sleep(_POLL_SECONDS)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM raise Stopped, once; from then on they mean: do not wait."""

        def asked(number: int, _: FrameType | None) -> None:
            if self._asked:
                self._hurry = True
                return
            self._asked = True
            raise AskedToStop(signal.Signals(number).name)

        before = {n: signal.signal(n, asked) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
