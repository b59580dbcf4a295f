"""Numbers as the commands show them, and the list of the commands."""

import pytest
import typer.main
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.cli.words import amount, duration, table


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


@pytest.mark.parametrize(
    ("megabytes", "words"),
    [
        (0.0, "0 kB"),
        (0.0004, "1 kB"),
        (0.0205, "21 kB"),
        (0.1, "0.1 MB"),
        (999.4, "999.4 MB"),
        (1500.0, "1.50 GB"),
    ],
)
def test_an_amount_is_told_in_the_unit_that_fits(megabytes: float, words: str) -> None:
    assert amount(megabytes) == words


def test_no_line_of_the_list_of_commands_is_cut_at_80_columns() -> None:
    told = CliRunner().invoke(app, ["--help"], terminal_width=80, prog_name="seedvr2").output
    listed = told.partition("Commands:")[2].split("\n")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len([line for line in listed if line.strip()]) == len(commands)
    assert not [line for line in listed if line.endswith("...")]


def test_a_table_is_wrapped_under_its_last_column_in_a_terminal_alone() -> None:
    lines = ["ok    disk       62 GB free", "note  seedvr2-7b " + " ".join(["weights"] * 20)]
    assert table(lines, indent=17, columns=None) == "\n".join(lines), "a line each for programs"
    told = table(lines, indent=17, columns=80).split("\n")
    assert told[0] == lines[0]
    assert len(told) == 4
    assert max(map(len, told)) <= 80
    assert all(line.startswith(" " * 17 + "weights") for line in told[2:])
    assert " ".join(" ".join(told).split()) == " ".join(" ".join(lines).split())
    path = "/long" * 30
    assert path in table([f"ok    work dir   {path}"], indent=17, columns=80), "it stays whole"
    assert table(lines, indent=17, columns=30) == "\n".join(lines), "too narrow for it"
