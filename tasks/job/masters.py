"""Masters of a job: which are there, what they take, who uses them, and when they go.

They belong to all jobs with the same pixels, so they lie in a folder of their own and not in that
of a job: they go with the last job that has used them, or when nobody has for SEEDVR2_KEEP_DAYS.
Where there is an object store it has a copy (`tasks.store.master_copy`), from which another worker
takes what it lacks. This module knows nothing of Prefect.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import DeadlineError, StorageError
from seedvr2_core.files import hold_lock, write_record
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.files.space import amount
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import (
    Masters,
    WantedMasters,
    hold_masters,
    masters_bytes,
    ready_masters,
    wanted_masters,
)
from seedvr2_core.job.space import master_bytes
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.timing import job_seconds
from seedvr2_core.words import counted
from tasks.schemas import PlannedJob, UpscaleRequest
from tasks.settings import Settings
from tasks.store.keeper import keep_masters
from tasks.store.master_copy import MasterCopy, masters_in_store, release_in_store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What masters mean for a job that is planned."""

    eta_seconds: float
    num_ready: int = 0
    """Segments that have one."""
    notes: tuple[str, ...] = ()
    """Sentences about what will be, for who only looks at the plan and for the log."""
    lasting_notes: tuple[str, ...] = ()
    """Sentences that hold for the result as well."""


def masters_of(plan: PlanOutline, settings: Settings) -> Masters:
    """The folder of the masters of a job's pixels."""
    return Masters(settings.masters_dir / plan.pixels_key)


def look_at_masters(plan: PlanOutline, request: UpscaleRequest, settings: Settings) -> Outlook:
    """Find out what of a planned job can be coded from masters, here or in the store.

    Only sizes are compared. A store that does not answer now has none.
    """
    masters = masters_of(plan, settings)
    ready = () if request.fresh else ready_masters(masters, plan)
    if not request.fresh and len(ready) < len(plan.segments):
        there = _names_in_store(plan.pixels_key, settings)
        ready = tuple(s.index for s in plan.segments if s.index in there or s.index in ready)
    notes = [
        _ready_told(plan, ready) if ready else "",
        _keep_told(plan, len(ready), settings) if request.keep_master else "",
    ]
    other = "" if ready else _other_depth_told(plan, request, settings)
    return Outlook(
        eta_seconds=_eta(plan, ready),
        num_ready=len(ready),
        notes=tuple(text for text in notes if text),
        lasting_notes=(other,) if other else (),
    )


def _names_in_store(pixels_key: str, settings: Settings) -> set[int]:
    """Segments that have masters in the store; none if it does not answer."""
    try:
        copy = masters_in_store(pixels_key, settings)
        return copy.indices() if copy is not None else set()
    except StorageError as error:
        logger.warning("which masters are in the store is not known: %s", error)
        return set()


def _eta(plan: PlanOutline, ready: tuple[int, ...]) -> float:
    """Predicted seconds of the job, of which some segments are only coded."""
    if plan.frame_seconds is None or not ready:
        return plan.eta_seconds
    coded = _frames(plan, ready)
    if coded == plan.num_frames:  # no engine is loaded either
        return round(job_seconds(plan.frame_seconds, coded, coded=coded), 1)
    saved = job_seconds(plan.frame_seconds, plan.num_frames)
    saved -= job_seconds(plan.frame_seconds, plan.num_frames, coded=coded)
    return round(plan.eta_seconds - saved, 1)


def _frames(plan: PlanOutline, indices: tuple[int, ...]) -> int:
    return sum(plan.segments[index].num_frames for index in indices)


def _ready_told(plan: PlanOutline, ready: tuple[int, ...]) -> str:
    segments = len(plan.segments)
    if len(ready) == segments:
        return "the video is coded again from the master that an earlier job has kept: no engine"
    return (
        f"{len(ready)} of {counted(segments, 'segment')} are coded again from the master that an "
        "earlier job has kept; the engine makes the others"
    )


