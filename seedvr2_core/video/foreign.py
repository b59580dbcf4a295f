"""Errors that the media library raises, in words.

FFmpeg and PyAV raise many kinds of errors for files that nobody has foreseen, and the next version
of them raises others. They are about the file, so whoever reads one says so in one sentence; the
traceback goes to the log of the process.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from seedvr2_core.errors import InvalidVideoError, SeedVR2Error
from seedvr2_core.files.space import is_full

_log = logging.getLogger(__name__)
_listening = threading.RLock()
"""The level of libav's log is one for the whole process."""


@contextlib.contextmanager
def media_errors_told(path: Path, doing: str) -> Iterator[None]:
    """Turn an error that no other part has foreseen into one about the file.

    Our own errors pass unchanged, and so do those of the machine: a full disk, a folder that may
    not be written, memory that has run out.

    Args:
        path: the video that is read.
        doing: what is being done with it: "its packets are counted".

    Raises:
        InvalidVideoError: the library failed.
    """
    try:
        yield
    except (SeedVR2Error, MemoryError):
        raise
    except Exception as error:
        if is_full(error) or _is_the_machines(error):
            raise
        _log.info("%s: while %s", path.name, doing, exc_info=True)
        said = " ".join(str(error).split()) or "no reason given"
        raise InvalidVideoError(
            f"{path.name}: the media library failed while {doing} ({type(error).__name__}: {said});"
            " the file is damaged, or of a kind that is not known here: convert it to an ordinary "
            "mp4 first"
        ) from error


@contextlib.contextmanager
def libav_heard() -> Iterator[list[tuple[int, str, str]]]:
    """What libav logs of errors in this thread in the `with` block: (level, who, text) each.

    It says more than the number that a call returns; and some decoders return nothing else.
    """
    import av.logging

    with _listening:
        level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # the line before may be another file's
        try:
            with av.logging.Capture() as lines:
                yield lines
        finally:
            av.logging.set_skip_repeated(skips)
            av.logging.set_level(level)


def _is_the_machines(error: Exception) -> bool:
    """Whether the operating system has raised an error, not the media library in its words."""
    return isinstance(error, OSError) and not type(error).__module__.startswith("av.")
