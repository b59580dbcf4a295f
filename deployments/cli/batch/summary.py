"""The table at the end of a batch, as wide as the terminal: file, state, output and time."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from rich.cells import cell_len
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from deployments.cli.words import duration
from deployments.host.exits import console, say
from deployments.host.quiet import logs_as_json
from seedvr2_core.words import counted
from tasks.sources.names import name_in, printable

GAP = 2
"""Spaces between two columns."""


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
    headings = ("file", "state", "output", "time")
    cells = [headings, *(_cells(row) for row in rows)]
    widths = [max(cell_len(row[place]) for row in cells) for place in range(len(headings))]
    file, state, output, took = widths
    room = console.width - state - took - GAP * (len(headings) - 1)
    file = min(file, max(room - output, room // 2))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
    for heading, width in zip(headings, (file, state, room - file, took), strict=True):
        justify: JustifyMethod = "right" if heading == "time" else "left"
        table.add_column(
            heading, no_wrap=True, overflow="ellipsis", max_width=width, justify=justify
        )
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    return table


def _cells(row: EndedVideo) -> tuple[str, str, str, str]:
    """What a row shows, harmless for a terminal."""
    file, output = printable(name_in(row.source)), printable(PurePath(row.output).name)
    return file, row.state, output, duration(row.seconds) if row.seconds else ""
