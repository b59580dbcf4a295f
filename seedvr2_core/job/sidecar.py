"""Finished segments on disk: how they are committed, and when they may be reused.

A segment exists once its sidecar does. So the order of a commit is: the latents and tail (only for
a part of a divided shot), then the packets, which were written to a part file, checked and synced,
and the sidecar last.
"""

import contextlib
import hashlib
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import file_sha256, read_record, write_record
from seedvr2_core.files.durable import (
    canonical_json,
    make_way,
    replace_file,
    sync_directory,
    sync_file,
)
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.job.job_dir import JobDir
from seedvr2_core.planning.outline import PlanOutline, SegmentOutline

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What is known of a finished segment; written as JSON beside it."""

    job_key: str
    index: int
    start: int
    stop: int
    num_bytes: int
    sha256: str
    engine: str
    device: str
    """What the GPU is called, or "cpu"."""
    precision: str
    """The dtypes in which the engine computed, in words."""
    seconds: float
    """Wall time from the first frame that the encoder asked for to the commit."""
    latents_sha256: str = ""
    """Of the file with final latents and tail; "" where a segment leaves none."""
    plan_sha256: str = ""
    """`plan_digest` of the plan it was made by."""
    rung: str = ""
    """How it was fitted into less memory than planned; "" if it was not."""
    from_master: bool = False
    """Coded from a master: no engine has made it here, so it leaves no latents."""
    anew: str = ""
    """Why an engine made it although masters were there; "" where that was so for no reason."""
    host_bytes: int = 0
    """Most host memory of the process that made it, until then; 0 where it was not measured."""
    gpu_bytes: int = 0
    """The same of its GPU, as torch reserves it; 0 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a segment was made, for its sidecar."""

    device: str
    precision: str
    seconds: float
    rung: str = ""
    from_master: bool = False
    anew: str = ""
    host_bytes: int = 0
    gpu_bytes: int = 0


_PARTS_OF_LATER_PLANS = ("encoder_rings", "decoder_rings", "encoder_bands", "decoder_bands")


def plan_digest(plan: PlanOutline) -> str:
    """SHA-256 of what can change the last bits of a segment and is not in the job's key.

    That is the plan's memory settings and thread count. Two plans of one job can differ in them: a
    fresh start plans again, maybe on another GPU. Segments of both are never mixed.
    """
    memory = asdict(replace(plan.memory, peaks=())) if plan.memory else None
    for later in (*_PARTS_OF_LATER_PLANS, "stream_caches", "streamed_layers"):
        # Plans of earlier versions lack these; their segments are as good as before.
        if memory and not memory[later]:
            del memory[later]
    for way in ("encoder_block_bytes", "decoder_block_bytes", "moving_seconds"):
        if memory:
            del memory[way]  # how caches travel changes no bit
    text = canonical_json({"memory": memory, "threads": plan.torch_threads})
    return hashlib.sha256(text.encode()).hexdigest()


def commit_segment(
    job_dir: JobDir,
    plan: PlanOutline,
    segment: SegmentOutline,
    made: Making,
    *,
    on_bytes: OnBytes = no_bytes,
) -> Sidecar:
    """Turn a finished and checked part file into a segment, with the latents beside it, if any.

    Args:
        job_dir: of the job.
        plan: of the job.
        segment: which one it is.
        made: how it was made.
        on_bytes: called with (bytes read, bytes in all) while a file is hashed.

    Returns:
        The sidecar, which is on disk when this returns.
    """
    part = job_dir.video_part_path(segment.index)
    latents = job_dir.latents_path(segment.index)
    sync_file(part)
    on_bytes(0, 0)
    sidecar = Sidecar(
        job_key=plan.job_key,
        index=segment.index,
        start=segment.start,
        stop=segment.stop,
        num_bytes=part.stat().st_size,
        sha256=file_sha256(part, on_bytes=on_bytes),
        engine=plan.engine.name,
        device=made.device,
        precision=made.precision,
        seconds=round(made.seconds, 3),
        latents_sha256=(
            file_sha256(latents, on_bytes=on_bytes)
            if leaves_latents(plan, segment) and not made.from_master
            else ""
        ),
        plan_sha256=plan_digest(plan),
        rung=made.rung,
        from_master=made.from_master,
        anew=made.anew,
        host_bytes=made.host_bytes,
        gpu_bytes=made.gpu_bytes,
    )
    replace_file(part, job_dir.video_path(segment.index))
    sync_directory(job_dir.segments_path)
    write_record(job_dir.sidecar_path(segment.index), sidecar)
    return sidecar


def leaves_latents(plan: PlanOutline, segment: SegmentOutline) -> bool:
    """Whether this segment is a part of a shot, so that work may have to go on inside the shot."""
    return plan.memory is not None and segment.shot is not None


def read_segment(
    job_dir: JobDir, plan: PlanOutline, segment: SegmentOutline, *, on_bytes: OnBytes = no_bytes
) -> Sidecar | None:
    """The sidecar of a segment that may be reused; None if the segment must be made (again).

    A segment may be reused if its sidecar fits the plan and its files have the digests that the
    sidecar holds. The reason against it is logged. `on_bytes` is called with (bytes read, bytes in
    all) while a file is hashed.
    """
    path = job_dir.sidecar_path(segment.index)
    if not path.exists():
        return None
    try:
        sidecar = read_record(path, Sidecar)
    except SegmentError as error:
        logger.warning("segment %d is redone: %s", segment.index, error)
        return None
    told = (sidecar.job_key, sidecar.plan_sha256, sidecar.index, sidecar.start, sidecar.stop)
    asked = (plan.job_key, plan_digest(plan), segment.index, segment.start, segment.stop)
    if told != asked:
        logger.warning("segment %d is redone: its sidecar is of another plan", segment.index)
        return None
    video = job_dir.video_path(segment.index)
    if not _holds(video, sidecar.sha256, sidecar.num_bytes, on_bytes=on_bytes):
        logger.warning("segment %d is redone: its file is missing, cut or changed", segment.index)
        return None
    latents = job_dir.latents_path(segment.index)
    needed = leaves_latents(plan, segment) and not sidecar.from_master
    if needed and not _holds(latents, sidecar.latents_sha256, on_bytes=on_bytes):
        logger.warning("segment %d is redone: its latents are missing or changed", segment.index)
        return None
    return sidecar


def _holds(path: Path, sha256: str, num_bytes: int | None = None, *, on_bytes: OnBytes) -> bool:
    """Whether the file is there with these bytes. The length is compared first: that is cheap."""
    if not path.is_file() or num_bytes not in (None, path.stat().st_size):
        return False
    return file_sha256(path, on_bytes=on_bytes) == sha256


def pending_segments(
    job_dir: JobDir,
    plan: PlanOutline,
    *,
    only: Collection[int] | None = None,
    on_bytes: OnBytes = no_bytes,
) -> list[int]:
    """Indices of the segments that must still be made, in order.

    Of all segments, or of `only` these. `on_bytes` is called with (bytes read, bytes in all) of
    each file while it is hashed: a job that goes on may have hundreds of gigabytes.
    """
    return [
        segment.index
        for segment in plan.segments
        if (only is None or segment.index in only)
        and read_segment(job_dir, plan, segment, on_bytes=on_bytes) is None
    ]


def finished_sizes(job_dir: JobDir, plan: PlanOutline) -> list[tuple[int, int]]:
    """(frames, bytes) of each segment whose packets are there. Cheap: digests are not compared."""
    paths = ((s.num_frames, job_dir.video_path(s.index)) for s in plan.segments)
    return [(frames, path.stat().st_size) for frames, path in paths if path.is_file()]


def without_latents(job_dir: JobDir, plan: PlanOutline) -> set[int]:
    """Finished segments inside a shot that have left no latents, as they come from masters."""
    found: set[int] = set()
    for segment in plan.segments:
        path = job_dir.sidecar_path(segment.index)
        if leaves_latents(plan, segment) and path.exists():
            with contextlib.suppress(SegmentError):  # damaged: it is made anew, with latents
                if read_record(path, Sidecar).from_master:
                    found.add(segment.index)
    return found


def deviations(job_dir: JobDir, plan: PlanOutline) -> list[str]:
    """Sentences for the user about segments that were not made as planned or like the others."""
    there = (job_dir.sidecar_path(s.index) for s in plan.segments)
    sidecars = [read_record(path, Sidecar) for path in there if path.is_file()]
    notes = [
        f"segments were made {what}: {_grouped(values)}"
        for what, values in (
            ("on several kinds of device", [sidecar.device for sidecar in sidecars]),
            ("in several precisions", [sidecar.precision for sidecar in sidecars]),
        )
        if len(set(values)) > 1
    ]
    if again := sum(sidecar.from_master for sidecar in sidecars):
        which = "all segments were" if again == len(plan.segments) else f"{again} of "
        which += "" if again == len(plan.segments) else f"{len(plan.segments)} segments were"
        notes.append(f"{which} coded again from the master, without the engine")
    notes += [
        f"segment {sidecar.index} was restored anew: {sidecar.anew}"
        for sidecar in sidecars
        if sidecar.anew
    ]
    return notes + [
        f"segment {sidecar.index} was fitted into less memory: {sidecar.rung}"
        for sidecar in sidecars
        if sidecar.rung
    ]


def _grouped(values: Sequence[str]) -> str:
    """The values, each with the number of segments that have it."""
    return ", ".join(f"{value} ({values.count(value)})" for value in dict.fromkeys(values))


def remove_leftovers(job_dir: JobDir, indices: Iterable[int], *, of_job: bool) -> None:
    """Delete the part files that a killed process left.

    Args:
        job_dir: of the job.
        indices: segments that this process has taken; others may be writing theirs.
        of_job: also those that belong to no segment.
    """
    left = job_dir.part_files_of(indices)
    if of_job:
        left += [part for part in job_dir.part_files() if part.parent == job_dir.path]
    for part in left:
        make_way(part)
        part.unlink(missing_ok=True)
