"""Exclusive locks between processes of one machine or one shared file system (flock).

A lock belongs to the open file, so the kernel releases it however its holder ends, kill -9
included. The file stays when it is released. Its holder may delete it (a sweep does): whoever
waited for it finds that its name is gone or another file's, and begins again with that one.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seedvr2_core.errors import DeadlineError, ResourceError

_POLL_SECONDS = 0.25
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


@contextlib.contextmanager
def hold_lock(
    path: Path,
    *,
    timeout: float,
    on_wait: Callable[[], None],
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if there is none, for the length of a `with` block.

    Not re-entrant: the same process asking twice waits for itself. Children started with
    subprocess do not inherit it.

    Args:
        path: the lock's file; its folder is made as well.
        timeout: seconds to wait for another holder.
        on_wait: called once, when another holder is found.
        while_waiting: called again and again, four times a second.

    Raises:
        DeadlineError: another holder kept it for longer than `timeout`.
        ResourceError: the file system has no flock.
    """
    deadline, waited = time.monotonic() + timeout, False
    while True:
        handle = _open(path)
        try:
            if not _try_lock(handle, path):
                if not waited:
                    on_wait()
                waited = True
                _wait(handle, path, deadline, timeout, while_waiting)
            if _is_named(handle, path):
                yield
                return
        finally:
            os.close(handle)


def has_flock(folder: Path) -> bool:
    """Whether a lock in this folder keeps a second holder out; False also if it is not writable."""
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
    """The lock's file, made with its folder if need be."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the folder was removed in between
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _is_named(handle: int, path: Path) -> bool:
    """Whether the open file is still the one that others find under the lock's name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _wait(
    handle: int, path: Path, deadline: float, timeout: float, while_waiting: Callable[[], None]
) -> None:
    """Poll for the lock: a blocking flock would be retried after every signal."""
    while not _try_lock(handle, path):
        if time.monotonic() >= deadline:
            raise DeadlineError(
                f"another process still holds {path} after {timeout:g} s; "
                "wait for it to end or cancel it, then run again"
            )
        while_waiting()
        time.sleep(_POLL_SECONDS)


def _try_lock(handle: int, path: Path) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
