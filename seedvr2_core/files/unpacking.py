"""Makes a folder of an archive of ours: whole or absent, and never over anything that is there.

The folder is written beside its name, brought to the disk and renamed. A hidden file in it says
which archive it was made of, so that it can be compared with that later on.
"""

import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.durable import read_record, sync_directory, sync_file, write_record
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.files.writing import FileWriter

_RECORD_NAME = ".archive.json"
_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What a folder was made of."""

    sha256: str
    num_bytes: int
    files: tuple[tuple[str, int, int], ...]
    """Name, bytes and CRC-32 of each."""


def unpack(archive: Path, target: Path, *, sha256: str, on_bytes: OnBytes = no_bytes) -> bool:
    """Make a folder of the files in a zip of ours.

    Args:
        archive: the zip, without folders in it.
        target: the folder, which does not exist or is empty.
        sha256: of the zip.
        on_bytes: called with (bytes read, bytes in all).

    Returns:
        False if something has the name; nothing is changed then.

    Raises:
        OSError: the folder cannot be written.
        SegmentError: the archive is damaged.
    """
    part = target.with_name(f".{sha256}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        files = _extract(archive, part, on_bytes)
        record = Archive(sha256=sha256, num_bytes=archive.stat().st_size, files=files)
        write_record(part / _RECORD_NAME, record)
        sync_directory(part)
        return _publish(part, target)
    except zipfile.BadZipFile as error:
        raise SegmentError(f"{archive.name} is damaged: {error}; run the job again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _extract(archive: Path, part: Path, on_bytes: OnBytes) -> tuple[tuple[str, int, int], ...]:
    """Write all files of the zip, whose sums are compared."""
    with FileReader(archive, on_bytes=on_bytes) as file, zipfile.ZipFile(file) as folder:
        entries = folder.infolist()
        for entry in entries:
            path = part / Path(entry.filename).name
            with folder.open(entry) as source, FileWriter(path) as target:
                while piece := source.read(_PIECE_BYTES):
                    target.write(piece)
            sync_file(path)
        return tuple((entry.filename, entry.file_size, entry.CRC) for entry in entries)


def _publish(part: Path, target: Path) -> bool:
    """Give the folder its name, unless a file or a folder with something in it has that."""
    try:
        os.rename(part, target)
    except OSError:
        if os.path.lexists(target):
            return False
        raise
    sync_directory(target.parent)
    return True


def archive_of(folder: Path, *, on_bytes: OnBytes = no_bytes) -> Archive | None:
    """The archive that a folder was made of, if the folder still has all of its bytes; else None.

    Raises:
        FileReadError: the machine failed to read it.
    """
    try:
        record = read_record(folder / _RECORD_NAME, Archive)
        whole = all(_holds(folder / name, size, crc, on_bytes) for name, size, crc in record.files)
    except (FileNotFoundError, NotADirectoryError, SegmentError):
        return None
    return record if whole else None


def _holds(path: Path, num_bytes: int, crc: int, on_bytes: OnBytes) -> bool:
    """Whether a file has this many bytes, and this sum of them."""
    if path.stat().st_size != num_bytes:
        return False
    found = 0
    with FileReader(path, on_bytes=on_bytes) as file:
        while piece := file.read(_PIECE_BYTES):
            found = zlib.crc32(piece, found)
    return found == crc
