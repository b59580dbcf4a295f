"""How often the children of a job were ended because they seemed to hang.

A child that is only slow (a swapping machine, a disk that is nearly dead, a GPU that somebody else
uses) would be ended by the same limit on every try, and never finish. So each time the next one may
be silent for twice as long, also in a later run of the job. A child that really hangs costs more
time then, and no more than `MOST` times the limit.
"""

from pathlib import Path

from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir

MOST = 16
"""Largest factor of the limits."""


class Patience:
    """The factor of a job's limits, kept in the job's directory."""

    def __init__(self, job_dir: JobDir, *, fixed: bool) -> None:
        """Read how many children were lost before.

        Args:
            job_dir: of the job, which this run holds.
            fixed: the operator has set the limits; they hold as they are.
        """
        self._path: Path = job_dir.lost_children_path
        self._fixed = fixed
        self._lost = read_record(self._path, int) if self._path.exists() else 0

    @property
    def factor(self) -> int:
        """What the limits are multiplied by."""
        return 1 if self._fixed else min(MOST, 2**self._lost)

    def lost(self) -> None:
        """Note that a child was ended because it seemed to hang."""
        self._lost += 1
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_record(self._path, self._lost)
