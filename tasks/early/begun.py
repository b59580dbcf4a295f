"""What was made of a job before all its cuts were known: where it lies, and how the job gets it.

Such work has a plan that knows the cuts up to a frame and takes all behind the last one for one
shot, and so a key and a directory of its own. Segments are gathered from the front, so those that
end before the last known cut are segments of every plan that knows more. Where a job's own
directory, or one that knows more, is taken up, it takes over these segments, with what they have
cost, and the early directory goes. Directories that nobody comes back to are swept as all others.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seedvr2_core.errors import DeadlineError, SegmentError
from seedvr2_core.files import hold_lock, read_record, write_record
from seedvr2_core.files.place import place
from seedvr2_core.job import JobDir
from seedvr2_core.job.job_dir import PART_SUFFIX
from seedvr2_core.job.sidecar import Sidecar, plan_digest
from seedvr2_core.planning.outline import PlanOutline, SegmentOutline, is_same_work
from seedvr2_core.planning.plan import CutList
from seedvr2_core.words import counted
from tasks.child.awake import awake_seconds
from tasks.early.search import Settled
from tasks.request.shared import KeptWork
from tasks.run import current
from tasks.run.spending import hand_on
from tasks.schemas import Account, PlannedJob, ProbedSource
from tasks.settings import Settings, get_settings

if TYPE_CHECKING:
    from tasks.child.session import SegmentWatch

_CHILD_SECONDS = 10.0
"""Longest time that the child of a run which was killed may take to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledCuts:
    """Which cuts an early plan knew; written as early.json."""

    info: str
    """Name of the probe's record: which frames of which source they are of."""
    until: int
    """Frame up to which they are all."""
    frames: tuple[int, ...]


class EarlyWork:
    """What a run has made before it knew all cuts."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.began = self._is_shown = False
        self._first: SegmentWatch | None = None
        self._segments = self._frames = 0
        self._seconds = 0.0

    @contextlib.contextmanager
    def noted(self, job: PlannedJob) -> Iterator[None]:
        """Note what of a job's early segments is made in the `with` block.

        It may end before they all are: where the search fails. So the disk is asked.
        """
        began, before = awake_seconds(), _committed(job)
        try:
            yield
        finally:
            made = [index for index, _ in _committed(job) - before]
            segments = read_record(JobDir(job.job_dir).outline_path, PlanOutline).segments
            self._seconds += awake_seconds() - began
            self._segments += len(made)
            self._frames += sum(segments[index].num_frames for index in made)

    def begin(self, watch: "SegmentWatch") -> None:
        """Its segments are made under this watch; the first one's engine is the whole run's."""
        self._first = self._first or watch

    def show(self, job: PlannedJob) -> None:
        """Show what is known of the job's plan, once."""
        if not self._is_shown:
            current().planned(job)
        self._is_shown = True

    def go_on(self, job: PlannedJob) -> PlannedJob:
        """The job as it goes on behind what was made so far."""
        return job.model_copy(update={"early_seconds": self._seconds})

    def without(self, kept: KeptWork) -> KeptWork:
        """What earlier runs had made, of what lay there when all cuts were known."""
        changes = {
            "segments": max(0, kept.segments - self._segments),
            "frames": max(0, kept.frames - self._frames),
        }
        return kept.model_copy(update=changes)

    def in_all(self, account: Account) -> Account:
        """The account of the whole run: it was the early part that loaded the engine."""
        was_warm = self._first and self._first.account.engine_was_warm
        return (
            account
            if was_warm is None
            else account.model_copy(update={"engine_was_warm": was_warm})
        )


def begun_early(info_path: Path, settings: Settings) -> tuple[Path, ...]:
    """The outlines of all early plans of a source, that which knew the most cuts first."""
    found = [(cuts.until, names.outline_path) for names, cuts in _early_dirs(info_path, settings)]
    return tuple(path for _, path in sorted(found, reverse=True))


@contextlib.contextmanager
def early_part(
    job: PlannedJob, probed: ProbedSource, settled: Settled, *, fresh: bool
) -> Iterator[PlannedJob | None]:
    """Hold the directory of a job that knows a part of its cuts for the length of a `with` block.

    Args:
        job: planned with these cuts alone.
        probed: the source.
        settled: the cuts.
        fresh: remove what earlier runs have begun.

    Yields:
        The job that makes those segments alone that the whole job will have too; None if there are
        none, or if another run is making them.
    """
    job_dir = JobDir(job.job_dir)
    frames = read_record(settled.path, CutList).frames
    cuts = SettledCuts(info=probed.info_path.name, until=settled.until, frames=frames)
    with contextlib.ExitStack() as held:
        try:
            lock = hold_lock(job_dir.lock_path, timeout=0, on_wait=lambda: None)
            held.enter_context(lock)
        except DeadlineError:
            current().log("another run of the same request makes its first segments")
            yield None
            return
        write_record(job_dir.early_path, cuts)
        if fresh:
            _forget(job_dir, probed)
            shutil.rmtree(job_dir.segments_path, ignore_errors=True)
        _take_all(job_dir, probed, cuts)
        plan = read_record(job_dir.outline_path, PlanOutline)
        early = tuple(segment.index for segment in _shared(plan, cuts))
        yield job.model_copy(update={"early": early}) if early else None


def take_over(job: PlannedJob, probed: ProbedSource, *, fresh: bool) -> None:
    """Take over what was made of a job, which this run holds, before its cuts were known.

    What cannot be taken over is made again: this fails no job.

    Args:
        job: the job.
        probed: its source, with all cuts.
        fresh: nothing of earlier runs is wanted; it is removed.
    """
    if probed.cuts_path is None:
        return
    if fresh:
        _forget(JobDir(job.job_dir), probed)
        return
    frames = read_record(probed.cuts_path, CutList).frames
    cuts = SettledCuts(info=probed.info_path.name, until=probed.video.num_frames, frames=frames)
    _take_all(JobDir(job.job_dir), probed, cuts)


