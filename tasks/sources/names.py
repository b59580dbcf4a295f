"""Names that people give sources, made harmless: for titles, output names and results."""

from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

_MAX_NAME = 120
"""Characters of a name, its suffix included."""


def plain_name(name: str) -> str:
    """Make a file name out of a name or path that somebody sent.

    Directories, percent codes, leading dots and unprintable characters are removed, and the name is
    cut to 120 characters with its suffix kept. The result may be empty.
    """
    last = unquote(name, errors="replace").replace("\\", "/").rpartition("/")[2]
    last = "".join(c for c in last if c.isprintable()).lstrip(". ").rstrip()
    if len(last) <= _MAX_NAME:
        return last
    suffix = PurePosixPath(last).suffix[:16]
    return last[: _MAX_NAME - len(suffix)] + suffix


def name_in(source: str) -> str:
    """The file name in an address or a path, for titles; "" if there is none.

    User, host, query and fragment of an address are not part of it.
    """
    try:
        path = urlsplit(source).path if "://" in source else source
        return plain_name(path.rstrip("/"))
    except ValueError:
        return ""
