"""Names that people give sources, made harmless: for titles, output names and results."""

import contextlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.video.sequence.names import pattern_of
from tasks.schemas import FetchedSource

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

    User, host, query and fragment of an address are not part of it. A pattern of pictures is named
    after what is before the number, or after its folder.
    """
    pattern = None if "://" in source else pattern_of(Path(source))
    if pattern is not None:
        return plain_name(pattern.title)
    try:
        path = urlsplit(source).path if "://" in source else source
        return plain_name(path.rstrip("/"))
    except ValueError:
        return ""


@contextlib.contextmanager
def called_by_name(source: FetchedSource) -> Iterator[None]:
    """Let errors of the block name the source as people do.

    Downloads and uploads lie under their digests, and whoever reads the file knows no other name.

    Raises: the same kind of error with the name in place of the digest.
    """
    try:
        yield
    except SeedVR2Error as error:
        told = str(error).replace(str(source.path), source.name)
        if source.path.name == source.sha256:
            told = told.replace(source.sha256, source.name)
        if told == str(error):
            raise
        raise type(error)(told) from error


def printable(text: str) -> str:
    """The text with everything that could steer a terminal shown as an escape code.

    Spaces and line breaks stay. Bytes of a file name that are no UTF-8 are shown as \\xNN.
    """
    return "".join(c if _is_harmless(c) else _escaped(c) for c in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char == "\n" or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python could not decode (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
