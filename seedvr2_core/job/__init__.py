"""A job's directory on disk: its file names, finished segments, latents and space.

The names are loaded on first use: the command line needs an output's name and no segments.
"""

from typing import TYPE_CHECKING

from seedvr2_core.lazy import loaded_on_use

if TYPE_CHECKING:
    from seedvr2_core.job.job_dir import JobDir
    from seedvr2_core.job.sidecar import deviations, pending_segments

__all__ = [
    "JobDir",
    "deviations",
    "pending_segments",
]

__getattr__ = loaded_on_use(
    __name__,
    {
        "JobDir": "seedvr2_core.job.job_dir",
        "deviations": "seedvr2_core.job.sidecar",
        "pending_segments": "seedvr2_core.job.sidecar",
    },
)
