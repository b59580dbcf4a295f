"""Reads and writes small files that must survive a crash: plans, probe results, segment sidecars.

A file is complete or absent: it is written under another name beside its own, synced, and then
renamed. pydantic is imported only when a record is read or written, because model code imports this
module in environments that have nothing but torch and numpy.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seedvr2_core.errors import SegmentError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def write_record(path: Path, record: object) -> None:
    """Write a dataclass (or plain JSON value) to `path` as JSON, complete or not at all."""
    write_bytes(path, _adapter(type(record)).dump_json(record))


def read_record(path: Path, kind: type[T]) -> T:
    """Read a dataclass that `write_record` has written.

    Raises:
        SegmentError: the file is not a valid record of that kind.
        FileNotFoundError: there is no such file.
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        raise SegmentError(
            f"{path} is not a valid {kind.__name__} record ({error.error_count()} errors); "
            "remove it and run again"
        ) from error


@functools.cache
def _adapter(kind: type[Any]) -> "TypeAdapter[Any]":
    """What turns records of a kind into JSON and back; to build it takes tens of milliseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, complete or not at all; it is on disk when this returns."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    sync_directory(path.parent)


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


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
