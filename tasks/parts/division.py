"""Divides a job between machines that share no disk, in a thread beside the work.

On one disk the children themselves decide who makes what, by locks on the bytes of `claims.lock`.
A child has no network. So here the flow's process holds the locks of everything that is not for its
child: it claims a share in the store and lets go of those locks, and the child takes what is free.
The next share is claimed when the child has begun the last segment of the one before.

The job's own run brings what others have made, where its child and its tasks find it as if it had
been made here. A store that is away for longer than a lease holds it up no longer: it then takes
what it needs without asking. What two machines make at once has the same bytes.
"""

import re
import time
from collections.abc import Callable, Iterable

from seedvr2_core.errors import StorageError
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims, share_of
from seedvr2_core.planning.outline import PlanOutline
from tasks.store import JobCopy
from tasks.store.claims import Division, StoreClaims
from tasks.store.keeper import Background

LOOK_SECONDS = 5.0
"""Time between two looks at what others have finished, if nothing is to be claimed before."""
_IDLE_SECONDS = 2.0
"""The same while the child has nothing to do and nothing is free."""
_COUNT_SECONDS = 60.0
"""Time between two looks at what helpers have spent."""
_SPENT = re.compile(r"spent-([1-9][0-9]{0,5})\.json")
_MOST_LOST = 8
"""Claims of others that are looked at in one round, when there is nothing else to take."""


class Divider(Background):
    """Claims segments for the child of this process."""

    def __init__(
        self,
        claims: StoreClaims,
        copy: JobCopy,
        job_dir: JobDir,
        plan: PlanOutline,
        *,
        workers: int,
    ) -> None:
        """Hold all segments that are not finished here, so that a child finds none yet.

        Args:
            claims: of this process, in the store.
            copy: of the job.
            job_dir: where its child works.
            plan: of the job.
            workers: by how many runs it is shared at most.
        """
        super().__init__("shares")
        self._claims, self._copy, self._job_dir, self._plan = claims, copy, job_dir, plan
        self._workers = workers
        self._locks = Claims(job_dir)
        self._ours: set[int] = set()
        """Segments that are claimed for our child."""
        self._latest = Division(
            finished=frozenset(), claimed=frozenset(), wanted=True, ended=False, notes=()
        )
        self._looked_at, self._signed_at = -LOOK_SECONDS, float("-inf")
        self._answered_at = time.monotonic()
        self._pause, self._judged_at = 0.0, 0.0
        for index in self._open():
            self._locks.take(index)

    @property
    def taken(self) -> set[int]:
        """Segments that are finished or that somebody makes, as far as it is known."""
        return set(self._latest.finished | self._latest.claimed) | self._ours

    def stop(self) -> None:
        """End the thread, give up what was not made, and let go of all locks."""
        super().stop()
        if not self._thread.is_alive():  # else a store that is slow ends with this process
            self._locks.close()

    def _look(self) -> None:
        """One round; raises StorageError."""
        if self._ended.is_set():
            self._leave()
            return
        try:
            self._round()
        except StorageError:
            if time.monotonic() - self._answered_at > self._claims.seconds and self._is_short():
                self._go_on_alone()
            raise
        self._answered_at = time.monotonic()

    def _round(self) -> None:
        if time.monotonic() - self._signed_at >= self._claims.sign_seconds:
            self._claims.sign()
            self._signed_at = time.monotonic()
        pause = self._pause if self._is_short() else LOOK_SECONDS
        if time.monotonic() - self._looked_at < pause:
            return
        self._latest = self._claims.look()
        self._looked_at = time.monotonic()
        self._see(self._latest)
        if self._is_short():
            claimed = self._claimed_now()
            self._let_go(claimed)
            self._pause = 0.0 if claimed else _IDLE_SECONDS

    def _see(self, now: Division) -> None:
        """What else follows from a look."""

    def _is_short(self) -> bool:
        """Whether the child has begun the last segment that is claimed for it."""
        unfinished = [index for index in self._ours if not self._is_here(index)]
        begun = self._locks.taken_by_others(unfinished)
        return len(begun) == len(unfinished) <= 1

    def _claimed_now(self) -> list[int]:
        """Claim the next share; if nothing is free, what somebody has claimed who is gone."""
        now, claimed = self._latest, list[int]()
        open_ = [index for index in self._open() if index not in now.finished | self._ours]
        free = [index for index in open_ if index not in now.claimed]
        for index in share_of(self._plan, free, workers=self._workers):
            if not self._claims.take(index):
                break
            claimed.append(index)
        if claimed or free or time.monotonic() - self._judged_at < self._claims.sign_seconds:
            return claimed
        self._judged_at = time.monotonic()
        for index in open_[:_MOST_LOST]:
            if self._claims.take_over(index):
                return [index]
        return []

    def _go_on_alone(self) -> None:
        """Take the next share without asking the store."""
        open_ = [index for index in self._open() if index not in self._ours]
        free = [index for index in open_ if index not in self.taken]
        self._let_go(share_of(self._plan, free or open_, workers=self._workers))

    def _let_go(self, indices: Iterable[int]) -> None:
        """Let the child have these segments."""
        self._ours |= set(indices)
        self._locks.release(indices)

    def _open(self) -> list[int]:
        """Segments that are not finished here."""
        return [s.index for s in self._plan.segments if not self._is_here(s.index)]

    def _is_here(self, index: int) -> bool:
        return self._job_dir.sidecar_path(index).is_file()

    def _leave(self) -> None:
        """Give up what was not made."""
        self._claims.release(index for index in self._ours if not self._is_here(index))
        self._claims.leave()


