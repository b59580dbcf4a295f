"""The storage that the settings name."""

from collections.abc import Callable

from seedvr2_core.errors import StorageError, StorageRefusedError
from tasks.settings import Settings
from tasks.storage.base import Storage, logger
from tasks.storage.local import LocalStorage


def open_storage(
    settings: Settings, *, on_sent: Callable[[int, int], None] | None = None
) -> Storage:
    """The storage that the settings name.

    Args:
        settings: of this installation.
        on_sent: told bytes sent and bytes in all while a file goes over the network.

    Raises:
        StorageRefusedError: what the storage needs is not set.
    """
    if settings.storage == "bunny":
        from tasks.storage.bunny import BunnyStorage  # which needs this module's words
        from tasks.storage.bunny_zone import read_zone

        return BunnyStorage(read_zone(settings), on_sent=on_sent)
    return LocalStorage(settings.storage_dir, public_url=settings.public_url)


def check_storage(settings: Settings) -> None:
    """Refuse at the door what could not be delivered in the end: a storage is asked once.

    One that does not answer now may do so when the video is done; a warning says so.

    Raises:
        StorageRefusedError: credentials are missing, or the storage refuses them.
    """
    if settings.storage == "local":
        return
    try:
        open_storage(settings).stat("seedvr2-door-check.mp4")
    except StorageRefusedError:
        raise
    except StorageError as error:
        logger.warning("the storage does not answer now, the job begins all the same: %s", error)
