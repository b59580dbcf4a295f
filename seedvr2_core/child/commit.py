"""The last stage of the pipeline: what is written of a segment is checked and gets its place.

Latents and tail are written first, then the master, if one is kept, then the video is renamed, and
the sidecar comes last: a segment exists only if its sidecar does, so a kill in between leaves
nothing half done. Where it leaves a master, the segment is coded from that the next time.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from seedvr2_core.child.memory import most_taken
from seedvr2_core.child.progress import Events, ProgressCount, alive_while_reading
from seedvr2_core.engines.protocol import Commit, Session
from seedvr2_core.errors import SegmentError
from seedvr2_core.job import JobDir
from seedvr2_core.job.latents import write_commit
from seedvr2_core.job.masters import Masters, MasterSidecar, commit_master
from seedvr2_core.job.sidecar import Making, commit_segment, leaves_latents
from seedvr2_core.planning import Plan, Segment
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.video.output.master import count_master
from seedvr2_core.video.writer import count_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreJob:
    """What all threads of a pipeline need to know."""

    plan: Plan
    job_dir: JobDir
    source: Path
    device_kind: str
    """What the GPU is called, or "cpu"; for the sidecars."""
    session: Session
    events: Events
    progress: ProgressCount
    keep: Masters | None = None
    """Where the master of each segment is written; None: none is."""
    from_masters: Mapping[int, MasterSidecar] = field(default_factory=dict)
    """Segments whose frames the session takes from these masters."""
    anew: Mapping[int, str] = field(default_factory=dict)
    """Segments that an engine makes although others have masters, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A segment whose `.part` files are written and closed; nobody has checked them yet."""

    segment: Segment
    commits: tuple[Commit, ...]
    """What each of its pieces leaves, in order."""
    began: float
    """When the encoder asked for its first frame, in monotonic seconds."""


def commit_written(job: RestoreJob, written: Written, *, alone: bool) -> float:
    """Check a segment's part file, then put it in its place; the same with its master.

    Args:
        job: what is made.
        written: the segment.
        alone: nearly nothing else is being encoded, so all cores may decode for the check, and
            people are told how far it is.

    Returns:
        Wall seconds since the encoder asked for the segment's first frame.

    Raises:
        SegmentError: what was written does not decode, or not to all frames.
    """
    segment, outline = written.segment, outline_of(job.plan)
    _check(job, segment, alone=alone)
    made, whole = _making(job, written), outline.segments[segment.index]
    if leaves_latents(outline, whole) and not made.from_master:
        write_commit(job.job_dir, segment, written.commits[-1])
    alive = alive_while_reading(job.events)
    if job.keep is not None:
        commit_master(job.keep, outline, whole, made, on_bytes=alive)
    return commit_segment(job.job_dir, outline, whole, made, on_bytes=alive).seconds


def _check(job: RestoreJob, segment: Segment, *, alone: bool) -> None:
    """Decode what was written of a segment, and count the frames."""

    def tell(done: int) -> None:
        job.events.beat("check", done, segment.num_frames)

    part = job.job_dir.video_part_path(segment.index)
    found = count_frames(part, alone=alone, on_frame=tell if alone else None)
    _check_count(f"segment {segment.index}", found, segment.num_frames)
    if job.keep is None:
        return
    part = job.keep.part_path(segment.index, job.plan.job_key)
    found = count_master(part, deep=job.plan.deep, on_bytes=alive_while_reading(job.events))
    _check_count(f"the master of segment {segment.index}", found, segment.num_frames)


def _check_count(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise SegmentError(f"{what} decodes to {found} frames, expected {expected}")


def _making(job: RestoreJob, written: Written) -> Making:
    """How a segment was made; of one from a master, how that was."""
    index = written.segment.index
    host_bytes, gpu_bytes = most_taken()
    make = partial(
        Making,
        seconds=time.monotonic() - written.began,
        host_bytes=host_bytes,
        gpu_bytes=gpu_bytes,
    )
    if master := job.from_masters.get(index):
        return make(
            device=master.device, precision=master.precision, rung=master.rung, from_master=True
        )
    return make(
        device=job.device_kind,
        precision=_told_once(commit.precision for commit in written.commits),
        rung=_told_once(commit.rung for commit in written.commits),
        anew=job.anew.get(index, ""),
    )


def _told_once(words: Iterable[str]) -> str:
    """What the pieces of a segment say about how they were made, without repetitions."""
    return "; ".join(dict.fromkeys(word for word in words if word))
