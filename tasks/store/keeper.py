"""A thread that copies finished segments to the store and renews the lease, beside the work.

The work never waits for it: a store that is away for minutes delays the copies and fails nothing.
What was not copied when a machine is lost is made again.
"""

import contextvars
import logging
import threading
import time

from seedvr2_core.errors import ResourceError, StorageError
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning.outline import PlanOutline
from tasks.store.job_copy import JobCopy
from tasks.store.lease import RENEWALS, Lease

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks for segments that are finished."""
_AGAIN_SECONDS = 5.0
"""Time before a store that has failed is asked again."""
_END_SECONDS = 20.0
"""Longest time that the end of a run waits for the copies of its last segments."""


class Keeper:
    """Keeps the copy of one job until it is stopped."""

    def __init__(self, copy: JobCopy, lease: Lease, job_dir: JobDir) -> None:
        """Start nothing yet.

        Args:
            copy: where to.
            lease: of the job, which this run holds.
            job_dir: what is copied.
        """
        self._copy, self._lease, self._job_dir = copy, lease, job_dir
        self._plan = read_record(job_dir.outline_path, PlanOutline)
        self._ended = threading.Event()
        self._renewed_at = time.monotonic()
        self._told = False
        """It was said that the lease is lost."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), daemon=True, name="keeper"
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
                    logger.info("the store takes segments again")
                failing = False
            except (StorageError, ResourceError, OSError) as error:
                if not failing:
                    logger.warning("segments are kept here alone for now: %s", error)
                failing = True
            if ended:
                return
            self._ended.wait(_AGAIN_SECONDS if failing else LOOK_SECONDS)

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
