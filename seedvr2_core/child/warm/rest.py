"""The child's side of a rest: it waits at its seat for the next job, and for reasons to end.

It ends when its time is up, when its worker does, when another process wants the GPU, when the next
job wants another engine, and when one of its files is gone: without the socket nobody could ask it
to end, and beside a new lock file another process would take the GPU as well.
"""

import contextlib
import json
import logging
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedvr2_core.child.messages.life import Rest, Resting
from seedvr2_core.child.warm.kept import Kept
from seedvr2_core.child.warm.line import Line, new_line
from seedvr2_core.child.warm.seat import MAX_LINE, make_private, peer_of, short_path
from seedvr2_core.errors import DeadlineError, ResourceError
from seedvr2_core.files import hold_lock

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks whether everything is still there."""
_QUESTION_SECONDS = 0.5
"""How long who has connected may take to ask, so that the next one has its answer in time."""
_PIPES = 4
"""Of a new flow process: requests, events, log, and one by which the kernel ends us with it."""


def rest(request: Rest, line: Line, kept: Kept) -> Line | None:
    """Wait for the next job.

    Args:
        request: what the flow process asks for.
        line: to that process, which is closed if it is granted.
        kept: engine and locks.

    Returns:
        The line to the next flow process; the old one where the rest is refused; None if this
        process is to end.
    """
    kept.tidy()
    with contextlib.ExitStack() as stack:
        try:
            seat = stack.enter_context(WaitingPlace.taken(request, kept))
        except (OSError, ResourceError, DeadlineError) as error:
            line.emitter.emit(Resting(refused=f"the engine is not kept loaded: {error}"))
            return line
        os.chdir("/")
        line.let_go()
        line.emitter.emit(Resting(refused=""))
        if not line.close():
            return None
        pipes = seat.wait()
    if pipes is None:
        return None
    return new_line(*pipes)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPlace:
    """The place where this process waits."""

    request: Rest
    kept: Kept
    listener: socket.socket
    keeper: int
    """File descriptor that becomes readable when the worker ends."""
    inode: tuple[int, int]
    """Of the socket."""
    until: float
    """When it ends, in monotonic seconds."""

    @classmethod
    @contextlib.contextmanager
    def taken(cls, request: Rest, kept: Kept) -> "Iterator[WaitingPlace]":
        """Sit down, if nobody else sits there.

        Raises:
            DeadlineError: somebody does.
            ResourceError: there is no engine to keep, or something of the job is still open.
            OSError: the worker has ended, the disk is full, or there are no sockets here.
        """
        if not kept.engine:
            raise ResourceError("its weights do not stay on the device")
        if left := _open_below(kept.files):
            raise ResourceError(f"{left} of the job is still open")
        path = request.seat.with_suffix(".sock")
        make_private(path.parent)
        lock = request.seat.with_suffix(".lock")
        with (
            _pidfd(request.keeper) as keeper,
            hold_lock(lock, timeout=0, on_wait=lambda: None),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        ):
            path.unlink(missing_ok=True)  # of one that was killed: the lock is ours
            with short_path(path) as name:
                listener.bind(name)
            listener.listen(8)
            inode = _inode(path)
            try:
                yield cls(
                    request=request,
                    kept=kept,
                    listener=listener,
                    keeper=keeper,
                    inode=inode,
                    until=time.monotonic() + request.seconds,
                )
            finally:
                with contextlib.suppress(FileNotFoundError):
                    if _inode(path) == inode:
                        path.unlink()

    def wait(self) -> list[int] | None:
        """Answer questions until one is the next job's; returns its pipes, or None: to end."""
        while (left := self.until - time.monotonic()) > 0 and self._all_there():
            waiting = [self.listener, self.keeper]
            ready, _, _ = select.select(waiting, [], [], min(left, LOOK_SECONDS))
            if self.keeper in ready:
                return None
            if self.listener in ready:
                connection, _ = self.listener.accept()
                with connection:
                    ended, pipes = self._answer(connection)
                if ended:
                    return pipes
        return None

    def _all_there(self) -> bool:
        """Whether socket and locks still have their names."""
        named = {self.request.seat.with_suffix(".sock"): self.inode, **self.kept.locks}
        try:
            return all(_inode(path) == inode for path, inode in named.items())
        except FileNotFoundError:
            return False

    def _answer(self, connection: socket.socket) -> tuple[bool, list[int] | None]:
        """Answer one question. Returns whether the rest is over, and the pipes of the next job."""
        connection.settimeout(_QUESTION_SECONDS)
        pipes: list[int] = []
        ended, taken = False, False
        # Whoever goes away in the middle, or is another user, changes nothing.
        with contextlib.suppress(OSError, ValueError, RecursionError):
            peer_of(connection)
            heard, pipes, _, _ = socket.recv_fds(connection, MAX_LINE, _PIPES)
            question = json.loads(heard)
            ended, answer = self._answer_to(question if isinstance(question, dict) else {}, pipes)
            connection.sendall(json.dumps(answer).encode() + b"\n")
            taken = bool(answer.get("taken"))
        if taken:
            return True, pipes
        for pipe in pipes:
            os.close(pipe)
        return ended, None

    def _answer_to(
        self, question: dict[str, Any], pipes: list[int]
    ) -> tuple[bool, dict[str, object]]:
        """Whether the rest is over, and what to say."""
        match question.get("ask"):
            case "attach":
                fits = question.get("terms") == self.request.terms and len(pipes) == _PIPES
                return True, {"taken": fits}
            case "yield":
                lock = question.get("lock")
                ends = not lock or lock in {path.name for path in self.kept.locks}
                return ends, {"ends": ends}
            case "tell":
                return False, {
                    "pid": os.getpid(),
                    "engine": self.kept.engine,
                    "device": self.kept.device,
                    "seconds_left": round(self.until - time.monotonic(), 1),
                    "device_bytes": self.kept.device_bytes(),
                    "host_bytes": _resident_bytes(),
                }
            case _:
                return False, {}


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _open_below(places: tuple[Path, ...]) -> str:
    """A file that this process has open and that is one of these or lies below one; "" if none."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            path = Path(os.readlink(entry))
            if any(path.is_relative_to(place) for place in places):
                return str(path)
    return ""


def _resident_bytes() -> int:
    """Memory of the host that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
