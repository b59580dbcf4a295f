"""Chooses the storage that the settings name, and checks it before a job begins."""

import logging

from seedvr2_core.errors import StorageError, StorageRefusedError
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.settings import Settings
from tasks.storage.base import Storage
from tasks.storage.bunny import BunnyStorage
from tasks.storage.bunny_zone import read_zone
from tasks.storage.local import LocalStorage

logger = logging.getLogger(__name__)


def open_storage(settings: Settings, *, on_bytes: OnBytes = no_bytes) -> Storage:
    """The storage that the settings name.

    Args:
        settings: of this installation.
        on_bytes: called with the bytes done and the bytes in all while a file is sent, copied or
            read to its end.

    Raises:
        StorageRefusedError: a setting that the storage needs is missing or wrong.
    """
    if settings.storage == "bunny":
        return BunnyStorage(read_zone(settings), on_bytes=on_bytes)
    return LocalStorage(settings.storage_dir, public_url=settings.public_url, on_bytes=on_bytes)


def check_storage(settings: Settings) -> None:
    """Ask the storage once, so that a job that could not be delivered is refused at its beginning.

    If the storage does not answer, that is only a warning: it may answer when the video is done.

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
