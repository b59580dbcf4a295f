"""Files that are complete or absent, locks between processes, and free space on the disk."""

from seedvr2_core.files.durable import file_sha256, read_record, write_record
from seedvr2_core.files.locks import hold_lock

__all__ = [
    "file_sha256",
    "hold_lock",
    "read_record",
    "write_record",
]
