"""Chooses the storage that the settings name, and checks it before a job begins."""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from seedvr2_core.errors import StorageError, StorageRefusedError
from seedvr2_core.files.place import try_writing
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.job.output_file import OutputFile
from tasks.settings import Settings
from tasks.storage.base import Storage
from tasks.storage.bunny import BunnyStorage
from tasks.storage.bunny_zone import read_zone
from tasks.storage.by_put import PutStorage
from tasks.storage.in_bucket import BucketStorage
from tasks.storage.local import LocalStorage
from tasks.storage.one_file import FileStorage

logger = logging.getLogger(__name__)

# A context variable, so that two runs in one process do not see each other's.
_output: ContextVar[OutputFile | None] = ContextVar("output", default=None)
_delivery: ContextVar[str | None] = ContextVar("delivery", default=None)


@contextlib.contextmanager
def delivered_to(url: str | None) -> Iterator[None]:
    """Let the run inside the `with` block send its video to this address.

    It takes the place of the storage that the settings name; None: that storage is used.
    """
    token = _delivery.set(url)
    try:
        yield
    finally:
        _delivery.reset(token)


def takes_video_alone() -> bool:
    """Whether there is no place for other files beside the video."""
    return _delivery.get() is not None


@contextlib.contextmanager
def stored_as(output: OutputFile | None) -> Iterator[None]:
    """Let the jobs that run inside the `with` block store their result as this file.

    It takes the place of the storage that the settings name; None: that storage is used.
    """
    token = _output.set(output)
    try:
        yield
    finally:
        _output.reset(token)


def storage_folder(settings: Settings) -> Path | None:
    """The folder that results are written to; None if it is not on this machine."""
    if output := _output.get():
        return FileStorage(output).folder
    if takes_video_alone():
        return None
    return settings.storage_dir if settings.storage == "local" else None


def makes_folder() -> bool:
    """Whether results are unpacked into a folder, so that their bytes are written once more."""
    output = _output.get()
    return output is not None and output.folder


def open_storage(settings: Settings, *, on_bytes: OnBytes = no_bytes) -> Storage:
    """The storage that the settings name, the file of `stored_as`, or `delivered_to`'s address.

    Args:
        settings: of this installation.
        on_bytes: called with the bytes done and the bytes in all while a file is sent, copied or
            read to its end.

    Raises:
        StorageRefusedError: a setting that the storage needs is missing or wrong.
    """
    if output := _output.get():
        return FileStorage(output, on_bytes=on_bytes)
    if url := _delivery.get():
        return PutStorage(url, settings, on_bytes=on_bytes)
    if settings.storage == "bunny":
        return BunnyStorage(read_zone(settings), on_bytes=on_bytes)
    if settings.storage == "local":
        folder, url = settings.storage_dir, settings.public_url
        return LocalStorage(folder, public_url=url, on_bytes=on_bytes)
    return BucketStorage(settings, on_bytes=on_bytes)


def check_storage(settings: Settings) -> None:
    """Ask the storage once, so that a job that could not be delivered is refused at its beginning.

    If the storage does not answer, that is only a warning: it may answer when the video is done.

    Raises:
        StorageRefusedError: credentials are missing, or the storage refuses them; the folder
            cannot be written.
        SourceRefusedError: the caller's address may not be asked.
    """
    folder = storage_folder(settings)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try_writing(folder)
        except OSError as error:
            raise StorageRefusedError(
                f"the output folder {folder} cannot be written: {error.strerror}; make room or "
                "give it to this user, or name another one with SEEDVR2_OUTPUT_DIR"
            ) from error
        return
    try:
        storage = open_storage(settings)
        if isinstance(storage, PutStorage):
            storage.check()
        else:
            storage.stat("seedvr2-door-check.mp4")
    except StorageRefusedError:
        raise
    except StorageError as error:
        logger.warning("the storage does not answer now, the job begins all the same: %s", error)
