"""Which machine makes which segment of a job, where the machines share no disk.

    jobs/<job_key>/claims/00012        created by who makes the segment; says who that is
    jobs/<job_key>/holders/<holder>    rewritten again and again by who has claims

A claim spares work and is not needed for right bytes: two machines that make the same segment make
the same one, and its sidecar is created once. So a holder that has given no sign of life for the
time of a lease loses its claims, by the store's clock alone, and whoever needs one takes it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.net.bucket import Bucket
from tasks.store.lease import RENEWALS

OFFER = "sharing.json"
"""Name of the object by which a job says that it wants help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How a job is divided at a moment."""

    finished: frozenset[int]
    """Segments that are in the store."""
    claimed: frozenset[int]
    """Segments that somebody makes, or has made."""
    wanted: bool
    """The job wants help."""
    ended: bool
    """The job has no objects any more but those that came too late."""
    notes: tuple[str, ...]
    """Names of the small files that are kept with it."""


class StoreClaims:
    """The claims of one process on segments of one job."""

    def __init__(
        self, bucket: Bucket, job_key: str, *, run_id: str, holder: str, seconds: float
    ) -> None:
        """Ask for nothing yet.

        Args:
            bucket: the store.
            job_key: the job.
            run_id: the run of this process.
            holder: names this attempt of the run and no other.
            seconds: after how long without a sign of life a holder's claims count for nothing.
        """
        self.seconds = seconds
        self._bucket = bucket
        self._folder = f"jobs/{job_key}"
        self._run_id, self._holder = run_id, f"{run_id}.{holder}"

    @property
    def sign_seconds(self) -> float:
        """Time between two signs of life."""
        return self.seconds / RENEWALS

    def sign(self) -> None:
        """Give a sign of life; claims count from the first one on."""
        self._bucket.write(self._sign_of(self._holder), b"")

    def look(self) -> Division:
        """How the job is divided now, by one listing of its objects."""
        names = [name.removeprefix(f"{self._folder}/") for name in self._bucket.names(self._folder)]
        return Division(
            finished=_indices(names, "segments/", ".json"),
            claimed=_indices(names, "claims/", ""),
            wanted=OFFER in names,
            ended="plan.json" not in names,
            notes=tuple(name.removeprefix("notes/") for name in names if name.startswith("notes/")),
        )

    def take(self, index: int) -> bool:
        """Claim a segment that nobody has; False if somebody was faster."""
        return self._bucket.create(self._claim(index), self._holder.encode()) is not None

    def take_over(self, index: int) -> bool:
        """Claim a segment whose holder is gone; False if it is there."""
        found = self._bucket.read(self._claim(index))
        if found is None:
            return self.take(index)
        holder = found.content.decode(errors="replace")
        if holder != self._holder and not self._is_gone(holder):
            return False
        content = self._holder.encode()
        return self._bucket.replace(self._claim(index), content, found.tag) is not None

    def release(self, indices: Iterable[int]) -> None:
        """Give up claims on segments that were not made."""
        for index in indices:
            found = self._bucket.read(self._claim(index))
            if found is not None and found.content.decode(errors="replace") == self._holder:
                self._bucket.delete(self._claim(index))

    def clear(self) -> None:
        """Remove what came when the job had ended."""
        self._bucket.delete(*self._bucket.names(self._folder))

    def leave(self) -> None:
        """Give no more signs of life: what is still claimed is free for others at once."""
        self._bucket.delete(self._sign_of(self._holder))

    def _is_gone(self, holder: str) -> bool:
        """Whether a holder has left, was lost, or is an earlier attempt of our own run.

        Whoever starts a run again has made sure that its process is gone.
        """
        if holder.partition(".")[0] == self._run_id:
            return True
        self.sign()
        mine = self._bucket.stat(self._sign_of(self._holder))
        theirs = self._bucket.stat(self._sign_of(holder))
        if mine is None or theirs is None:
            return theirs is None
        return (mine.written_at - theirs.written_at).total_seconds() >= self.seconds

    def _claim(self, index: int) -> str:
        return f"{self._folder}/claims/{index:05d}"

    def _sign_of(self, holder: str) -> str:
        return f"{self._folder}/holders/{holder}"


def _indices(names: Iterable[str], folder: str, ending: str) -> frozenset[int]:
    stems = (name.removeprefix(folder) for name in names if name.startswith(folder))
    plain = (stem.removesuffix(ending) for stem in stems if stem.endswith(ending))
    return frozenset(int(stem) for stem in plain if stem.isdigit())
