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
    """The record of a file; None if there is none or the file has changed since."""
    try:
        record = read_record(record_path(path), WeightsRecord)
        stat = path.stat()
    except (OSError, SegmentError):
        return None
    same = (record.format, record.size, record.mtime_ns)
    return record if same == (_RECORD_FORMAT, stat.st_size, stat.st_mtime_ns) else None


def save_weights_record(path: Path, record: WeightsRecord) -> None:
    """Keep a record; if the folder cannot be written, the file is examined again each time."""
    if read_weights_record(path) == record:
        return
    try:
        write_record(record_path(path), record)
    except OSError as error:
        logger.warning(
            "cannot keep what is known of %s beside it (%s): it will be examined each time",
            path,
            error.strerror,
        )