def _other_depth_told(plan: PlanOutline, request: UpscaleRequest, settings: Settings) -> str:
    """Say why a master that is there is of no use."""
    other = Masters(settings.masters_dir / plan.other_pixels_key)
    if request.fresh or not plan.other_pixels_key or not other.sidecar_path(0).is_file():
        return ""
    bits, others = (16, 8) if plan.deep else (8, 16)
    return (
        f"there is a master of frames of {others} bits, and codec {plan.encoder.codec} is made of "
        f"frames of {bits} bits here: the engine restores them anew"
    )


def _keep_told(plan: PlanOutline, num_ready: int, settings: Settings) -> str:
    """Say what a master takes and how long it stays."""
    if num_ready == len(plan.segments):
        return f"its master stays until nobody has used it for {settings.keep_days:g} days"
    size = amount(master_bytes(plan, plan.num_frames))
    here = ", and in the object store" if settings.store else ""
    return (
        f"a lossless master is kept for other codecs: about {size} of the work "
        f"directory's disk, until nobody has used it for {settings.keep_days:g} days{here}"
    )


def tell_wanted(
    job: PlannedJob,
    plan: PlanOutline,
    settings: Settings,
    *,
    fresh: bool,
    on_bytes: OnBytes = no_bytes,
) -> int:
    """Tell the children of a job what it wants of masters, and note that the job uses them.

    Args:
        job: the job, which this run holds.
        plan: of the job.
        settings: of this machine.
        fresh: everything is made anew, so none is used.
        on_bytes: called with the bytes done and the bytes in all while masters come from the store.

    Returns:
        How many segments have masters.

    Raises:
        StorageError: the store does not answer.
        ResourceError: the disk has no room for the masters that the store has.

    Side effects: `masters.json` in the job's directory; the job's mark in the folder of masters;
        masters that the store has and that the job needs.
    """
    job_dir, masters = JobDir(job.job_dir), masters_of(plan, settings)
    store = masters_in_store(plan.pixels_key, settings)
    if store is not None and not fresh:
        _bring(store, masters, job, plan, on_bytes=on_bytes)
    if not (job.keep_master or job.coded_only) and (fresh or not masters.path.is_dir()):
        job_dir.masters_path.unlink(missing_ok=True)
        return 0
    with hold_masters(masters.lock_path):
        ready = () if fresh else ready_masters(masters, plan)
        masters.jobs_path.mkdir(parents=True, exist_ok=True)
        (masters.jobs_path / job.job_key).touch()
    if store is not None:
        store.mark(job.job_key)
    wanted = WantedMasters(
        folder=masters.path, keep=job.keep_master, ready=ready, only=job.coded_only
    )
    write_record(job_dir.masters_path, wanted)
    return len(ready)


def _bring(
    store: MasterCopy, masters: Masters, job: PlannedJob, plan: PlanOutline, *, on_bytes: OnBytes
) -> None:
    """Take the masters of the segments that the job has yet to make; those of others stay there."""
    job_dir, here = JobDir(job.job_dir), set(ready_masters(masters, plan))
    pending = {k for k in job.segments if not job_dir.sidecar_path(k).is_file()} - here
    if wanted := sorted(pending & store.indices() if pending else ()):
        brought = store.bring(masters, plan, wanted, on_bytes=on_bytes)
        logger.info("masters of %s came from the store", counted(brought, "segment"))


def copy_masters(
    job: PlannedJob, plan: PlanOutline, settings: Settings, *, on_bytes: OnBytes = no_bytes
) -> None:
    """Copy to the store what a finished job has left of masters and no thread has copied yet.

    Raises:
        StorageError: the store does not take them now.
    """
    store = masters_in_store(plan.pixels_key, settings)
    if store is not None:
        keep_masters(store, JobDir(job.job_dir), plan, on_bytes=on_bytes)


def kept_masters(job: PlannedJob, plan: PlanOutline, settings: Settings) -> list[str]:
    """Sentences for the result about the masters that the job leaves."""
    wanted = wanted_masters(JobDir(job.job_dir))
    if wanted is None or not wanted.keep:
        return []
    ready, segments = ready_masters(wanted.masters, plan), len(plan.segments)
    size = amount(masters_bytes(wanted.masters, ready))
    if len(ready) == segments:
        told = f"the lossless master of the video is kept: {size} in {wanted.folder}"
    else:
        lost = ", or theirs were lost with a machine" if settings.store else ""
        told = (
            f"lossless masters of {len(ready)} of {counted(segments, 'segment')} are kept, {size} "
            f"in {wanted.folder}: the others were finished before keep_master was asked for{lost}"
        )
    return [told, *_copied_told(plan, ready, settings)]


