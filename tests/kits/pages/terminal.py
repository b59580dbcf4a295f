"""A command on a terminal of its own: what it shows there, and what a person types."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.kits.processes import ROOT, environment

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x07\r]")


class Terminal:
    """A running command and the terminal that it was started on."""

    def __init__(self, process: "subprocess.Popen[str]", master: int) -> None:
        self.process, self._master = process, master
        self.raw = ""
        """All that was shown so far, escapes included."""
        self._read = 0

    @property
    def text(self) -> str:
        """All that was shown so far, as text."""
        return _ESCAPES.sub("", self.raw)

    def sees(self, words: str, *, seconds: float = 60.0) -> str:
        """Wait until the words are shown, after those that were waited for before."""
        deadline = time.monotonic() + seconds
        while (at := self.text.find(words, self._read)) < 0:
            assert time.monotonic() < deadline, f"{words!r} is not shown: {self.text}"
            assert self._take(), f"it ended before {words!r}: {self.text}"
        self._read = at + len(words)
        return self.text

    def types(self, line: str) -> None:
        """Type a line and press Enter."""
        os.write(self._master, f"{line}\n".encode())

    def presses(self, key: str) -> None:
        """Press a key; "\\x03" is Ctrl-C."""
        os.write(self._master, key.encode())

    def ends(self, *, seconds: float = 120.0) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + seconds
        while self._take():
            assert time.monotonic() < deadline, f"it does not end: {self.text}"
        return self.process.wait(10)

    def _take(self) -> bool:
        """Read what is there, for half a second at most; False at the end."""
        ready, _, _ = select.select([self._master], [], [], 0.5)
        if not ready:
            return self.process.poll() is None
        try:
            new = os.read(self._master, 65_536)
        except OSError:  # Linux says so when nobody has the other end any more
            return False
        self.raw += new.decode(errors="replace")
        return bool(new)


@contextmanager
def on_terminal(
    command: Sequence[str | Path], *, columns: int = 80, cwd: Path = ROOT, **changes: str
) -> Iterator[Terminal]:
    """Start a command on a new terminal; it is killed at the end of the block if it still runs.

    Args:
        command: what to run.
        columns: of the terminal.
        cwd: folder to start it in.
        changes: environment variables to set.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def own_session() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    kept = {name: v for name, v in environment({}).items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**kept, "TERM": "xterm-256color", **changes},
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        text=True,
        preexec_fn=own_session,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait(10)
        os.close(master)
