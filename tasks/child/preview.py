"""A preview as a job: which segments it makes, what it leaves out, and what follows from that.

It works in the directory of the whole job, so that the whole job finds its segments, and keeps what
is its own in a folder there.
"""

from pathlib import Path

from seedvr2_core.child.protocol import ExcerptFound
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.planning.outline import PlanOutline, SegmentOutline
from seedvr2_core.planning.timing import job_seconds
from seedvr2_core.words import counted
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


def preview_of(
    job: PlannedJob, plan: PlanOutline, asked: str, found: ExcerptFound, settings: Settings
) -> PlannedJob:
    """The job that makes the segments of a preview alone.

    Args:
        job: the whole job.
        plan: of the whole job.
        asked: what the request has asked for.
        found: the frames that are shown.
        settings: of this machine.
    """
    touched = [s for s in plan.segments if s.start < found.stop and found.first < s.stop]
    frames = sum(segment.num_frames for segment in touched)
    segments = tuple(segment.index for segment in touched)
    seconds = job_seconds(frame_seconds_of(plan), frames)
    exact = plan.memory is None or not _begins_inside(JobDir(job.job_dir), plan, touched)
    part = PreviewPart(
        asked=asked,
        first=found.first,
        stop=found.stop,
        start_seconds=round(found.start_seconds, 3),
        end_seconds=round(found.end_seconds, 3),
        segments=segments,
        of_segments=len(plan.segments),
        whole_frames=plan.num_frames,
        whole_seconds=plan.eta_seconds,
        whole_price=price_of(plan.eta_seconds, settings),
        exact=exact,
    )
    name = Path(job.output_name)
    changes = {
        "preview": part,
        "num_segments": len(segments),
        "num_frames": frames,
        "eta_seconds": seconds,
        "output_name": f"{name.stem}.{part.folder}{name.suffix}",
        "notes": (*job.notes, *_notes(part, seconds, settings)),
    }
    return job.model_copy(update=changes)


def _notes(part: PreviewPart, seconds: float, settings: Settings) -> list[str]:
    """What the user is told: what is made, what it takes and what the whole job takes."""
    price = price_of(seconds, settings)
    cost = "" if price is None else f", price {price:.2f}"
    whole = "" if part.whole_price is None else f", price {part.whole_price:.2f}"
    notes = [
        f"preview: {part.start_seconds:g} s to {part.end_seconds:g} s of the result; "
        f"{len(part.segments)} of {counted(part.of_segments, 'segment')} are made for it, about "
        f"{seconds:.0f} s{cost}; the whole job keeps them (about {part.whole_seconds:.0f} s{whole})"
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


def limited_work(job: PlannedJob, seconds: float) -> tuple[float, str]:
    """What the caller's limit is held against, before anything is made: seconds, and of what.

    A preview is to show what the limit will say to the whole job.

    Args:
        job: the job.
        seconds: expected for what this run makes.
    """
    if job.preview is None:
        return seconds, "what is left"
    return job.preview.whole_seconds, "the whole job"
