"""Upload: put the finished file into storage."""

from prefect import get_run_logger

from tasks.run import current
from tasks.schemas import JoinedVideo, StoredVideo
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import open_storage
from tasks.storage.base import STALL_SECONDS


@step(name="upload", retries=4, retry_delay_seconds=[2, 8, 30, 120], retry_jitter_factor=0.5)
def upload(video: JoinedVideo, name: str) -> StoredVideo:
    """Put the file into storage; bytes that are there already are not sent again.

    Side effects: one file in storage, named `name`, or `name` with -<n> if other bytes have it.
    Raises: StorageError (retried), StorageRefusedError (final: key, zone or request are wrong),
        ResourceError if the storage is full (final).
    """

    def sent(num_bytes: int, total: int) -> None:
        current().progress(
            phase="upload",
            frames=video.num_frames,
            num_frames=video.num_frames,
            stall_seconds=STALL_SECONDS,
            detail=f"{num_bytes / 1e6:.0f} of {total / 1e6:.0f} MB",
        )

    sent(0, video.num_bytes)
    storage = open_storage(get_settings(), on_bytes=sent)
    stored = storage.put(video.path, name, sha256=video.sha256)
    get_run_logger().info("stored as %s (%d bytes)", stored.name, stored.num_bytes)
    return StoredVideo(
        name=stored.name,
        url=stored.url,
        path=stored.path,
        sha256=stored.sha256,
        num_bytes=stored.num_bytes,
    )
