"""Reads and writes the JSON files of a job: plan.json, probe results, segment sidecars.

A file is complete or absent: written beside its name, synced, then renamed. pydantic is loaded when
a record is read or written: model code imports this file where torch and numpy are all there is.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TypeVar

from seedvr2_core.errors import SegmentError

T = TypeVar("T")


def write_record(path: Path, record: object) -> None:
    """Write a dataclass (or plain JSON value) to `path`, atomically and durably."""
    from pydantic import TypeAdapter

    write_bytes(path, TypeAdapter(type(record)).dump_json(record))


def read_record(path: Path, kind: type[T]) -> T:
    """Read a dataclass back.

    Raises:
        SegmentError: the file is not a valid record of that kind.
        FileNotFoundError: there is none.
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
    """Write beside the name, sync, rename, sync the directory."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Make a rename inside the directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
