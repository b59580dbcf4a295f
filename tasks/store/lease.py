"""Says which run works on a job, where the workers share no lock: an object that is renewed.

It spares work and is not needed for right bytes. Clocks of machines are never compared: who finds a
lease writes an object of its own, and the store's times of both tell how old the lease is.
"""

import json

from tasks.net.bucket import Bucket, Found

RENEWALS = 6
"""How often a lease is renewed before it would end."""


class Lease:
    """The lease of one job."""

    def __init__(
        self, bucket: Bucket, job_key: str, *, run_id: str, label: str, holder: str, seconds: float
    ) -> None:
        """Take nothing yet.

        Args:
            bucket: the store.
            job_key: the job.
            run_id: the run that is to hold it.
            label: the run's name, for people.
            holder: names this attempt of the run and no other.
            seconds: age at which a lease that was not renewed counts for nothing.
        """
        self.seconds = seconds
        self._bucket, self._run_id, self._label = bucket, run_id, label
        self._holder, self._count, self._tag = holder, 0, ""
        self._name = f"jobs/{job_key}/lease.json"
        self._waiting = f"jobs/{job_key}/waiting/{run_id}"
        self.lost = False
        """Another run has taken the job."""

    def take(self) -> str:
        """Take the job, unless another run holds it.

        A lease that an earlier attempt of the same run has left is taken over at once: whoever
        starts a run again has made sure that its process is gone.

        Returns:
            "" if this run holds it now, else the run that does, in words.

        Raises:
            StorageError: the store does not answer.
        """
        while not (tag := self._bucket.create(self._name, self._content())):
            found = self._bucket.read(self._name)
            if found is None:
                continue  # it has just been given back
            if not self._is_of_this_run(found) and self._age_of(found) < self.seconds:
                return _holder_in(found)
            if tag := self._bucket.replace(self._name, self._content(), found.tag):
                break
        self._tag = tag
        self._bucket.delete(self._waiting)
        return ""

    def renew(self) -> None:
        """Say that this run is still at work; notes if another has taken the job.

        Raises:
            StorageError: the store does not answer.
        """
        if self.lost:
            return
        self._count += 1
        # The tag of what we wrote is not known if its answer was lost, or another object took it.
        found = self._bucket.read(self._name) if not self._tag else None
        tag = self._tag or (found.tag if found and self._is_of_this_attempt(found) else "")
        self._tag = (self._bucket.replace(self._name, self._content(), tag) if tag else None) or ""
        if not self._tag:
            found = self._bucket.read(self._name)
            self.lost = found is None or not self._is_of_this_attempt(found)

    def give_back(self) -> None:
        """Let the next run begin at once.

        Raises:
            StorageError: the store does not answer; the lease then ends by its age.
        """
        found = self._bucket.read(self._name)
        if found is not None and self._is_of_this_attempt(found):
            self._bucket.delete(self._name)

    def _content(self) -> bytes:
        told = {
            "run_id": self._run_id,
            "name": self._label,
            "holder": self._holder,
            "renewed": self._count,
        }
        return json.dumps(told).encode()

    def _is_of_this_run(self, found: Found) -> bool:
        return _field(found, "run_id") == self._run_id

    def _is_of_this_attempt(self, found: Found) -> bool:
        return _field(found, "holder") == self._holder

    def _age_of(self, found: Found) -> float:
        """Seconds since a lease was renewed, by the store's clock."""
        self._bucket.write(self._waiting, b"")
        mine = self._bucket.stat(self._waiting)
        return (mine.written_at - found.written_at).total_seconds() if mine else 0.0


def _field(found: Found, name: str) -> str:
    try:
        return str(json.loads(found.content)[name])
    except (ValueError, KeyError, TypeError):
        return ""


def _holder_in(found: Found) -> str:
    """The run that holds a lease, in words."""
    return f"job {_field(found, 'run_id')} ({_field(found, 'name')})"
