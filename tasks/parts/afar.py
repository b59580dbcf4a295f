"""Help from machines that share no disk with the job: everything goes by the object store.

The job's run offers its segments: how they are to be made, and that help is wanted. A helper brings
the plan and the source, works in a folder of its own, and sends what it has made. Who makes which
segment is decided by claims in the store (`division`).

    jobs/<job_key>/sharing.json               while help is wanted: what helpers must know
    jobs/<job_key>/plan.<sha256>.outline.json what flow processes read of the plan with this digest
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from prefect import get_run_logger
from prefect.runtime import flow_run as this_run
from pydantic import TypeAdapter, ValidationError

from seedvr2_core.errors import StorageError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.job import JobDir
from seedvr2_core.job.sharing import Sharing
from seedvr2_core.planning.outline import PlanOutline
from tasks.parts.division import HelperDivider, JobDivider, Sender
from tasks.run import current
from tasks.schemas import PlannedJob
from tasks.settings import Settings, get_settings
from tasks.sources.kept import recall_source
from tasks.store import JobCopy, copy_of
from tasks.store.claims import OFFER, StoreClaims

_SHARING = TypeAdapter(Sharing)


@contextlib.contextmanager
def divided(job: PlannedJob, sharing: Sharing) -> Iterator[JobDivider | None]:
    """Offer the segments of a job to other machines in the `with` block.

    Args:
        job: the job, which this run holds.
        sharing: what helpers must know.

    Yields:
        What divides them; None where there is no store.

    Side effects: objects of the job. When the block has ended or failed, nothing is offered any
        more; a run that is killed or cancelled leaves its offer, as it may come back.
    """
    copy = copy_of(job.job_key, get_settings())
    if copy is None:
        yield None
        return
    job_dir = JobDir(job.job_dir)
    plan = read_record(job_dir.outline_path, PlanOutline)
    divider = JobDivider(
        _claims(copy),
        copy,
        job_dir,
        plan,
        workers=sharing.workers,
        offer=partial(_offer, copy, job_dir, sharing),
    )
    divider.start()
    try:
        yield divider
    finally:
        divider.stop()


def withdraw(job_key: str) -> None:
    """Offer nothing any more, if there is a store; helpers end with the segment at hand."""
    copy = copy_of(job_key, get_settings())
    if copy is not None:
        with _may_fail("helpers end when they see that the job has ended"):
            copy.bucket.delete(f"{copy.folder}/{OFFER}")


@contextlib.contextmanager
def _may_fail(so: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        get_run_logger().warning("%s: %s", so, error)


def _offer(copy: JobCopy, job_dir: JobDir, sharing: Sharing) -> bool:
    """Say that help is wanted, after all that a helper needs is there; False: it is not yet.

    On a GPU the first segment decides which kernels are obeyed from then on.
    """
    if sharing.device != "cpu" and not any(job_dir.segments_path.glob("[0-9]*.json")):
        return False
    if job_dir.kernels_path.is_file():
        copy.keep_note(job_dir.kernels_path)
    digest = hashlib.sha256(job_dir.plan_path.read_bytes()).hexdigest()
    copy.bucket.write(_outline_name(copy, digest), job_dir.outline_path.read_bytes())
    told = replace(sharing, source=Path(sharing.source_name))  # its path is of no use elsewhere
    copy.bucket.write(f"{copy.folder}/{OFFER}", _SHARING.dump_json(told))
    return True


def _outline_name(copy: JobCopy, digest: str) -> str:
    return f"{copy.folder}/plan.{digest}.outline.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A job from another machine, as a helper has it."""

    job_dir: JobDir
    sharing: Sharing


def bring_job(job_key: str, job_id: UUID, settings: Settings) -> Brought | None:
    """Bring what a helper needs of a job; None if no help is wanted (any more).

    Raises:
        StorageError: the store does not answer.
        ResourceError: the disk is full.
    """
    copy = copy_of(job_key, settings)
    assert copy is not None
    sharing = _offered(copy, job_id)
    if sharing is None:
        return None
    job_dir = JobDir(settings.helpers_dir / str(this_run.id))
    if not copy.bring_plan(job_dir):
        return None
    digest = hashlib.sha256(job_dir.plan_path.read_bytes()).hexdigest()
    outline = copy.bucket.read(_outline_name(copy, digest))
    if outline is None:  # the job was started afresh in this moment
        return None
    write_bytes(job_dir.outline_path, outline.content)
    plan = read_record(job_dir.outline_path, PlanOutline)
    job_dir.segments_path.mkdir(exist_ok=True)
    copy.bring_notes(job_dir)
    source = recall_source(
        plan.source_sha256, sharing.source_name, settings, on_bytes=current().still_alive
    )
    if source is None:
        return None
    here = replace(sharing, source=_kept_beside(job_dir, source.path))
    write_record(job_dir.sharing_path, here)
    return Brought(job_dir=job_dir, sharing=here)


def _offered(copy: JobCopy, job_id: UUID) -> Sharing | None:
    found = copy.bucket.read(f"{copy.folder}/{OFFER}")
    try:
        sharing = _SHARING.validate_json(found.content) if found else None
    except ValidationError:
        return None  # of another version
    return sharing if sharing is not None and sharing.run_id == str(job_id) else None


def _kept_beside(job_dir: JobDir, source: Path) -> Path:
    """A second name for the source, so that it stays when the copies here become too many."""
    own = job_dir.path / "source"
    try:
        own.unlink(missing_ok=True)
        os.link(source, own)
    except OSError:  # not on this file system
        return source
    return own


@contextlib.contextmanager
def helping(job: PlannedJob, *, workers: int, number: int) -> Iterator[bool]:
    """Claim segments for a helper's child, and send what it makes, in the `with` block.

    Args:
        job: the job as the helper has it.
        workers: by how many runs it is shared at most.
        number: which helper it is.

    Yields:
        Whether that is so; False where helper and job share a disk.

    Side effects: removes the helper's folder at the end of a block that ends well.
    """
    copy = copy_of(job.job_key, get_settings())
    if copy is None:
        yield False
        return
    job_dir = JobDir(job.job_dir)
    plan = read_record(job_dir.outline_path, PlanOutline)
    claims = _claims(copy)
    divider = HelperDivider(claims, copy, job_dir, plan, workers=workers)
    sender = Sender(claims, copy, job_dir, plan, number=number)
    divider.start()
    sender.start()
    try:
        yield True
    finally:
        sender.stop()
        divider.stop()
    shutil.rmtree(job_dir.path, ignore_errors=True)


def _claims(copy: JobCopy) -> StoreClaims:
    return StoreClaims(
        copy.bucket,
        copy.job_key,
        run_id=str(this_run.id),
        holder=uuid4().hex,
        seconds=get_settings().store_lease_seconds,
    )
