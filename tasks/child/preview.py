"""A preview as a job: which segments it makes, what it leaves out, and what follows from that.

It works in the directory of the whole job, so that the whole job finds its segments, and keeps what
is its own in a folder there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.child.protocol import FindExcerpt
from seedvr2_core.errors import SegmentError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.planning.outline import PlanOutline, SegmentOutline
from seedvr2_core.planning.timing import job_seconds
from seedvr2_core.words import counted
from tasks.child.operation import run_operation
from tasks.child.pace import frame_seconds_of
from tasks.run import current
from tasks.run.spending import price_of
from tasks.schemas import PlannedJob, PreviewPart
from tasks.settings import Settings

NOT_EXACT = (
    "the preview begins inside a shot whose beginning is not made yet; its segments are made as if "
    "it were, and have the bits of the whole job unless the model has to change its precision or "
    "to save memory before them"
)


def preview_of(job: PlannedJob, part: PreviewPart) -> PlannedJob:
    """The job that makes the segments of a preview alone; `job` is the whole one."""
    name = Path(job.output_name)
    changes = {
        "preview": part,
        "num_segments": len(part.segments),
        "num_frames": part.frames,
        "eta_seconds": part.seconds,
        "output_name": f"{name.stem}.{part.folder}{name.suffix}",
        "notes": (*job.notes, *preview_notes(part)),
    }
    return job.model_copy(update=changes)


def part_of(
    plan: PlanOutline, asked: str, *, plan_path: Path, job_dir: Path, settings: Settings
) -> PreviewPart:
    """What a preview makes of a planned job.

    Args:
        plan: of the whole job.
        asked: what the request has asked for.
        plan_path: the plan itself, which has the times.
        job_dir: of the whole job; it need not exist.
        settings: of this machine.

    Raises:
        InvalidRequestError: the film has no such place.
    """
    wanted = FindExcerpt(plan=plan_path, wanted=asked)
    found = run_operation(wanted, doing="finding the place of the preview")
    touched = [s for s in plan.segments if s.start < found.stop and found.first < s.stop]
    frames = sum(segment.num_frames for segment in touched)
    seconds = job_seconds(frame_seconds_of(plan), frames)
    return PreviewPart(
        asked=asked,
        first=found.first,
        stop=found.stop,
        start_seconds=round(found.start_seconds, 3),
        end_seconds=round(found.end_seconds, 3),
        segments=tuple(segment.index for segment in touched),
        frames=frames,
        seconds=round(seconds, 1),
        price=price_of(seconds, settings),
        of_segments=len(plan.segments),
        whole_frames=plan.num_frames,
        whole_seconds=plan.eta_seconds,
        whole_price=price_of(plan.eta_seconds, settings),
        exact=plan.memory is None or not _begins_inside(JobDir(job_dir), plan, touched),
    )


def preview_notes(part: PreviewPart) -> list[str]:
    """What the user is told: what is made, what it takes and what the whole job takes."""
    cost = "" if part.price is None else f", price {part.price:.2f}"
    whole = "" if part.whole_price is None else f", price {part.whole_price:.2f}"
    is_made = "is" if len(part.segments) == 1 else "are"
    notes = [
        f"preview: {part.start_seconds:g} s to {part.end_seconds:g} s of the result; "
        f"{len(part.segments)} of {counted(part.of_segments, 'segment')} {is_made} made for it, "
        f"about {part.seconds:.0f} s{cost}; the whole job keeps what is made (about "
        f"{part.whole_seconds:.0f} s{whole})"
    ]
    return notes if part.exact else [*notes, NOT_EXACT]


def _begins_inside(job_dir: JobDir, plan: PlanOutline, touched: list[SegmentOutline]) -> bool:
    """Whether one of these goes on in a shot of which an earlier part is not made."""
    first = touched[0]
    return first.shot is not None and any(
        other.shot == first.shot
        and other.start < first.start
        and not job_dir.sidecar_path(other.index).is_file()
        for other in plan.segments
    )


def unfinished_others(job: PlannedJob, plan: PlanOutline) -> tuple[int, ...]:
    """Segments that a preview does not make and nobody has made; () for a whole job.

    The child must not look for what they would have left.
    """
    if job.preview is None:
        return ()
    others = {segment.index for segment in plan.segments} - set(job.segments)
    told = current().still_alive
    return tuple(pending_segments(JobDir(job.job_dir), plan, only=others, on_bytes=told))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewedSegments:
    """Which segments of a job previews have shown, by their indices."""

    segments: tuple[int, ...]


def note_previewed(job: PlannedJob) -> None:
    """Note which segments a preview shows, so that the whole job can tell what it keeps of them.

    The note lies among the segments and goes with them. It decides nothing, so a disk that does not
    take it fails no job.
    """
    job_dir = JobDir(job.job_dir)
    shown = _previewed(job_dir) | set(job.segments)
    try:
        job_dir.segments_path.mkdir(parents=True, exist_ok=True)
        write_record(job_dir.previewed_path, PreviewedSegments(segments=tuple(sorted(shown))))
    except OSError as error:
        current().log(f"{job_dir.previewed_path} could not be written ({error.strerror})")


def count_previewed(job_dir: JobDir, segments: Iterable[int]) -> int:
    """How many of these segments a preview has shown."""
    return len(_previewed(job_dir).intersection(segments))


def _previewed(job_dir: JobDir) -> set[int]:
    try:
        return set(read_record(job_dir.previewed_path, PreviewedSegments).segments)
    except (FileNotFoundError, SegmentError):
        return set()
