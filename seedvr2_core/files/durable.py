"""Reads and writes small files that must survive a crash: plans, probe results, segment sidecars.

A file is complete or absent: it is written under another name beside its own, synced, and then
renamed. pydantic is imported only when a record is read or written, because model code imports this
module in environments that have nothing but torch and numpy.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TypeVar

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes

T = TypeVar("T")
_HASHED_BYTES = 2**20


def write_record(path: Path, record: object) -> None:
    """Write a dataclass (or plain JSON value) to `path` as JSON, complete or not at all."""
    from pydantic import TypeAdapter

    write_bytes(path, TypeAdapter(type(record)).dump_json(record))


def read_record(path: Path, kind: type[T]) -> T:
    """Read a dataclass that `write_record` has written.

    Raises:
        SegmentError: the file is not a valid record of that kind.
        FileNotFoundError: there is no such file.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        raise SegmentError(
            f"{path} is not a valid {kind.__name__} record ({error.error_count()} errors); "
            "remove it and run again"
        ) from error


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


def file_sha256(path: Path, *, on_bytes: OnBytes = no_bytes) -> str:
    """Hex SHA-256 of a file's bytes.

    Args:
        path: the file.
        on_bytes: called with (bytes hashed, bytes in all): a large file takes minutes.

    Raises:
        FileReadError: the machine failed to read it.
        OSError: it cannot be opened.
    """
    digest = hashlib.sha256()
    with FileReader(path, on_bytes=on_bytes) as file:
        while piece := file.read(_HASHED_BYTES):
            digest.update(piece)
    return digest.hexdigest()
