"""Masters in the object store: what lets a worker that has never seen a film code it again.

    masters/<pixels_key>/00000.<sha256>.mkv   the pictures of a segment; the name has the digest
    masters/<pixels_key>/00000.json           its sidecar, written last: without it there is none
    masters/<pixels_key>/jobs/<job_key>       an empty object for each job that has used them
    masters_of/<job_key>/<pixels_key>         the same, found by the job, written first, gone last

They belong to all jobs with the same pixels, as on disk. Two workers that make the same one write
data of different names, or the same bytes; whichever sidecar is there last names data that is
there. What the store has lost since, for its rules of age, counts as never made.
"""

import logging
from collections.abc import Collection, Iterable

from pydantic import TypeAdapter, ValidationError

from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.files.space import check_room
from seedvr2_core.job.masters import Masters, MasterSidecar, hold_masters
from seedvr2_core.planning.outline import PlanOutline
from tasks.net.bucket import Bucket
from tasks.settings import Settings

logger = logging.getLogger(__name__)

_SIDECAR = TypeAdapter(MasterSidecar)
_FOLDER, _BY_JOB = "masters", "masters_of"


def masters_in_store(pixels_key: str, settings: Settings) -> "MasterCopy | None":
    """The objects of the masters of some pixels; None where there is no store.

    Raises:
        StorageRefusedError: a setting is missing or wrong.
    """
    return MasterCopy(Bucket(settings.store, settings), pixels_key) if settings.store else None


class MasterCopy:
    """The objects of the masters of some pixels."""

    def __init__(self, bucket: Bucket, pixels_key: str) -> None:
        """Ask for nothing yet."""
        self.bucket, self.pixels_key = bucket, pixels_key
        self.folder = f"{_FOLDER}/{pixels_key}"
        self._kept: dict[int, str] = {}
        """Digests of those that are known to be in the store."""

    def indices(self) -> set[int]:
        """Segments that have a sidecar in the store."""
        stems = (name.removeprefix(f"{self.folder}/") for name in self.bucket.names(self.folder))
        return {int(stem[:5]) for stem in stems if stem.endswith(".json") and stem[:5].isdigit()}

    def bring(
        self,
        masters: Masters,
        plan: PlanOutline,
        indices: Iterable[int],
        *,
        on_bytes: OnBytes = no_bytes,
    ) -> int:
        """Take the masters of these segments that the store has; returns how many came.

        Args:
            masters: the folder here, which lacks them.
            plan: of a job with these pixels.
            indices: of the segments.
            on_bytes: called with the bytes done and the bytes in all while a file is read.

        Raises:
            StorageError: the store does not answer, or its bytes have another digest.
            ResourceError: the disk has no room for them.
        """
        found = [sidecar for index in indices if (sidecar := self._sidecar(plan, index))]
        if not found:
            return 0
        masters.path.mkdir(parents=True, exist_ok=True)
        need = sum(sidecar.num_bytes for sidecar in found)
        check_room(masters.path, need, doing="the masters that the store has")
        return sum(self._bring_one(masters, sidecar, on_bytes=on_bytes) for sidecar in found)

    def _sidecar(self, plan: PlanOutline, index: int) -> MasterSidecar | None:
        """The sidecar in the store, if it is of the plan's segment."""
        sidecar = self._read(index)
        segment = plan.segments[index]
        told = sidecar and (sidecar.pixels_key, sidecar.start, sidecar.stop)
        return sidecar if told == (plan.pixels_key, segment.start, segment.stop) else None

    def _read(self, index: int) -> MasterSidecar | None:
        found = self.bucket.read(self._sidecar_name(index))
        try:
            return _SIDECAR.validate_json(found.content) if found else None
        except ValidationError:
            logger.warning("the sidecar of master %d in the store cannot be read", index)
            return None

    def _bring_one(self, masters: Masters, sidecar: MasterSidecar, *, on_bytes: OnBytes) -> bool:
        index = sidecar.index
        path = masters.video_path(index)
        if not self.bucket.get_file(
            self._data_name(sidecar), path, sha256=sidecar.sha256, on_bytes=on_bytes
        ):
            logger.warning("the store has lost the master of segment %d", index)
            self.bucket.delete(self._sidecar_name(index))
            return False
        with hold_masters(masters.lock_path):
            write_bytes(masters.sidecar_path(index), _SIDECAR.dump_json(sidecar))
        self._kept[index] = sidecar.sha256
        return True

    def keep(
        self, masters: Masters, indices: Collection[int], *, on_bytes: OnBytes = no_bytes
    ) -> int:
        """Copy the masters of these segments that are here and not in the store; how many went.

        Raises:
            StorageError: the store does not take them now.
        """
        sent = 0
        for index in indices:
            path = masters.sidecar_path(index)
            if not path.is_file():
                continue
            content = path.read_bytes()
            sidecar = _SIDECAR.validate_json(content)
            if self._kept.get(index) == sidecar.sha256:
                continue
            there = self.bucket.read(self._sidecar_name(index))
            if there is None or there.content != content:
                self._send(masters, sidecar, content, on_bytes=on_bytes)
                sent += 1
            self._kept[index] = sidecar.sha256
        return sent

    def _send(
        self, masters: Masters, sidecar: MasterSidecar, content: bytes, *, on_bytes: OnBytes
    ) -> None:
        """Copy the pictures, which have one content by their name, and then the sidecar."""
        name = self._data_name(sidecar)
        if self.bucket.stat(name) is None:
            path = masters.video_path(sidecar.index)
            self.bucket.put_file(path, name, sha256=sidecar.sha256, on_bytes=on_bytes)
        self.bucket.write(self._sidecar_name(sidecar.index), content)

    def mark(self, job_key: str) -> None:
        """Note that a job uses them."""
        self.bucket.write(f"{_BY_JOB}/{job_key}/{self.pixels_key}", b"")
        self.bucket.write(f"{self.folder}/jobs/{job_key}", b"")

    def release(self, job_key: str) -> bool:
        """Remove a job's mark, and all masters if no other job has one; whether they are gone.

        The sidecars go first, so that nobody finds one whose pictures are gone. The job's own list
        goes last, so that whoever is ended before finds them once more.
        """
        self.bucket.delete(f"{self.folder}/jobs/{job_key}")
        names = self.bucket.names(self.folder)
        unused = not any(name.startswith(f"{self.folder}/jobs/") for name in names)
        if unused:
            self.bucket.delete(*sorted(names, key=lambda name: not name.endswith(".json")))
        self.bucket.delete(f"{_BY_JOB}/{job_key}/{self.pixels_key}")
        return unused and bool(names)

    def _sidecar_name(self, index: int) -> str:
        return f"{self.folder}/{index:05d}.json"

    def _data_name(self, sidecar: MasterSidecar) -> str:
        return f"{self.folder}/{sidecar.index:05d}.{sidecar.sha256}.mkv"


def release_in_store(settings: Settings, job_key: str) -> bool:
    """Remove a job's marks on masters in the store; whether masters that no other job has used are
    gone with them. Only what the job has used is listed, however many masters the store has.

    Raises:
        StorageError: the store does not answer.
    """
    if not settings.store:
        return False
    bucket = Bucket(settings.store, settings)
    own = f"{_BY_JOB}/{job_key}"
    used = [name.removeprefix(f"{own}/") for name in bucket.names(own)]
    gone = [MasterCopy(bucket, pixels_key).release(job_key) for pixels_key in used]
    return any(gone)
