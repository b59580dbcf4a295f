"""Numbers as the commands show them, and the list of the commands."""

import pytest
import typer.main
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.cli.words import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0 s"),
        (0.4, "0.4 s"),
        (9.6, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_no_line_of_the_list_of_commands_is_cut_at_80_columns() -> None:
    told = CliRunner().invoke(app, ["--help"], terminal_width=80, prog_name="seedvr2").output
    listed = told.partition("Commands:")[2].split("\n")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len([line for line in listed if line.strip()]) == len(commands)
    assert not [line for line in listed if line.endswith("...")]
