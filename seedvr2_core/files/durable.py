"""Reads and writes small files that must survive a crash: plans, probe results, segment sidecars.

A file is complete or absent: it is written under another name beside its own, synced, and then
renamed. pydantic is imported only when a record is read or written, because model code imports this
module in environments that have nothing but torch and numpy.
"""

import functools
import hashlib
import itertools
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes

if TYPE_CHECKING:
    from hashlib import _Hash

    from pydantic import TypeAdapter

T = TypeVar("T")
_HASHED_BYTES = 2**20
MAX_RECORD_BYTES = 2**30
"""The plan of a million shots has 0.16 GB."""
SET_ASIDE = ".set-aside-"
"""Behind the name of a folder that was in the place of one of our files; a number follows."""

logger = logging.getLogger(__name__)


def write_record(path: Path, record: object) -> None:
    """Write a dataclass (or plain JSON value) to `path` as JSON, complete or not at all."""
    write_bytes(path, _adapter(type(record)).dump_json(record))


def read_record(path: Path, kind: type[T]) -> T:
    """Read a dataclass that `write_record` has written.

    Raises:
        SegmentError: it is not a valid record of that kind, or no file at all: damaged, or written
            by another program. What it says must be made anew.
        FileNotFoundError: there is nothing of that name.
    """
    from pydantic import ValidationError

    # A pipe would let us wait for ever, and a device would fill the memory.
    if not path.is_file() and (os.path.lexists(path) or path.parent.is_file()):
        raise SegmentError(f"{path} is no file, expected a {kind.__name__} record")
    if (size := path.stat().st_size) > MAX_RECORD_BYTES:
        raise SegmentError(f"{path} has {size} bytes, more than any {kind.__name__} record")
    try:
        return _adapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        raise SegmentError(
            f"{path} is not a valid {kind.__name__} record ({error.error_count()} errors)"
        ) from error


@functools.cache
def _adapter(kind: type[Any]) -> "TypeAdapter[Any]":
    """What turns records of a kind into JSON and back; to build it takes tens of milliseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, complete or not at all; it is on disk when this returns."""
    part = path.with_name(path.name + ".part")
    make_way(part)
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(part, path)
    except OSError:  # on a full disk half a file would stay in the way
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def replace_file(part: Path, path: Path) -> None:
    """Give a file its name. A folder in that place is set aside; its content is not ours."""
    make_way(path)
    part.replace(path)


def make_way(path: Path) -> None:
    """Rename a folder that is in the place of one of our files."""
    if path.is_symlink() or not path.is_dir():
        return
    names = (path.with_name(f"{path.name}{SET_ASIDE}{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    logger.warning("%s was a folder, expected a file; it is now %s", path, aside.name)


def sync_file(path: Path) -> None:
    """Return when the file's content is on disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Return when the directory's entries are on disk: renames, new files, deletions."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def canonical_json(value: object) -> str:
    """The same text for equal values: keys are sorted, and there is no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def file_sha256(path: Path, *, on_bytes: OnBytes = no_bytes) -> str:
    """Hex SHA-256 of a file's bytes.

    Args:
        path: the file.
        on_bytes: called with (bytes hashed, bytes in all): a large file takes minutes.

    Raises:
        FileReadError: the machine failed to read it.
        OSError: it cannot be opened.
    """
    return digest_of(path, on_bytes=on_bytes).hexdigest()


def digest_of(path: Path, *, on_bytes: OnBytes = no_bytes) -> "_Hash":
    """A SHA-256 of a file's bytes to which others can be added; see `file_sha256`."""
    digest = hashlib.sha256()
    with FileReader(path, on_bytes=on_bytes) as file:
        while piece := file.read(_HASHED_BYTES):
            digest.update(piece)
    return digest
