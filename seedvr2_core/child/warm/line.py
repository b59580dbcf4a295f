"""The pipes between a child and a flow process: requests come in, events and log text go out."""

import os
import threading
from queue import SimpleQueue
from typing import TextIO

from seedvr2_core.child.progress import Emitter
from seedvr2_core.files.process import die_with_pipe, live_alone

_GONE_SECONDS = 10.0
"""How long a flow process may take to close its pipes when it has let its child rest."""


class Line:
    """The connection to one flow process. When that one ends, this process does."""

    def __init__(self, requests: TextIO, events: TextIO, life: int | None = None) -> None:
        """Write events from now on, and read requests from `start` on.

        Args:
            requests: a line each.
            events: the same; nothing else is written there.
            life: file descriptor of the pipe by which the kernel ends us with the flow process
                (`die_with_pipe`); None: that process is our parent.
        """
        self.requests: SimpleQueue[str] = SimpleQueue()
        self.emitter = Emitter(events)
        self._from, self._to, self._life = requests, events, life
        self._let_go = False
        self._reader = threading.Thread(target=self._read, daemon=True, name="requests")

    def start(self) -> None:
        """Start the thread that reads. A process that confines itself does so before."""
        self._reader.start()

    def let_go(self) -> None:
        """From now on the end of the flow process is none of ours."""
        self._let_go = True
        live_alone(self._life)

    def close(self) -> bool:
        """Wait until the flow process has closed its end, then close ours; False if it does not.

        Log text and what is printed go nowhere afterwards.
        """
        self._reader.join(timeout=_GONE_SECONDS)
        if self._reader.is_alive():
            return False
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.close(nowhere)
        self._to.close()
        return True

    def _read(self) -> None:
        """Reader thread: the end of the requests means that nobody waits for us any more."""
        for line in self._from:
            self.requests.put(line)
        if not self._let_go:
            os._exit(0)


def own_streams() -> Line:
    """The line to the parent. Whatever prints to stdout goes to the log from now on."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return Line(os.fdopen(0, "r", closefd=False), events)


def new_line(requests: int, events: int, log: int, life: int) -> Line:
    """The line to another flow process, started.

    Args:
        life: as for `Line`.
        requests: file descriptor of a pipe to be read from; it becomes our stdin.
        events: of one to be written to.
        log: of one to be written to; it becomes our stderr and stdout.
    """
    die_with_pipe(life)
    os.dup2(requests, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(requests)
    os.close(log)
    line = Line(os.fdopen(0, "r", closefd=False), os.fdopen(events, "w", buffering=1), life)
    line.start()
    return line