def _forget(job_dir: JobDir, probed: ProbedSource) -> None:
    """Remove what earlier runs have begun early of a job, but for this directory of it."""
    plan = read_record(job_dir.outline_path, PlanOutline)
    for early, _ in list(_early_dirs(probed.info_path, get_settings())):
        if early.path == job_dir.path:
            continue
        with contextlib.suppress(DeadlineError, FileNotFoundError, SegmentError), _at_rest(early):
            if is_same_work(read_record(early.outline_path, PlanOutline), plan):
                shutil.rmtree(early.path, ignore_errors=True)


def _early_dirs(info_path: Path, settings: Settings) -> Iterator[tuple[JobDir, SettledCuts]]:
    """The early directories of a source, with the cuts that each knew."""
    for path in settings.jobs_dir.glob(f"*/{JobDir(Path()).early_path.name}"):
        with contextlib.suppress(FileNotFoundError, SegmentError):
            cuts = read_record(path, SettledCuts)
            if cuts.info == info_path.name:
                yield JobDir(path.parent), cuts


def _committed(job: PlannedJob) -> set[tuple[int, int]]:
    """The early segments of a job that are there: index, and when each was committed."""
    found: set[tuple[int, int]] = set()
    for index in job.segments:
        with contextlib.suppress(FileNotFoundError):
            found.add((index, JobDir(job.job_dir).sidecar_path(index).stat().st_mtime_ns))
    return found


@contextlib.contextmanager
def _at_rest(job_dir: JobDir) -> Iterator[None]:
    """Hold a directory that no run works in, and no child of a run that was killed.

    Raises:
        DeadlineError: one does.
    """
    locks = ((job_dir.lock_path, 0.0), (job_dir.child_lock_path, _CHILD_SECONDS))
    with contextlib.ExitStack() as held:
        for path, seconds in locks:
            held.enter_context(hold_lock(path, timeout=seconds, on_wait=lambda: None))
        yield


def _shared(plan: PlanOutline, cuts: SettledCuts) -> list[SegmentOutline]:
    """The segments of an early plan that every plan has which knows more cuts.

    One that ends at the last known cut may not be among them: a short shot that follows can belong
    to it.
    """
    last = cuts.frames[-1] if cuts.frames else 0
    return [segment for segment in plan.segments if segment.stop < last]


def _take_all(target: JobDir, probed: ProbedSource, cuts: SettledCuts) -> None:
    """Take over the segments of all early directories that know fewer cuts."""
    for early, known in list(_early_dirs(probed.info_path, get_settings())):
        if early.path == target.path or known.until > cuts.until:
            continue
        try:
            with _at_rest(early):
                _take(early, known, target, cuts)
        except (DeadlineError, SegmentError, OSError) as error:
            current().log(f"what was begun early is made again: {error}")


def _take(early: JobDir, known: SettledCuts, target: JobDir, cuts: SettledCuts) -> None:
    """Move the segments of one early directory, and remove it."""
    begun, plan = (read_record(names.outline_path, PlanOutline) for names in (early, target))
    if not is_same_work(begun, plan):
        return  # another job of the same source
    if why := _unfit(early, begun, target, plan, known, cuts):
        current().log(f"what was begun early is made again: {why}")
    else:
        taken = sum(_move(early, begun, target, plan, one) for one in _shared(begun, known))
        current().log(f"made while cuts were looked for: {counted(taken, 'segment')}")
    hand_on(early, target)
    shutil.rmtree(early.path, ignore_errors=True)


def _unfit(
    early: JobDir,
    begun: PlanOutline,
    target: JobDir,
    plan: PlanOutline,
    known: SettledCuts,
    cuts: SettledCuts,
) -> str:
    """Why segments of an early plan have not the bytes that they would have now; "" if they do."""
    if tuple(cut for cut in cuts.frames if cut <= known.until) != known.frames:
        return "its cuts are others now"
    if plan_digest(begun) != plan_digest(plan):
        return "the job was planned for other memory before"
    if target.kernels_path.is_file() and _ways(target) != _ways(early):
        return "the job has chosen other kernels before"
    return ""


def _ways(job_dir: JobDir) -> dict[str, str]:
    """Which kernels were chosen in a directory, by the choice's key."""
    try:
        chosen = json.loads(job_dir.kernels_path.read_bytes())
        return {key: choice["way"] for key, choice in chosen.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _move(
    early: JobDir, begun: PlanOutline, target: JobDir, plan: PlanOutline, segment: SegmentOutline
) -> bool:
    """Move one segment, if it is there and both plans have it: its files first, then its sidecar.

    Digests are compared when the job looks for its segments.
    """
    index = segment.index
    path, committed = early.sidecar_path(index), target.sidecar_path(index)
    if segment not in plan.segments[index : index + 1] or not path.is_file() or committed.exists():
        return False
    sidecar = read_record(path, Sidecar)
    if (sidecar.job_key, sidecar.plan_sha256) != (begun.job_key, plan_digest(begun)):
        return False
    target.segments_path.mkdir(parents=True, exist_ok=True)
    files = [
        (early.video_path(index), target.video_path(index)),
        (early.latents_path(index), target.latents_path(index)),
        (early.kernels_path, target.kernels_path),
    ]
    for source, name in files:
        if source.is_file():
            place(source, name, part_name=name.name + PART_SUFFIX, replace=True)
    write_record(committed, replace(sidecar, job_key=plan.job_key))
    path.unlink()
    for source, _ in files[:2]:
        source.unlink(missing_ok=True)
    return True
