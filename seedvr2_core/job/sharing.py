"""Says that other runs than the one at work may make segments of a job, and what they must know."""

from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import read_record
from seedvr2_core.job.job_dir import JobDir


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What the run at work tells those that help it; it removes the file before it goes on."""

    run_id: str
    """Of the run at work."""
    workers: int
    """By how many processes the job is shared at most."""
    device: str
    """Torch device string of the run at work."""
    source: Path
    """The source, where all of them see it."""
    source_name: str
    """Its name for people."""
    source_bytes: int


def read_sharing(job_dir: JobDir, run_id: str) -> Sharing | None:
    """What a run tells its helpers; None if it does not want any, or not any more."""
    try:
        sharing = read_record(job_dir.sharing_path, Sharing)
    except (FileNotFoundError, SegmentError):
        return None
    return sharing if sharing.run_id == run_id else None
