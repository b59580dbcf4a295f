"""`--notify`: tell people that a command has ended, by the terminal's bell or by their command."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from deployments.host.exits import say

BELL = "bell"
COMMAND_SECONDS = 60.0
"""A command that takes longer than this is left to itself."""
OUTCOMES = {0: "completed", 130: "interrupted"}
"""Exit code -> what is told; others have failed."""


def _checked(how: str | None) -> str | None:
    """Refuse what is no command line, before the work begins.

    Raises:
        typer.BadParameter: it has no words, or a quote that is not closed.
    """
    if how is None:
        return None
    try:
        words = shlex.split(how)
    except ValueError as error:
        raise typer.BadParameter(
            f"{how!r} is no command line ({error}); expected bell or a command"
        ) from error
    if not words:
        raise typer.BadParameter("it is empty; expected bell or a command")
    return how


Notify = Annotated[
    str | None,
    typer.Option(
        "--notify",
        metavar="bell|COMMAND",
        callback=_checked,
        help="At the end, whatever it is, ring the terminal's bell or run a command; the command "
        "finds the outcome (completed, failed, interrupted) in OUTCOME.",
    ),
]


@contextmanager
def notified(how: str | None) -> Iterator[None]:
    """Tell how the block has ended. It ends as `exit_codes` lets it: by `typer.Exit` or normally.

    Args:
        how: "bell" or a command line; None: nobody is told.
    """
    code = 1
    try:
        yield
        code = 0
    except typer.Exit as end:
        code = end.exit_code
        raise
    finally:
        if how is not None:
            _tell([] if how == BELL else shlex.split(how), OUTCOMES.get(code, "failed"))


def _tell(words: list[str], outcome: str) -> None:
    """Ring or run; what goes wrong is said and changes nothing of the outcome."""
    if not words:
        if sys.stderr.isatty():
            sys.stderr.write("\a")
            sys.stderr.flush()
        return
    environment = {**os.environ, "OUTCOME": outcome}
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr,
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"--notify: {words[0]} told nobody: {error}")
        return
    if done.returncode:
        say(f"--notify: {words[0]} ended with {done.returncode}")
