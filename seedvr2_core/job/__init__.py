"""A job's directory on disk: its file names, finished segments, latents and space."""

from seedvr2_core.job.job_dir import JobDir
from seedvr2_core.job.sidecar import deviations, pending_segments

__all__ = [
    "JobDir",
    "deviations",
    "pending_segments",
]
