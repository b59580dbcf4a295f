"""How our commands end: with one sentence for people and an exit code for scripts.

Exit codes: 0 success, 1 the work failed, 2 the input is wrong, 130 interrupted by Ctrl-C.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from seedvr2_core.errors import SeedVR2Error

console = Console(stderr=True)
"""All text for people goes to stderr; stdout holds only the result."""


def say(text: str) -> None:
    """Print a line for people, unchanged."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def exit_codes(kept: str) -> Iterator[None]:
    """Turn errors of the block into one sentence on stderr and an exit code.

    Args:
        kept: what an interruption does not lose, such as "finished segments are kept".
    """
    try:
        yield
    except SeedVR2Error as error:
        say(f"error: {error}")
        raise typer.Exit(2 if error.user_mistake else 1) from error
    except KeyboardInterrupt as error:
        say(f"interrupted; {kept}: run it again to go on")
        raise typer.Exit(130) from error
