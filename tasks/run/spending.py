"""What a job spends, and what its caller lets it spend.

A job spends the seconds for which its child processes hold the device: waiting for a device costs
nothing. They are kept in the job's directory, so that a job which was stopped goes on counting when
it is taken up again.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import BudgetError, InvalidRequestError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from tasks.schemas import PlannedJob
from tasks.settings import Settings

logger = logging.getLogger(__name__)

SAVE_SECONDS = 10.0
"""Longest time that a killed process leaves uncounted."""


def price_of(seconds: float, settings: Settings) -> float | None:
    """What so many seconds cost, in the currency of SEEDVR2_HOUR_PRICE; None if that is unset."""
    return None if settings.hour_price is None else seconds / 3600 * settings.hour_price


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What is kept of a job's spending."""

    device_seconds: float = 0.0


def hand_on(source: JobDir, target: JobDir) -> None:
    """Count what was spent in one directory to another one, where the work goes on."""
    both = [read_record(path, Spent) for path in _spent_paths(source, target)]
    target.spent_path.parent.mkdir(parents=True, exist_ok=True)
    write_record(target.spent_path, Spent(device_seconds=sum(one.device_seconds for one in both)))
    source.spent_path.unlink(missing_ok=True)


def _spent_paths(*job_dirs: JobDir) -> list[Path]:
    return [job_dir.spent_path for job_dir in job_dirs if job_dir.spent_path.is_file()]


class Purse:
    """The spending of one job. Times are those of `clock`."""

    def __init__(
        self,
        job: PlannedJob,
        settings: Settings,
        *,
        clock: Callable[[], float],
        helper: int = 0,
    ) -> None:
        """Read what earlier runs have spent.

        Args:
            job: the job.
            settings: of this machine.
            clock: tells the time.
            helper: number of the helper whose spending this is; each keeps its own. 0: the run's
                own, which adds that of its helpers.

        Raises:
            InvalidRequestError: the caller sets a price, and nobody has said what an hour costs.
        """
        self._job, self._settings, self._clock = job, settings, clock
        self._job_dir, self._helper = JobDir(job.job_dir), helper
        self._path = self._job_dir.spent_path_of(helper)
        kept = read_record(self._path, Spent) if self._path.exists() else Spent()
        self._before, self._of_helpers = kept.device_seconds, self._read_helpers()
        self._since: float | None = None
        self._saved_at = clock()
        self.limit = limit_seconds(job.max_seconds, job.max_price, settings)
        """Seconds that the job may hold its device in all; infinite without a limit."""

    @property
    def seconds(self) -> float:
        """Seconds for which the job has held its device, in all of its runs."""
        return self._own + self._of_helpers

    @property
    def _own(self) -> float:
        """The same without what helpers have."""
        return self._before + (0.0 if self._since is None else self._clock() - self._since)

    def _read_helpers(self) -> float:
        """What the helpers have written down so far."""
        paths = [] if self._helper else self._job_dir.spent_paths_of_helpers()
        return sum(read_record(path, Spent).device_seconds for path in paths)

    @property
    def gpu_seconds(self) -> float | None:
        """The same if the device is a GPU; None on a CPU."""
        return None if self._job.device == "cpu" else round(self.seconds, 1)

    @property
    def cost(self) -> float | None:
        """What these seconds cost; None if nobody has said what an hour costs."""
        cost = price_of(self.seconds, self._settings)
        return None if cost is None else round(cost, 4)

    @property
    def left(self) -> float:
        """Seconds that may still be spent; infinite without a limit."""
        return self.limit - self.seconds

    def hold(self) -> None:
        """The job holds its device from now on."""
        if self._since is None:
            self._since = self._clock()

    def rest(self) -> None:
        """The job does not hold its device any more, or not yet."""
        if self._since is not None:
            self._before, self._since = self._own, None
            self.save()

    def keep(self) -> None:
        """Write down what was spent, now and then."""
        if self._clock() - self._saved_at >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write down what was spent."""
        self._saved_at = self._clock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_record(self._path, Spent(device_seconds=round(self._own, 3)))
        except OSError as error:
            # A full disk ends the job with a sentence of its own, which this must not replace.
            logger.warning("what the job has spent could not be written down: %s", error)
        self._of_helpers = self._read_helpers()

    def check(self, seconds: float, *, doing: str) -> None:
        """Check that work of so many seconds is within the caller's limits.

        Raises:
            BudgetError: it is not, with the numbers.
        """
        if self.seconds + seconds > self.limit:
            spent = f"has spent {self._words(self.seconds)}" if self.seconds else "is new"
            raise BudgetError(
                f"the job {spent}, and {doing} is expected to take {self._words(seconds)}; "
                f"{self._limit_words()}{_ADVICE}"
            )

    def used_up(self, doing: str) -> BudgetError:
        """The error of a job that has spent all it may, while it was `doing` something."""
        return BudgetError(
            f"the job was stopped while {doing}: it has spent {self._words(self.seconds)}, and "
            f"{self._limit_words()}{_ADVICE}"
        )

    def _words(self, seconds: float) -> str:
        cost = price_of(seconds, self._settings)
        return f"{seconds:.0f} s" + ("" if cost is None else f" (price {cost:.2f})")

    def _limit_words(self) -> str:
        """Which limit the caller has set; the tighter one, if there are two."""
        of_price = limit_seconds(None, self._job.max_price, self._settings)
        if self._job.max_price is not None and of_price <= self.limit:
            return f"max_price allows {self._job.max_price:g}"
        return f"max_seconds allows {self._job.max_seconds:g} s"


_ADVICE = "; finished segments are kept: send it again with a larger limit, or none, to go on"


def limit_seconds(max_seconds: float | None, max_price: float | None, settings: Settings) -> float:
    """How long a job may hold its device by its caller's limits; infinite without any.

    Raises:
        InvalidRequestError: there is a limit of the price, and nobody has said what an hour costs.
    """
    limit = math.inf if max_seconds is None else max_seconds
    if max_price is None:
        return limit
    if settings.hour_price is None:
        raise InvalidRequestError(
            f"max_price is {max_price:g}, and nobody has said here what an hour costs "
            "(SEEDVR2_HOUR_PRICE); leave max_price out, or set max_seconds"
        )
    return min(limit, max_price / settings.hour_price * 3600)
