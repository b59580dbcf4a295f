"""Which probe has made a record of a video."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path


@functools.cache
def prober() -> str:
    """A digest of the code that probes, and of the library it stands on.

    A record of another one is not taken for today's.
    """
    found = hashlib.sha256(importlib.metadata.version("av").encode())
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
