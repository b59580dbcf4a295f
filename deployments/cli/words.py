"""Numbers and names as the commands show them."""

import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from seedvr2_core.errors import InvalidRequestError

_LATE_SECONDS = 15.0
"""Prefect receives log lines in batches: a line may come in this long after its time."""

ENDED_WELL = "Finished in state Completed()"
"""Prefect's line about each task that ended well; which one it was stands in its UI alone."""


def amount(megabytes: float) -> str:
    """Megabytes, from a thousand on as gigabytes, and little ones as kilobytes."""
    if megabytes < 0.1:
        return f"{math.ceil(1000 * megabytes)} kB"
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.1f} MB"


def terminal_columns() -> int | None:
    """How wide the terminal is that shows stdout; None for a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(lines: Iterable[str], *, indent: int, columns: int | None) -> str:
    """A table of two or three columns, of which the last one is wrapped where it is too wide.

    Args:
        lines: of the table, each beginning in column 0.
        indent: where the last column begins.
        columns: how wide the table may be; None, or too few for that: each line stays as it is.
    """
    if columns is None or columns < indent + 20:
        return "\n".join(lines)
    return "\n".join(
        textwrap.fill(
            line,
            columns,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    )


def wrapped(line: str) -> str:
    """A line as the terminal that shows stdout is wide, between words; elsewhere as it is."""
    return table([line], indent=2, columns=terminal_columns())


def duration(seconds: float) -> str:
    """Seconds: "4.2 s", "41 s", "3 min 05 s" or "2 h 05 min"; negative ones count as none."""
    seconds = max(0.0, seconds)
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def check_named(sources: Sequence[str]) -> None:
    """Refuse an empty SOURCE: as a path it would be the folder in which the command is run.

    Raises:
        InvalidRequestError: one names nothing.
    """
    if any(not source.strip() for source in sources):
        raise InvalidRequestError(
            "a SOURCE is empty; name a file or an address (is a variable of the shell not set?)"
        )


def absolute(path: Path, what: str) -> Path:
    """The absolute path that a user means, with "~" replaced.

    Args:
        path: as it was given.
        what: the option or argument that names it, for the message.

    Raises:
        InvalidRequestError: its bytes are no UTF-8, in which all records are written; or "~user"
            names nobody.
    """
    try:
        str(path).encode()
        return path.expanduser().absolute()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            f"{what}: the name {path} holds bytes that are no UTF-8; rename it, or make a link "
            "with a plain name to it (ln -s)"
        ) from None
    except RuntimeError:
        raise InvalidRequestError(
            f"{what}: {path} names the home of a user who is not known here; write the path in full"
        ) from None
    except FileNotFoundError:
        raise InvalidRequestError(
            f"{what}: {path} is relative, and the current folder was removed; change to another one"
        ) from None


def log_line(entry: dict[str, Any]) -> str:
    """A log line for people: time, level, message."""
    at = datetime.fromisoformat(entry["at"]).astimezone()
    return f"{at:%H:%M:%S} {entry['level']:<8}{entry['message']}"


def earlier(at: str) -> str:
    """The time from which on the next look must read, if the last line was logged `at`."""
    return (datetime.fromisoformat(at) - timedelta(seconds=_LATE_SECONDS)).isoformat()
