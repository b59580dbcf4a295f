"""What was found out about a weights file, kept beside it as JSON."""

import logging
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.weights.matching import QuantizedSize

logger = logging.getLogger(__name__)

RECORD_SUFFIX = ".seedvr2.json"
_RECORD_FORMAT = 1
_UNKEPT: dict[Path, "WeightsRecord"] = {}
"""Records that could not be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRecord:
    """What was found out about a file; kept beside it as JSON."""

    format: int = _RECORD_FORMAT
    size: int
    mtime_ns: int
    part: str
    """As names and shapes tell: dit-7b for the sharp 7B too."""
    dtypes: tuple[str, ...]
    has_text: bool = False
    """Whether a transformer's file brings the positive text embedding."""
    quantized_size: QuantizedSize | None = None
    """None in records of earlier versions."""
    sha256: str | None = None
    publisher: str = ""
    """The status in words, for people who read the record."""
    source: str | None = None
    """Where it was downloaded from: repository@commit."""
    fault: str = ""
    """Why it must not be used, if `verify_file` found a reason; else empty."""


def record_path(path: Path) -> Path:
    """Where the record of a file is."""
    return path.with_name(path.name + RECORD_SUFFIX)


def read_weights_record(path: Path) -> WeightsRecord | None:
    """The record of a file; None if there is none or the file has changed since.

    Size and modification time tell. The inode would not survive a copy of the folder with its
    records, or an image of it on another machine, where it would be hashed at every start.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    now = (_RECORD_FORMAT, stat.st_size, stat.st_mtime_ns)
    for record in (_UNKEPT.get(path), _written(path)):
        if record is not None and (record.format, record.size, record.mtime_ns) == now:
            return record
    return None


def _written(path: Path) -> WeightsRecord | None:
    try:
        return read_record(record_path(path), WeightsRecord)
    except (OSError, SegmentError):
        return None


def save_weights_record(path: Path, record: WeightsRecord) -> None:
    """Keep a record; where the folder cannot be written, for this process alone."""
    if read_weights_record(path) == record:
        return
    try:
        write_record(record_path(path), record)
        _UNKEPT.pop(path, None)
    except OSError as error:
        _UNKEPT[path] = record
        logger.warning(
            "cannot keep what is known of %s beside it (%s): each process will examine it anew",
            path,
            error.strerror,
        )
