"""Verify: the storage itself says that it holds the file, whole."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from seedvr2_core.errors import StorageError
from tasks.retry import retryable
from tasks.schemas import StoredVideo
from tasks.settings import get_settings
from tasks.storage import open_storage


@task(
    name="verify",
    retries=4,
    retry_delay_seconds=[1, 2, 4, 8],
    retry_jitter_factor=0.5,
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def verify(stored: StoredVideo) -> StoredVideo:
    """Compare what the storage holds with what was uploaded (a local folder reads every byte).

    Raises: StorageError that names what, expected and got (retried: a storage may need a moment).
    """
    found = open_storage(get_settings()).stat(stored.name)
    if found is None:
        raise StorageError(f"{stored.name} is not in storage after its upload; run the job again")
    for what, expected, got in (
        ("length", stored.size_bytes, found.length),
        ("sha256", stored.sha256, found.sha256),
    ):
        if got != expected:
            raise StorageError(
                f"{stored.name} in storage has the wrong {what}: expected {expected}, got {got}; "
                "remove it there and run the job again"
            )
    return stored
