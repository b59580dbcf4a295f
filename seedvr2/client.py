"""The typed client of the gateway under a name that other programs can rely on.

    from seedvr2.client import TypedClient

    with TypedClient("https://gateway.example.org", token="...") as client:
        job = client.submit("clip.mp4", resolution="1080p")
        ended = client.wait(job["job_id"])
        client.download(ended, "restored.mp4")

What a refusal raises stands in `seedvr2_core.errors`. It loads no Prefect and no torch.
"""

from deployments.gateway.typed import (
    JobDeletion,
    JobState,
    JobStatus,
    JobTicket,
    LogEntry,
    TypedClient,
    UpscaleOptions,
)

__all__ = [
    "JobDeletion",
    "JobState",
    "JobStatus",
    "JobTicket",
    "LogEntry",
    "TypedClient",
    "UpscaleOptions",
]
