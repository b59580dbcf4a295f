"""How commands end: one sentence for people, an exit code for scripts.

0 success, 1 the work failed, 2 the input is wrong, 130 interrupted.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from seedvr2_core.errors import SeedVR2Error

screen = Console(stderr=True)


def say(text: str) -> None:
    """One line for people, as it is."""
    screen.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def exit_codes(kept: str) -> Iterator[None]:
    """Turn errors into one sentence and an exit code.

    Args:
        kept: what survives Ctrl-C, "finished segments are kept".
    """
    try:
        yield
    except SeedVR2Error as error:
        say(f"error: {error}")
        raise typer.Exit(2 if error.user_mistake else 1) from error
    except KeyboardInterrupt as error:
        say(f"interrupted; {kept}: run it again to go on")
        raise typer.Exit(130) from error