def _copied_told(plan: PlanOutline, ready: tuple[int, ...], settings: Settings) -> list[str]:
    """Say how much of the masters that are kept is in the store, where there is one."""
    if not settings.store:
        return []
    there = _names_in_store(plan.pixels_key, settings)
    copied = len(there.intersection(ready))
    if copied == len(ready):
        whole = len(there) == len(plan.segments)
        what = "the master" if whole else f"masters of {counted(len(there), 'segment')}"
        return [f"the object store has {what} too, for workers with a directory of their own"]
    return [
        f"the object store has {copied} of the {counted(len(ready), 'master')}: it did not take "
        "the others, which only this worker can use"
    ]


def master_room(job: PlannedJob, plan: PlanOutline) -> int:
    """Bytes that the masters of a job will still take."""
    wanted = wanted_masters(JobDir(job.job_dir))
    if wanted is None or not wanted.keep:
        return 0
    return master_bytes(plan, plan.num_frames - _frames(plan, wanted.ready))


def release_masters(settings: Settings, job_key: str) -> tuple[int, bool]:
    """Remove a job's marks on masters, and those masters that no other job has used.

    Returns:
        Bytes of the masters here that are gone, and whether others went from the store.

    Raises:
        StorageError: the store does not answer.
    """
    gone, from_store = 0, release_in_store(settings, job_key)
    for mark in list(settings.masters_dir.glob(f"*/jobs/{job_key}")):
        masters = Masters(mark.parents[1])
        with hold_masters(masters.lock_path):
            mark.unlink(missing_ok=True)
            if not any(masters.jobs_path.iterdir()):
                gone += _remove(masters.path)
    return gone, from_store


def sweep_masters(settings: Settings, limit: float) -> Iterator[str]:
    """Remove masters that nobody has used since `limit` (seconds since the epoch); yields each."""
    for folder in list(settings.masters_dir.glob("*")):
        masters = Masters(folder)
        if not folder.is_dir() or last_used(masters) >= limit:
            continue
        with (
            contextlib.suppress(DeadlineError),  # somebody uses them now
            hold_masters(masters.lock_path, timeout=0.0),
        ):
            if last_used(masters) < limit:
                _remove(folder)
                yield f"master {folder.name}"


def idle_copies(settings: Settings, job_key: str) -> dict[Path, int]:
    """Folders of masters that the job does not use, each with its bytes."""
    folders = [path for path in settings.masters_dir.glob("*") if path.is_dir()]
    return {
        path: sum(file.stat().st_size for file in path.glob("*.mkv"))
        for path in folders
        if not (Masters(path).jobs_path / job_key).exists()
    }


def drop_copy(settings: Settings, folder: Path) -> bool:
    """Remove masters here that the store has too; False if it does not, or a run may read them.

    Raises:
        StorageError: the store does not answer.
    """
    masters, store = Masters(folder), masters_in_store(folder.name, settings)
    if store is None:
        return False
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold_masters(masters.lock_path, timeout=0.0))
            for mark in masters.jobs_path.glob("*"):
                lock = JobDir(settings.job_dir(mark.name)).lock_path
                if lock.exists():
                    held.enter_context(hold_lock(lock, timeout=0.0, on_wait=lambda: None))
        except DeadlineError:
            return False
        if not {int(path.stem) for path in masters.path.glob("*.json")} <= store.indices():
            return False
        _remove(folder)
        return True


def last_used(masters: Masters) -> float:
    """When a job has begun to use them, or has written one; the lock's file does not count."""
    paths = [*masters.jobs_path.glob("*"), *masters.path.glob("*.mkv*")]
    return max((_mtime(path) for path in paths), default=0.0)


def _mtime(path: Path) -> float:
    """When the file was last written; 0 if it was removed meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(folder: Path) -> int:
    """Remove a folder of masters, whose lock is held; returns its bytes."""
    num_bytes = sum(path.stat().st_size for path in folder.glob("*.mkv*"))
    shutil.rmtree(folder)
    return num_bytes
