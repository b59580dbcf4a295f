"""Masters: a job's segments without loss, from which other codecs are made without an engine.

    WORK_DIR/masters/<pixels_key>/
        masters.lock          held while a master gets its name, and while all are removed
        00000.mkv             the pictures of a segment
        00000.json            its sidecar: the master exists once this file does
        jobs/<job_key>        one empty file for each job that has made or used them

They are found by what decides pixels (`planning.outline.pixels_key`), so all jobs that differ in
codec, container, quality or sound alone share them. A file that is being written has the job's key
in its name, and ".part" behind it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import file_sha256, hold_lock, read_record, write_record
from seedvr2_core.files.durable import replace_file, sync_directory, sync_file
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.job.job_dir import JobDir
from seedvr2_core.job.sidecar import Making
from seedvr2_core.planning.outline import PlanOutline, SegmentOutline

hold_masters = partial(hold_lock, timeout=60.0, on_wait=lambda: None)
"""Hold the lock of a folder of masters: nobody keeps it for longer than some small files take."""


@dataclass(frozen=True, slots=True)
class Masters:
    """The folder of the masters of some pixels. It only names files; none needs to exist."""

    path: Path

    @property
    def lock_path(self) -> Path:
        """Held while a master gets its name, and while all are removed."""
        return self.path / "masters.lock"

    @property
    def jobs_path(self) -> Path:
        """Folder with an empty file for each job that has made or used them."""
        return self.path / "jobs"

    def video_path(self, index: int) -> Path:
        """The pictures of a segment."""
        return self.path / f"{index:05d}.mkv"

    def sidecar_path(self, index: int) -> Path:
        """The sidecar of a segment's master; without it there is none."""
        return self.path / f"{index:05d}.json"

    def part_path(self, index: int, job_key: str) -> Path:
        """The pictures while a job writes them."""
        return self.path / f"{index:05d}.{job_key}.mkv.part"


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSidecar:
    """What is known of a finished master; written as JSON beside it."""

    pixels_key: str
    index: int
    start: int
    stop: int
    num_bytes: int
    sha256: str
    device: str
    """What made its frames: the GPU's name, or "cpu"."""
    precision: str
    rung: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedMasters:
    """What the run at work wants of masters; it tells its children so in the job's directory."""

    folder: Path
    keep: bool
    """Whether those that are missing are written."""
    ready: tuple[int, ...] = ()
    """Segments that have one, and are coded from it."""
    only: bool = False
    """Whether nothing else may be made here, as this machine is not meant for the engine."""

    @property
    def masters(self) -> Masters:
        """The folder, with its names."""
        return Masters(self.folder)


def wanted_masters(job_dir: JobDir) -> WantedMasters | None:
    """What the run at work wants of masters; None: nothing."""
    try:
        return read_record(job_dir.masters_path, WantedMasters)
    except FileNotFoundError:
        return None


def ready_masters(masters: Masters, plan: PlanOutline) -> tuple[int, ...]:
    """Segments of a job that have a master of the right length. Cheap: no digest is compared."""
    return tuple(s.index for s in plan.segments if _sidecar_of(masters, plan, s) is not None)


def read_master_sidecar(
    masters: Masters, plan: PlanOutline, segment: SegmentOutline, *, on_bytes: OnBytes = no_bytes
) -> MasterSidecar | None:
    """The sidecar of a master whose bytes are whole; None if it must not be used.

    `on_bytes` is called with (bytes read, bytes in all) while the file is hashed.
    """
    sidecar = _sidecar_of(masters, plan, segment)
    if sidecar is None:
        return None
    digest = file_sha256(masters.video_path(segment.index), on_bytes=on_bytes)
    return sidecar if digest == sidecar.sha256 else None


def _sidecar_of(
    masters: Masters, plan: PlanOutline, segment: SegmentOutline
) -> MasterSidecar | None:
    """The sidecar of a segment's master, if it is of these frames and its file has the length."""
    try:
        sidecar = read_record(masters.sidecar_path(segment.index), MasterSidecar)
        num_bytes = masters.video_path(segment.index).stat().st_size
    except (FileNotFoundError, SegmentError):
        return None
    told = (sidecar.pixels_key, sidecar.start, sidecar.stop, sidecar.num_bytes)
    asked = (plan.pixels_key, segment.start, segment.stop, num_bytes)
    return sidecar if told == asked else None


def commit_master(
    masters: Masters,
    plan: PlanOutline,
    segment: SegmentOutline,
    made: Making,
    *,
    on_bytes: OnBytes = no_bytes,
) -> MasterSidecar:
    """Turn a finished and checked part file into a master, in the place of an earlier one.

    Args:
        masters: the folder.
        plan: of the job that has made it.
        segment: which one it is.
        made: how its frames were made.
        on_bytes: called with (bytes read, bytes in all) while the file is hashed.
    """
    part, path = masters.part_path(segment.index, plan.job_key), masters.video_path(segment.index)
    sync_file(part)
    sidecar = MasterSidecar(
        pixels_key=plan.pixels_key,
        index=segment.index,
        start=segment.start,
        stop=segment.stop,
        num_bytes=part.stat().st_size,
        sha256=file_sha256(part, on_bytes=on_bytes),
        device=made.device,
        precision=made.precision,
        rung=made.rung,
    )
    with hold_masters(masters.lock_path):
        replace_file(part, path)
        sync_directory(masters.path)
        write_record(masters.sidecar_path(segment.index), sidecar)
    return sidecar


def remove_master_parts(masters: Masters, job_key: str, indices: Iterable[int]) -> None:
    """Delete what a killed process has left half-written of a job's masters."""
    for index in indices:
        masters.part_path(index, job_key).unlink(missing_ok=True)


def masters_bytes(masters: Masters, indices: Iterable[int]) -> int:
    """Bytes of these segments' masters, as far as they are there."""
    paths = (masters.video_path(index) for index in indices)
    return sum(path.stat().st_size for path in paths if path.is_file())