class JobDivider(Divider):
    """The one of the run at work, which asks for help and brings what others have made."""

    def __init__(
        self,
        claims: StoreClaims,
        copy: JobCopy,
        job_dir: JobDir,
        plan: PlanOutline,
        *,
        workers: int,
        offer: Callable[[], bool],
    ) -> None:
        """As `Divider`; `offer` says in the store that help is wanted, or returns False for now."""
        super().__init__(claims, copy, job_dir, plan, workers=workers)
        self._offer, self._counted_at = offer, 0.0
        self.offered = False
        """Helpers can begin."""

    def _see(self, now: Division) -> None:
        if not (self.offered and now.wanted):
            self.offered = self._offer()
        for index in sorted(now.finished - self._ours):
            if self._is_here(index):
                continue
            if not self._copy.bring_segment(self._job_dir, self._plan, index):
                self._let_go([index])  # the store has lost it, and whoever made it does not know
        if time.monotonic() - self._counted_at >= _COUNT_SECONDS:
            self._bring_spendings(now)

    def _leave(self) -> None:
        self._bring_spendings(self._claims.look())
        super()._leave()

    def _bring_spendings(self, now: Division) -> None:
        """What helpers have spent counts as the job's."""
        self._counted_at = time.monotonic()
        for name in now.notes:
            if found := _SPENT.fullmatch(name):
                self._copy.bring_note(self._job_dir.spent_path_of(int(found[1])))


class HelperDivider(Divider):
    """The one of a helper, which ends when nothing is left to be made, or no help is wanted."""

    def _is_short(self) -> bool:
        return self._job_dir.sharing_path.is_file() and super()._is_short()

    def _go_on_alone(self) -> None:
        """Without the store nobody would get what a helper makes: it waits."""

    def _see(self, now: Division) -> None:
        if not now.wanted or len(now.finished) == len(self._plan.segments):
            self._job_dir.sharing_path.unlink(missing_ok=True)


class Sender(Background):
    """Copies what a helper makes to the store, for as long as the job wants help."""

    def __init__(
        self,
        claims: StoreClaims,
        copy: JobCopy,
        job_dir: JobDir,
        plan: PlanOutline,
        *,
        number: int,
    ) -> None:
        """Start nothing yet.

        Args:
            claims: of this process.
            copy: of the job.
            job_dir: where the helper's child works.
            plan: of the job.
            number: which helper of the job this is.
        """
        super().__init__("segments")
        self._claims, self._copy, self._job_dir, self._plan = claims, copy, job_dir, plan
        self._number = number
        self._num_sent = 0

    def _look(self) -> None:
        made = [s for s in self._plan.segments if self._job_dir.sidecar_path(s.index).is_file()]
        if len(made) == self._num_sent:
            return
        # The objects of a job that has ended are removed: nothing may come after that.
        if not self._claims.look().wanted:
            self._job_dir.sharing_path.unlink(missing_ok=True)
            return
        self._copy.keep_segments(self._job_dir, self._plan, notes=False)
        self._num_sent = len(made)
        if self._claims.look().ended:  # while this was sent
            self._claims.clear()
            return
        spent = self._job_dir.spent_path_of(self._number)
        if spent.is_file():
            self._copy.keep_note(spent)
