"""A job's objects in the store: what is copied there, in which order, and what is taken from there.

The order is that of a commit on disk: the data first, then the sidecar. What is taken is compared
with its digest, and its sidecar is written here last, so a job directory that was filled from the
store is one like any other.
"""

import logging
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seedvr2_core.files import read_record
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.job import JobDir
from seedvr2_core.job.sidecar import Sidecar, leaves_latents, plan_digest, read_segment
from seedvr2_core.planning.outline import PlanOutline
from tasks.net.bucket import Bucket
from tasks.settings import Settings

logger = logging.getLogger(__name__)

_SIDECAR = TypeAdapter(Sidecar)


def copy_of(job_key: str, settings: Settings) -> "JobCopy | None":
    """The objects of a job; None where there is no store.

    Raises:
        StorageRefusedError: a setting is missing or wrong.
    """
    return JobCopy(Bucket(settings.store, settings), job_key) if settings.store else None


class JobCopy:
    """The objects of one job."""

    def __init__(self, bucket: Bucket, job_key: str) -> None:
        """Ask for nothing yet."""
        self.bucket, self.job_key = bucket, job_key
        self.folder = f"jobs/{job_key}"
        self._kept: set[int] = set()
        """Segments that are known to be in the store."""
        self._noted: dict[str, bytes] = {}
        """Small files as they were copied last."""

    def bring_plan(self, job_dir: JobDir) -> bool:
        """Give the job's directory the plan of the store, whatever it had; False if there is none.

        Side effects: `plan.json`. Its outline is made anew by who obeys it.
        """
        found = self.bucket.read(f"{self.folder}/plan.json")
        if found is None:
            return False
        if not job_dir.plan_path.is_file() or job_dir.plan_path.read_bytes() != found.content:
            job_dir.path.mkdir(parents=True, exist_ok=True)
            write_bytes(job_dir.plan_path, found.content)
        return True

    def keep_plan(self, job_dir: JobDir) -> bool:
        """Copy the plan; False if another worker has planned the job first."""
        content = job_dir.plan_path.read_bytes()
        return self.bucket.create(f"{self.folder}/plan.json", content) is not None

    def replace_plan(self, job_dir: JobDir) -> None:
        """Copy the plan that is obeyed here over one that nobody can obey; the same stays."""
        self.bucket.write(f"{self.folder}/plan.json", job_dir.plan_path.read_bytes())

    def begin_afresh(self, job_dir: JobDir) -> None:
        """Forget what earlier runs have left, and copy the new plan and who has made it.

        The caller holds the job. The plan is replaced before the marker is written, so a run that
        is killed in between starts afresh once more.
        """
        self.bucket.delete(f"results/{self.job_key}.json", *self._segment_names())
        self.bucket.write(f"{self.folder}/plan.json", job_dir.plan_path.read_bytes())
        self.bucket.write(f"{self.folder}/fresh.run", job_dir.fresh_run_path.read_bytes())

    def bring_marker(self, job_dir: JobDir) -> None:
        """Learn which run has started the job afresh: its own retries do not do so again."""
        if found := self.bucket.read(f"{self.folder}/fresh.run"):
            job_dir.path.mkdir(parents=True, exist_ok=True)
            write_bytes(job_dir.fresh_run_path, found.content)

    def bring_result(self, job_dir: JobDir) -> None:
        """Take what a run on another machine has answered, unless there is an answer here."""
        if job_dir.result_path.exists():
            return
        if found := self.bucket.read(f"results/{self.job_key}.json"):
            write_bytes(job_dir.result_path, found.content)

    def bring_segments(self, job_dir: JobDir, *, on_bytes: OnBytes = no_bytes) -> int:
        """Take the finished segments that fit the plan and are not here; returns their number.

        `on_bytes` is called with the bytes done and the bytes in all while a file is hashed or
        read: for a large job that takes minutes.

        Raises:
            StorageError: the store does not answer, or its bytes have another digest.
            ResourceError: the disk is full.
        """
        plan = read_record(job_dir.outline_path, PlanOutline)
        job_dir.segments_path.mkdir(parents=True, exist_ok=True)
        self.bring_notes(job_dir)
        there = set(self._segment_names())
        brought = 0
        for segment in plan.segments:
            if self._sidecar_name(job_dir, segment.index) not in there:
                continue
            here = read_segment(job_dir, plan, segment, on_bytes=on_bytes) is not None
            if here or self.bring_segment(job_dir, plan, segment.index, on_bytes=on_bytes):
                self._kept.add(segment.index)
                brought += not here
        return brought

    def bring_segment(
        self, job_dir: JobDir, plan: PlanOutline, index: int, *, on_bytes: OnBytes = no_bytes
    ) -> bool:
        """Take one finished segment, if it fits the plan; raises as `bring_segments`."""
        name = self._sidecar_name(job_dir, index)
        found = self.bucket.read(name)
        sidecar = _read_sidecar(found.content) if found else None
        if found is None or sidecar is None:
            return False
        if (sidecar.job_key, sidecar.plan_sha256) != (plan.job_key, plan_digest(plan)):
            logger.warning("segment %d in the store is of another plan", index)
            return False
        for path, sha256 in _files_of(job_dir, sidecar):
            there = self._data_name(path, sha256)
            if not self.bucket.get_file(there, path, sha256=sha256, on_bytes=on_bytes):
                logger.warning("segment %d is redone: the store has lost %s", index, path.name)
                self.bucket.delete(name)
                return False
        write_bytes(job_dir.sidecar_path(index), found.content)
        return True

    def keep_segments(self, job_dir: JobDir, plan: PlanOutline, *, notes: bool = True) -> int:
        """Copy the finished segments that the store does not have; returns their number.

        `notes`: also what later runs of the job count on; a helper leaves those to the job.

        Raises:
            StorageError: the store does not take them now.
        """
        kept = 0
        for segment in plan.segments:
            path = job_dir.sidecar_path(segment.index)
            if segment.index in self._kept or not path.is_file():
                continue
            content = path.read_bytes()
            sidecar = _read_sidecar(content)
            if sidecar is None or sidecar.plan_sha256 != plan_digest(plan):
                continue
            needs_latents = leaves_latents(plan, segment) and not sidecar.from_master
            if needs_latents and not sidecar.latents_sha256:
                continue
            self._keep_segment(job_dir, sidecar, content)
            self._kept.add(segment.index)
            kept += 1
        if notes:
            self._keep_notes(job_dir)
        return kept

    def _keep_segment(self, job_dir: JobDir, sidecar: Sidecar, content: bytes) -> None:
        """Copy the data, which has one content by its name, and then the sidecar."""
        for path, sha256 in _files_of(job_dir, sidecar):
            name = self._data_name(path, sha256)
            if self.bucket.stat(name) is None:
                self.bucket.put_file(path, name, sha256=sha256)
        name = self._sidecar_name(job_dir, sidecar.index)
        if self.bucket.create(name, content) is not None:
            return
        found = self.bucket.read(name)
        theirs = _read_sidecar(found.content) if found else None
        if theirs is None or theirs.plan_sha256 != sidecar.plan_sha256:
            self.bucket.write(name, content)  # of a plan that is not the job's any more

    def _sidecar_name(self, job_dir: JobDir, index: int) -> str:
        return f"{self.folder}/segments/{job_dir.sidecar_path(index).name}"

    def _data_name(self, path: Path, sha256: str) -> str:
        return f"{self.folder}/segments/{path.stem}.{sha256}{path.suffix}"

    def _segment_names(self) -> list[str]:
        return self.bucket.names(f"{self.folder}/segments")

    def _keep_notes(self, job_dir: JobDir) -> None:
        """Copy the small files that a later run obeys or counts on."""
        for path in _notes_of(job_dir):
            if path.is_file():
                self.keep_note(path)

    def bring_notes(self, job_dir: JobDir) -> None:
        """Take the small files that are not here."""
        for path in _notes_of(job_dir):
            found = None if path.exists() else self.bucket.read(f"{self.folder}/notes/{path.name}")
            if found is not None:
                write_bytes(path, found.content)

    def keep_note(self, path: Path) -> None:
        """Copy a small file of the job's, if it has changed."""
        if (content := path.read_bytes()) != self._noted.get(path.name):
            self.bucket.write(f"{self.folder}/notes/{path.name}", content)
            self._noted[path.name] = content

    def bring_note(self, path: Path) -> None:
        """Take a small file of the job's over the one that is here."""
        if found := self.bucket.read(f"{self.folder}/notes/{path.name}"):
            write_bytes(path, found.content)

    def finish(self, job_dir: JobDir) -> None:
        """Copy the result and remove the objects that it was made of; the source stays."""
        self.bucket.write(f"results/{self.job_key}.json", job_dir.result_path.read_bytes())
        lease = f"{self.folder}/lease.json"
        self.bucket.delete(*(n for n in self.bucket.names(self.folder) if n != lease))


def _files_of(job_dir: JobDir, sidecar: Sidecar) -> list[tuple[Path, str]]:
    """The files of a segment, each with its digest."""
    files = [(job_dir.video_path(sidecar.index), sidecar.sha256)]
    if sidecar.latents_sha256:
        files.insert(0, (job_dir.latents_path(sidecar.index), sidecar.latents_sha256))
    return files


def _notes_of(job_dir: JobDir) -> list[Path]:
    """Kernels that are obeyed, what the job has spent, patience with children, what was shown."""
    return [
        job_dir.kernels_path,
        job_dir.spent_path,
        job_dir.lost_children_path,
        job_dir.previewed_path,
    ]


def _read_sidecar(content: bytes) -> Sidecar | None:
    """A sidecar; None if it is none that can be read."""
    try:
        return _SIDECAR.validate_json(content)
    except ValidationError:
        return None
