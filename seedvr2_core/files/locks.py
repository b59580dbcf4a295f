"""Locks between processes of one machine or one shared file system (flock).

A lock belongs to the open file, so the kernel releases it however its holder ends, kill -9
included. The lock's file stays when the lock is released. A holder may delete the file (a sweep
does): whoever waited for it then finds that the name is gone or belongs to a new file, and begins
again with the new one.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seedvr2_core.errors import DeadlineError, ResourceError
from seedvr2_core.files.durable import make_way

_POLL_SECONDS = 0.25
"""Time between two attempts to take a lock that another process holds."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What flock answers on file systems that do not have it."""


@contextlib.contextmanager
def hold_lock(
    path: Path,
    *,
    timeout: float,
    on_wait: Callable[[], None],
    while_waiting: Callable[[], None] = lambda: None,
    shared: bool = False,
) -> Iterator[None]:
    """Hold a lock on a file for the length of a `with` block, alone or with others that share it.

    It is not re-entrant: a process that asks twice waits for itself. Processes that are started
    with subprocess do not inherit it.

    Args:
        path: the lock's file; it and its folder are made if they do not exist.
        timeout: seconds to wait for another holder.
        on_wait: called once, when another holder is found.
        while_waiting: called four times a second for as long as another holder has the lock.
        shared: others may hold it too if they share it; nobody holds it alone meanwhile.

    Raises:
        DeadlineError: another holder kept it for longer than `timeout`.
        ResourceError: the file system has no working flock.
    """
    deadline, waited = time.monotonic() + timeout, False
    while True:
        handle = _open(path)
        try:
            if not _try_lock(handle, path, shared=shared):
                if not waited:
                    on_wait()
                waited = True
                while not _try_lock(handle, path, shared=shared):
                    _wait(path, deadline, timeout, while_waiting)
            if _is_named(handle, path):
                yield
                return
        finally:
            os.close(handle)


def has_flock(folder: Path) -> bool:
    """Whether a lock in this folder keeps a second holder out. False if nothing can be written."""
    probe = folder / f".flock-probe-{os.getpid()}"
    try:
        with probe.open("wb") as first, probe.open("wb") as second:
            return _try_lock(first.fileno(), probe) and not _try_lock(second.fileno(), probe)
    except (OSError, ResourceError):
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _open(path: Path) -> int:
    """Open the lock's file; make it and its folder if they do not exist."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path)
        with contextlib.suppress(FileNotFoundError):  # the folder was removed in between
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _is_named(handle: int, path: Path) -> bool:
    """Whether the open file is still the one that others find under the lock's name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _wait(path: Path, deadline: float, timeout: float, while_waiting: Callable[[], None]) -> None:
    """Pause between two attempts. A blocking flock has no timeout and is retried after signals."""
    if time.monotonic() >= deadline:
        raise DeadlineError(
            f"another process still holds {path} after {timeout:g} s; "
            "wait for it to end or cancel it, then run again"
        )
    while_waiting()
    time.sleep(_POLL_SECONDS)


def _try_lock(handle: int, path: Path, *, shared: bool = False) -> bool:
    """Take the lock if it is free; returns whether it was."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise ResourceError(
            f"the file system of {path} has no working flock ({error.strerror}); "
            "set SEEDVR2_WORK_DIR to one that has"
        ) from error
    return True
