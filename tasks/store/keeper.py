"""Threads that copy what is finished to the store beside the work: segments, and masters.

The one for segments also renews the lease. Masters are far larger than segments, so they have a
thread of their own and delay neither. The work never waits for them: a store that is away for
minutes delays the copies and fails nothing. What was not copied when a machine is lost is made
again.
"""

import contextvars
import logging
import threading
import time
from abc import ABC, abstractmethod
from math import inf

from seedvr2_core.errors import ResourceError, SegmentError, StorageError
from seedvr2_core.files import hold_lock, read_record
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import Masters, ready_masters, wanted_masters
from seedvr2_core.planning.outline import PlanOutline
from tasks.store.job_copy import JobCopy
from tasks.store.lease import RENEWALS, Lease
from tasks.store.master_copy import MasterCopy

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks for segments that are finished."""
_AGAIN_SECONDS = 5.0
"""Time before a store that has failed is asked again."""
_END_SECONDS = 20.0
"""Longest time that the end of a run waits for the copies of its last segments."""


class Background(ABC):
    """A thread that copies again and again until it is stopped, and then once more."""

    def __init__(self, what: str) -> None:
        """Start nothing yet; `what` is copied, in words."""
        self._what = what
        self._ended = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), daemon=True, name=f"{what} keeper"
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Copy what is left, if the store takes it soon, and end the thread."""
        self._ended.set()
        self._thread.join(timeout=_END_SECONDS)

    def _work(self) -> None:
        """The thread."""
        failing = False
        while True:
            ended = self._ended.is_set()  # asked before the copy: it is made once more at the end
            try:
                self._look()
                if failing:
                    logger.info("the store takes %s again", self._what)
                failing = False
            except (StorageError, ResourceError, SegmentError, OSError) as error:
                if not failing:
                    logger.warning("%s are kept here alone for now: %s", self._what, error)
                failing = True
            if ended:
                return
            self._ended.wait(_AGAIN_SECONDS if failing else LOOK_SECONDS)

    @abstractmethod
    def _look(self) -> None:
        """Copy what is finished."""


class Keeper(Background):
    """Keeps the copy of one job's segments, and its lease, until it is stopped."""

    def __init__(self, copy: JobCopy, lease: Lease, job_dir: JobDir) -> None:
        """Start nothing yet.

        Args:
            copy: where to.
            lease: of the job, which this run holds.
            job_dir: what is copied.
        """
        super().__init__("segments")
        self._copy, self._lease, self._job_dir = copy, lease, job_dir
        self._plan = read_record(job_dir.outline_path, PlanOutline)
        self._renewed_at = time.monotonic()
        self._told = False
        """It was said that the lease is lost."""

    def _look(self) -> None:
        """Renew the lease when it is time, and copy what is finished."""
        if time.monotonic() - self._renewed_at >= self._lease.seconds / RENEWALS:
            self._lease.renew()
            self._renewed_at = time.monotonic()
            if self._lease.lost and not self._told:
                logger.warning("another run has taken this job; its segments stay here alone now")
                self._told = True
        if not self._lease.lost:
            self._copy.keep_segments(self._job_dir, self._plan)


class MasterKeeper(Background):
    """Keeps the copy of the masters that one job leaves until it is stopped."""

    def __init__(self, copy: JobCopy, job_dir: JobDir) -> None:
        """Start nothing yet.

        Args:
            copy: of the job, whose store is used.
            job_dir: of the job; it says whether masters are kept.
        """
        super().__init__("masters")
        self._job_dir = job_dir
        self._plan = read_record(job_dir.outline_path, PlanOutline)
        self._copy = MasterCopy(copy.bucket, self._plan.pixels_key)

    def _look(self) -> None:
        keep_masters(self._copy, self._job_dir, self._plan)


def keep_masters(
    copy: MasterCopy, job_dir: JobDir, plan: PlanOutline, *, on_bytes: OnBytes = no_bytes
) -> int:
    """Copy the masters that a job has left and the store lacks; how many went.

    The thread of a job and its last step take turns, so that no master is sent twice at once.

    Raises:
        StorageError: the store does not take them now.
    """
    wanted = wanted_masters(job_dir)
    if wanted is None or not wanted.keep or not wanted.folder.is_dir():
        return 0
    masters: Masters = wanted.masters
    lock = masters.path / "store.lock"
    with hold_lock(lock, timeout=inf, on_wait=lambda: None, while_waiting=lambda: on_bytes(0, 0)):
        return copy.keep(masters, ready_masters(masters, plan), on_bytes=on_bytes)
