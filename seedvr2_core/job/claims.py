"""Who makes which segment, where several processes work on one job.

`claims.lock` in the job's directory has a byte for each segment. Whoever makes a segment holds the
lock on its byte; the kernel lets go of it however its process ends, kill -9 included, and the next
who looks takes the segment. The locks belong to the open file (Linux: open file description locks),
so they hold between hosts wherever the file system passes locks on.
"""

import contextlib
import errno
import fcntl
import math
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from seedvr2_core.errors import DeadlineError, ResourceError
from seedvr2_core.files.durable import make_way
from seedvr2_core.job.job_dir import JobDir
from seedvr2_core.planning.outline import PlanOutline

LEAST_INSIDE_SHOT = 3
"""Fewest segments to take where a shot is divided between two processes: the second one makes two
or three windows before its first segment once more, about as many as one segment has."""
_POLL_SECONDS = 0.25
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_FLOCK = "hhqqi"
"""C's struct flock: type, whence, start, length, process."""


class Claims:
    """The segments that one process has taken, and a look at those of the others."""

    def __init__(self, job_dir: JobDir) -> None:
        """Open the file of claims; it and the directory are made if they do not exist."""
        self._path = job_dir.claims_path
        self._path.parent.mkdir(parents=True, exist_ok=True)
        make_way(self._path)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        os.close(self._handle)

    def take(self, index: int) -> bool:
        """Take a segment; False if another process has it."""
        return self._lock(fcntl.F_WRLCK, index, 1)

    def release(self, indices: Iterable[int]) -> None:
        """Let go of segments."""
        for index in indices:
            self._lock(fcntl.F_UNLCK, index, 1)

    def taken_by_others(self, indices: Iterable[int]) -> set[int]:
        """Those of the segments that another process makes now."""
        return {index for index in indices if self._is_taken(index)}

    def take_all(self) -> bool:
        """Take the whole job; False if another process makes any of its segments."""
        return self._lock(fcntl.F_WRLCK, 0, 0)

    def _lock(self, kind: int, start: int, length: int) -> bool:
        asked = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(self._handle, fcntl.F_OFD_SETLK, asked)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise ResourceError(
                f"the file system of {self._path} has no working locks ({error.strerror}); set "
                "SEEDVR2_WORK_DIR to one that has"
            ) from error
        return True

    def _is_taken(self, index: int) -> bool:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, index, 1, 0)
        told = fcntl.fcntl(self._handle, fcntl.F_OFD_GETLK, asked)
        return struct.unpack(_FLOCK, told)[0] != fcntl.F_UNLCK


@contextlib.contextmanager
def nobody_else(job_dir: JobDir, *, timeout: float, on_wait: Callable[[], None]) -> Iterator[None]:
    """Keep everybody from making segments of a job for the length of a `with` block.

    Args:
        job_dir: of the job.
        timeout: seconds to wait for those who are at work.
        on_wait: called four times a second meanwhile.

    Raises:
        DeadlineError: somebody is still at work.
    """
    with Claims(job_dir) as claims:
        deadline = time.monotonic() + timeout
        while not claims.take_all():
            if time.monotonic() >= deadline:
                raise DeadlineError(
                    f"another process still makes segments in {job_dir.path} after {timeout:g} s; "
                    "wait for it to end or cancel it, then run again"
                )
            on_wait()
            time.sleep(_POLL_SECONDS)
        yield


def share_of(
    plan: PlanOutline,
    free: Sequence[int],
    *,
    workers: int,
    least_inside_shot: int = LEAST_INSIDE_SHOT,
) -> list[int]:
    """The segments that a process takes at once: the first that are free, without a gap.

    Each takes half of its even share of what is left, so that shares become smaller towards the end
    and all are done at about the same time (guided self-scheduling). Shares end at cuts where that
    is near.

    Args:
        plan: of the job.
        free: indices that are neither finished nor taken, rising.
        workers: how many processes the job is shared by; 1: all are taken.
        least_inside_shot: fewest segments to take where the share ends inside a shot.
    """
    if workers <= 1 or not free:
        return list(free)
    wanted = math.ceil(len(free) / (2 * workers))
    share: list[int] = []
    for index in free:
        if share and (index != share[-1] + 1 or _is_enough(plan, share, wanted, least_inside_shot)):
            break
        share.append(index)
    return share


def _is_enough(
    plan: PlanOutline, share: Sequence[int], wanted: int, least_inside_shot: int
) -> bool:
    """Whether a share may end behind its last segment."""
    if len(share) < wanted:
        return False
    if begins_shot(plan, share[-1] + 1):
        return True
    rest = range(share[-1] + 1, share[-1] + 1 + least_inside_shot)
    cut_is_near = any(begins_shot(plan, k) for k in rest)
    return len(share) >= least_inside_shot and not cut_is_near


def begins_shot(plan: PlanOutline, index: int) -> bool:
    """Whether a segment needs nothing of the one before it: engines without latents never do."""
    if plan.memory is None or index >= len(plan.segments):
        return True
    segment = plan.segments[index]
    return segment.shot is None or segment.start == segment.shot[0]
