"""Whether two processes see the same files by the same paths."""

import hashlib
import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_machine() -> str:
    """A name for this machine since its last boot, and for the root folder this process sees.

    Two processes get the same name exactly if a path means the same file to both of them. A process
    at the other end of an ssh tunnel is on another machine; one in a container has another root.
    """
    root = os.stat("/")
    identity = f"{_BOOT_ID.read_text().strip()}:{root.st_dev}:{root.st_ino}"
    return hashlib.sha256(identity.encode()).hexdigest()
