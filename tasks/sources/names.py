"""Names of sources."""

from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

_MAX_NAME = 120


def plain_name(name: str) -> str:
    """A file name without directories, percent codes and what does not print; may be empty."""
    last = unquote(name, errors="replace").replace("\\", "/").rpartition("/")[2]
    last = "".join(c for c in last if c.isprintable()).strip().lstrip(".").strip()
    if len(last) <= _MAX_NAME:
        return last
    suffix = PurePosixPath(last).suffix[:16]
    return last[: _MAX_NAME - len(suffix)] + suffix


def name_in(source: str) -> str:
    """The file name in an address or a path, for titles: without user, host, query and fragment."""
    try:
        path = urlsplit(source).path if "://" in source else source
        return plain_name(path.rstrip("/"))
    except ValueError:
        return ""
