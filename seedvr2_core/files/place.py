"""Gives a finished file its name elsewhere: complete or absent, and never over a file unasked.

On the same file system the bytes are not copied: the name becomes a hard link. Both names then
share the bytes, which is safe because nobody opens a finished file for writing again. From another
file system the file is copied under a temporary name beside its own, synced, and then named.
"""

import errno
import os
from pathlib import Path

from seedvr2_core.files.durable import sync_directory, sync_file
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.files.writing import copy_file

_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


def place(
    path: Path,
    target: Path,
    *,
    part_name: str,
    replace: bool = False,
    on_bytes: OnBytes = no_bytes,
) -> bool:
    """Put a finished file under `target` as well.

    Args:
        path: the file; it keeps its name.
        target: the new name.
        part_name: temporary name in the target's folder, which no other file has. A file of that
            name is what a killed process has left.
        replace: whether a file that has the name already is replaced.
        on_bytes: called with (bytes copied, bytes in all) while the file is copied.

    Returns:
        False if the name is taken and the file there may not be replaced; nothing is changed then.

    Raises:
        OSError: the file cannot be read, or the folder cannot be written.
    """
    if not replace and os.path.lexists(target):
        return False
    staged = target.with_name(part_name)
    staged.unlink(missing_ok=True)
    try:
        _bring(path, staged, on_bytes)
        return _publish(staged, target, replace=replace)
    finally:
        staged.unlink(missing_ok=True)


def try_writing(folder: Path) -> None:
    """Write an empty file into a folder and remove it again.

    Raises:
        OSError: why the folder cannot be written.
    """
    trial = folder / f".seedvr2-{os.getpid()}.part"
    try:
        trial.touch()
    finally:
        trial.unlink(missing_ok=True)


def _bring(path: Path, staged: Path, on_bytes: OnBytes) -> None:
    """Link the file to its temporary name, or copy it if it cannot be linked."""
    try:
        os.link(path, staged)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        copy_file(path, staged, on_bytes=on_bytes)
        sync_file(staged)


def _publish(staged: Path, target: Path, *, replace: bool) -> bool:
    """Give the file its name; False if the name was taken in the meantime."""
    if replace:
        staged.replace(target)
    else:
        try:
            os.link(staged, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            if not _take_name(target):
                return False
            staged.replace(target)
    sync_directory(target.parent)
    return True


def _take_name(target: Path) -> bool:
    """Make an empty file of this name, for file systems without hard links; False if it is taken.

    The rename that follows replaces this file and no other.
    """
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True
