"""Which probe has found what a record says: a record of another one is not taken for today's."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path


@functools.cache
def prober() -> str:
    """A digest of the code in this folder and of the library that it reads media with."""
    found = hashlib.sha256(importlib.metadata.version("av").encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
