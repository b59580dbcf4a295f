"""Finished segments on disk: where they lie, how they are committed, when they may be reused.

A segment exists once its sidecar does: the packets are written beside their name, checked,
synced and renamed first, the sidecar last. `jobs/<job_key>/segments/00000.mp4` + `00000.json`; a
part of a divided shot also leaves its final latents and tail in `00000.safetensors`, before both.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import file_sha256, read_record, write_record
from seedvr2_core.files.durable import canonical_json, sync_directory, sync_file
from seedvr2_core.job.job_dir import JobDir
from seedvr2_core.planning import Plan, Segment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What is known of a finished segment."""

    job_key: str
    index: int
    start: int
    stop: int
    num_bytes: int
    sha256: str
    engine: str
    device: str
    """Kind of device: "cpu", or what the GPU is called."""
    precision: str
    """What the engine computed in."""
    seconds: float
    """Wall time from the first frame asked for to the commit."""
    latents_sha256: str = ""
    """Of the committed latents and tail; "" where a segment leaves none."""
    plan_sha256: str = ""
    """What of the plan decides bytes and is not in the job's key (`plan_digest`)."""
    rung: str = ""
    """How it was fitted into less memory than planned; "" if it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a segment was made, for its sidecar."""

    device: str
    precision: str
    seconds: float
    rung: str = ""


def plan_digest(plan: Plan) -> str:
    """SHA-256 of the plan's memory rungs and threads, which may change last bits.

    Two plans of one job can differ in them: `fresh` plans again, on another card maybe.
    """
    memory = asdict(replace(plan.memory, peaks=())) if plan.memory else None
    text = canonical_json({"memory": memory, "threads": plan.torch_threads})
    return hashlib.sha256(text.encode()).hexdigest()


def commit_segment(job_dir: JobDir, plan: Plan, segment: Segment, made: Making) -> Sidecar:
    """Turn a finished and checked part file (and the latents beside it, if any) into a segment."""
    part = job_dir.video_part_path(segment.index)
    latents = job_dir.latents_path(segment.index)
    sync_file(part)
    sidecar = Sidecar(
        job_key=plan.job_key,
        index=segment.index,
        start=segment.start,
        stop=segment.stop,
        num_bytes=part.stat().st_size,
        sha256=file_sha256(part),
        engine=plan.engine.name,
        device=made.device,
        precision=made.precision,
        seconds=round(made.seconds, 3),
        latents_sha256=file_sha256(latents) if leaves_latents(plan, segment) else "",
        plan_sha256=plan_digest(plan),
        rung=made.rung,
    )
    part.replace(job_dir.video_path(segment.index))
    sync_directory(job_dir.segments_path)
    write_record(job_dir.sidecar_path(segment.index), sidecar)
    return sidecar


def leaves_latents(plan: Plan, segment: Segment) -> bool:
    """Whether work may have to go on behind this segment inside its shot."""
    if plan.memory is None or len(segment.pieces) != 1:
        return False
    piece = segment.pieces[0]
    shot = plan.shots[piece.shot]
    return (piece.start, piece.stop) != (shot.start, shot.stop)


def read_segment(job_dir: JobDir, plan: Plan, segment: Segment) -> Sidecar | None:
    """The sidecar of a segment that may be reused, or None.

    A sidecar that does not fit the plan or its file is worth nothing: the segment is redone.
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
    if not _holds(job_dir.video_path(segment.index), sidecar.sha256, sidecar.num_bytes):
        logger.warning("segment %d is redone: its file is missing, cut or changed", segment.index)
        return None
    if leaves_latents(plan, segment) and not _holds(
        job_dir.latents_path(segment.index), sidecar.latents_sha256
    ):
        logger.warning("segment %d is redone: its latents are missing or changed", segment.index)
        return None
    return sidecar


def _holds(path: Path, sha256: str, num_bytes: int | None = None) -> bool:
    """Whether the file is there with these bytes; the length is looked at first, it is cheap."""
    if not path.is_file() or num_bytes not in (None, path.stat().st_size):
        return False
    return file_sha256(path) == sha256


def pending_segments(job_dir: JobDir, plan: Plan) -> list[int]:
    """Indices of the segments that must still be made, in order."""
    return [s.index for s in plan.segments if read_segment(job_dir, plan, s) is None]


def finished_sizes(job_dir: JobDir, plan: Plan) -> list[tuple[int, int]]:
    """(frames, bytes) of the packets that are there; cheap, digests are not looked at."""
    paths = ((s.num_frames, job_dir.video_path(s.index)) for s in plan.segments)
    return [(frames, path.stat().st_size) for frames, path in paths if path.is_file()]


def deviations(job_dir: JobDir, plan: Plan) -> list[str]:
    """Sentences on finished segments that were not made like the others, or not as planned."""
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
    return notes + [
        f"segment {sidecar.index} was fitted into less memory: {sidecar.rung}"
        for sidecar in sidecars
        if sidecar.rung
    ]


def _grouped(values: Sequence[str]) -> str:
    """Values with how many segments have each."""
    return ", ".join(f"{value} ({values.count(value)})" for value in dict.fromkeys(values))


def remove_leftovers(job_dir: JobDir) -> None:
    """Delete the part files that a killed process left."""
    for part in job_dir.part_files():
        part.unlink(missing_ok=True)
