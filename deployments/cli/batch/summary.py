"""The table at the end of a batch, as wide as the terminal: file, state, output and time."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from rich.table import Table
from rich.text import Text

from deployments.cli.words import duration
from deployments.host.exits import console, say
from deployments.host.quiet import logs_as_json
from seedvr2_core.words import counted
from tasks.sources.names import name_in, printable


@dataclass(slots=True, kw_only=True)
class EndedVideo:
    """What became of one video of a batch."""

    source: str
    state: str = "not begun"
    output: str = ""
    seconds: float = 0.0


def show_summary(ended: Iterable[EndedVideo], *, seconds: float) -> None:
    """Show a line for each video, and how many are in which state.

    Args:
        ended: the videos, in order.
        seconds: that all of them took.
    """
    rows = list(ended)
    if logs_as_json():
        for row in rows:
            say(f"{row.state}: {row.source}" + (f" -> {row.output}" if row.output else ""))
    elif rows:
        console.print(_table(rows))
    states = Counter(row.state for row in rows)
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    say(f"{counted(len(rows), 'video')}{': ' + told if told else ''}; {duration(seconds)}")


def _table(rows: Iterable[EndedVideo]) -> Table:
    """The videos by name; a name that is too long is cut, never wrapped."""
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("file", "state", "output"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    table.add_column("time", no_wrap=True, justify="right")
    for row in rows:
        file, output = name_in(row.source), PurePath(row.output).name
        took = duration(row.seconds) if row.seconds else ""
        cells = (Text(printable(cell)) for cell in (file, row.state, output, took))
        table.add_row(*cells)
    return table
