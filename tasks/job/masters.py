"""Masters of a job: which are there, what they take, who uses them, and when they go.

They belong to all jobs with the same pixels, so they lie in a folder of their own and not in that
of a job: they go with the last job that has used them, or when nobody has for SEEDVR2_KEEP_DAYS.
They are files of this work directory; the object store does not get them. This module knows nothing
of Prefect.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import DeadlineError
from seedvr2_core.files import write_record
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What masters mean for a job that is planned."""

    eta_seconds: float
    notes: tuple[str, ...] = ()
    """Sentences about what will be, for who only looks at the plan and for the log."""
    lasting_notes: tuple[str, ...] = ()
    """Sentences that hold for the result as well."""


def masters_of(plan: PlanOutline, settings: Settings) -> Masters:
    """The folder of the masters of a job's pixels."""
    return Masters(settings.masters_dir / plan.pixels_key)


def look_at_masters(plan: PlanOutline, request: UpscaleRequest, settings: Settings) -> Outlook:
    """Find out what of a planned job can be coded from masters; only sizes are compared."""
    masters = masters_of(plan, settings)
    ready = () if request.fresh else ready_masters(masters, plan)
    notes = [
        _ready_told(plan, ready) if ready else "",
        _keep_told(plan, len(ready), settings) if request.keep_master else "",
    ]
    other = "" if ready else _other_depth_told(plan, request, settings)
    return Outlook(
        eta_seconds=_eta(plan, ready),
        notes=tuple(text for text in notes if text),
        lasting_notes=(other,) if other else (),
    )


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
    here = (
        "; it stays in this worker's directory, as the object store does not get it"
        if settings.store
        else ""
    )
    return (
        f"a lossless master is kept for other codecs: about {size} of the work "
        f"directory's disk, until nobody has used it for {settings.keep_days:g} days{here}"
    )


def tell_wanted(job: PlannedJob, plan: PlanOutline, settings: Settings, *, fresh: bool) -> int:
    """Tell the children of a job what it wants of masters, and note that the job uses them.

    Args:
        job: the job, which this run holds.
        plan: of the job.
        settings: of this machine.
        fresh: everything is made anew, so none is used.

    Returns:
        How many segments have masters.

    Side effects: `masters.json` in the job's directory; the job's mark in the folder of masters.
    """
    job_dir, masters = JobDir(job.job_dir), masters_of(plan, settings)
    if not job.keep_master and (fresh or not masters.path.is_dir()):
        job_dir.masters_path.unlink(missing_ok=True)
        return 0
    with hold_masters(masters.lock_path):
        ready = () if fresh else ready_masters(masters, plan)
        masters.jobs_path.mkdir(parents=True, exist_ok=True)
        (masters.jobs_path / job.job_key).touch()
    wanted = WantedMasters(folder=masters.path, keep=job.keep_master, ready=ready)
    write_record(job_dir.masters_path, wanted)
    return len(ready)


def kept_masters(job: PlannedJob, plan: PlanOutline) -> list[str]:
    """Sentences for the result about the masters that the job leaves."""
    wanted = wanted_masters(JobDir(job.job_dir))
    if wanted is None or not wanted.keep:
        return []
    ready, segments = ready_masters(wanted.masters, plan), len(plan.segments)
    size = amount(masters_bytes(wanted.masters, ready))
    if len(ready) == segments:
        return [f"the lossless master of the video is kept: {size} in {wanted.folder}"]
    return [
        f"lossless masters of {len(ready)} of {counted(segments, 'segment')} are kept, {size} "
        f"in {wanted.folder}: the others were finished before keep_master was asked for"
    ]


def master_room(job: PlannedJob, plan: PlanOutline) -> int:
    """Bytes that the masters of a job will still take."""
    wanted = wanted_masters(JobDir(job.job_dir))
    if wanted is None or not wanted.keep:
        return 0
    return master_bytes(plan, plan.num_frames - _frames(plan, wanted.ready))


def release_masters(settings: Settings, job_key: str) -> int:
    """Remove a job's marks on masters, and those masters that no other job has used.

    Returns:
        Bytes of the masters that are gone.
    """
    gone = 0
    for mark in list(settings.masters_dir.glob(f"*/jobs/{job_key}")):
        masters = Masters(mark.parents[1])
        with hold_masters(masters.lock_path):
            mark.unlink(missing_ok=True)
            if not any(masters.jobs_path.iterdir()):
                gone += _remove(masters.path)
    return gone


def sweep_masters(settings: Settings, limit: float) -> Iterator[str]:
    """Remove masters that nobody has used since `limit` (seconds since the epoch); yields each."""
    for folder in list(settings.masters_dir.glob("*")):
        masters = Masters(folder)
        if not folder.is_dir() or _last_used(masters) >= limit:
            continue
        with (
            contextlib.suppress(DeadlineError),  # somebody uses them now
            hold_masters(masters.lock_path, timeout=0.0),
        ):
            if _last_used(masters) < limit:
                _remove(folder)
                yield f"master {folder.name}"


def _last_used(masters: Masters) -> float:
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
