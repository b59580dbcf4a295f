"""Verify: the storage says that it holds the file, and its public address, if any, shows it."""

from prefect import get_run_logger

from seedvr2_core.errors import StorageError
from tasks.run import current
from tasks.schemas import JoinedVideo, StoredVideo
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import Stored, open_storage
from tasks.storage.base import STALL_SECONDS
from tasks.storage.public import wait_until_served


@step(name="verify", retries=4, retry_delay_seconds=[1, 2, 4, 8], retry_jitter_factor=0.5)
def verify(stored: StoredVideo, video: JoinedVideo) -> StoredVideo:
    """Compare storage and public address with the file that was uploaded.

    A local folder reads every byte of its copy. The public address is asked for the first and the
    last bytes, for as long as SEEDVR2_VERIFY_SECONDS: CDNs remember that a file was missing.

    Raises:
        StorageError: the storage lost or changed it (retried: a storage may need a moment).
        NotServedError, ForbiddenError, WrongBytesError: what the public address shows (final).
    """
    settings = get_settings()
    check_described(stored, open_storage(settings).stat(stored.name))
    if stored.url is not None:

        def waiting(seen: StorageError) -> None:
            get_run_logger().info("not served yet: %s", seen)
            _beat(video, str(seen))

        _beat(video, "asking the public address")
        patience = settings.verify_seconds
        wait_until_served(stored.url, video.path, patience=patience, on_wait=waiting)
    return stored


def check_described(stored: StoredVideo, found: Stored | None) -> None:
    """Compare what the storage tells of a file with what was uploaded.

    Raises:
        StorageError: names what, expected and got.
    """
    if found is None:
        raise StorageError(f"{stored.name} is not in storage after its upload; run the job again")
    for what, expected, got in (
        ("length", stored.num_bytes, found.num_bytes),
        ("sha256", stored.sha256, found.sha256 or "none yet"),
    ):
        if got != expected:
            raise StorageError(
                f"{stored.name} in storage has the wrong {what}: expected {expected}, got {got}; "
                "remove it there and run the job again"
            )


def _beat(video: JoinedVideo, doing: str) -> None:
    """A sign of life while nothing can be done but wait."""
    current().progress(
        phase="verify",
        frames=video.num_frames,
        num_frames=video.num_frames,
        stall_seconds=STALL_SECONDS,
        detail=doing,
    )
