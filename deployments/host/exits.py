"""How our commands end: with one sentence for people, what helps, and an exit code for scripts.

Exit codes: 0 success, 1 the work failed, 2 the input is wrong, 130 interrupted by Ctrl-C. No
traceback is shown: an error that we did not expect is written to a file that the sentence names.
"""

import errno
import os
import re
import select
import signal
import sys
import tempfile
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from typer.core import TyperGroup

from deployments.host.quiet import logs_as_json
from seedvr2_core.errors import SeedVR2Error, remedy_of, with_code
from tasks.json_logs import json_line
from tasks.sources.names import printable

console = Console(stderr=True, emoji=False)
"""All text for people goes to stderr; stdout holds only the result. Rich would make a picture of
`:m:` in a name, or in a time such as h:m:s."""

_ADVICE: Mapping[int, str] = {
    errno.EACCES: "give this user the right to it, or name another place",
    errno.EPERM: "give this user the right to it, or name another place",
    errno.EROFS: "name a place on another file system",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file: check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name another place, or move what is there",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "its links lead in a circle: check the path",
    errno.EINVAL: "check the path",
}
"""What to do about errors that the input caused (exit code 2)."""
_MACHINE_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: "make room and run it again",
    errno.EDQUOT: "make room and run it again",
    errno.EFBIG: "the file system takes no larger files: name a place on another one",
    errno.EIO: "the disk or its connection fails: look at the system's log",
    errno.ESTALE: "the network file system was mounted anew: run it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the machine has too many open files",
    errno.EADDRINUSE: "another process has that port: stop it or choose another port",
}
"""What to do about the others (exit code 1)."""

_SENTENCES = re.compile(r"( *)(?:(?:note|error|what helps|waiting|interrupted)[:;]|\d\.) ")
"""Beginnings of lines that are sentences or questions; others hold paths and commands, which people
copy."""
_SECRET = re.compile("KEY|TOKEN|SECRET")
"""In the names of settings whose values are not shown."""
INTERRUPTED = "interrupted: run it again to go on"
"""What Ctrl-C says before a command has begun its work, and after it has told its result."""
AGAIN_SECONDS = 1.0
"""How long after Ctrl-C we look whether the command is ending, and press again if it is not."""
_OVER = b"\0"
"""What is written where numbers of signals are: no signal has this one."""


def say(text: str) -> None:
    """Print a line for people; what could steer their terminal is shown as an escape code.

    Where logs are JSON it is a record like any other.
    """
    if logs_as_json():
        level = "ERROR" if text.startswith("error: ") else "INFO"
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        told = {"time": now, "level": level, "logger": "seedvr2", "message": text}
        sys.stderr.write(json_line(told) + "\n")
        sys.stderr.flush()
        return
    console.print(for_people(text, console), highlight=False, markup=False, soft_wrap=True)


def can_draw(shown_on: Console) -> bool:
    """Whether a bar can be drawn there: it is a terminal that moves its cursor (TERM is not dumb),
    and what is said is for people.
    """
    return shown_on.is_terminal and not shown_on.is_dumb_terminal and not logs_as_json()


def for_people(text: str, shown_on: Console) -> str:
    """A line as people read it: nothing steers their terminal, and no word of a sentence is cut.

    A terminal cuts a line where it ends, in the middle of a word.
    """
    told = printable(text)
    sentence = _SENTENCES.match(told)
    if sentence is None or not shown_on.is_terminal:
        return told
    indent = sentence[1] + "  "
    return "\n".join(
        textwrap.fill(
            line,
            shown_on.width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in told.split("\n")
    )


def tell(text: str) -> None:
    """Print the result on stdout: as it is for scripts, harmless for a terminal."""
    if sys.stdout.isatty():
        typer.echo(printable(text))
    else:
        typer.echo(os.fsencode(text))


def tell_remedy(remedy: str) -> None:
    """Print what helps against an error, below its sentence; nothing where nobody said it."""
    if remedy:
        say(f"what helps: {remedy}")


def os_error_sentence(error: OSError) -> str:
    """Say what the system refused, about which file, and what to do."""
    place = error.filename if isinstance(error.filename, str) else ""
    if isinstance(error.filename, bytes):
        place = os.fsdecode(error.filename)
    code = error.errno or 0
    advice = _ADVICE.get(code) or _MACHINE_ADVICE.get(code) or "look at the system's log"
    reason = error.strerror or str(error) or type(error).__name__
    return f"{place + ': ' if place else ''}{reason}; {advice}"


@contextmanager
def exit_codes(kept: str, *, then: str = "run it again to go on") -> Iterator[None]:
    """Turn errors of the block into a sentence on stderr, what helps, and an exit code.

    Args:
        kept: what an interruption does not lose, such as "finished segments are kept".
        then: what to do after it.
    """
    try:
        with _ctrl_c_ends_it():
            yield
    except SeedVR2Error as error:
        say(f"error: {with_code(error)}")
        tell_remedy(remedy_of(type(error)))
        raise typer.Exit(2 if error.user_mistake else 1) from error
    except ValidationError as error:
        if error.title != "Settings":
            raise
        say(f"error: {_settings_sentence(error)}")
        raise typer.Exit(2) from error
    except BrokenPipeError:
        raise  # whoever read our output has gone: click ends the command
    except OSError as error:
        say(f"error: {os_error_sentence(error)}")
        raise typer.Exit(2 if error.errno in _ADVICE else 1) from error
    except KeyboardInterrupt as error:
        say(f"interrupted; {kept}: {then}")
        raise typer.Exit(130) from error


@contextmanager
def _ctrl_c_ends_it() -> Iterator[None]:
    """Make sure that Ctrl-C ends the block.

    Python raises it in the main thread when that next runs code of ours, and now and then it comes
    to nothing: a read of the terminal may begin just before, Python drops it in a finalizer or a
    callback, and Prefect drops it where a run ends that has its last state already. So a thread
    looks whether it is on its way, and presses again if it is not. A process that was told to
    ignore Ctrl-C, as a script's program in the background is, goes on ignoring it.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    told, teller = os.pipe()
    os.set_blocking(teller, False)
    watch = threading.Thread(
        target=_press_again, args=(told, threading.get_ident()), daemon=True, name="ctrl-c"
    )
    watch.start()
    before = signal.set_wakeup_fd(teller, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(teller, _OVER)
        watch.join()
        os.close(told)
        os.close(teller)


def _press_again(told: int, thread: int) -> None:
    """Press Ctrl-C again in a thread where it was pressed and came to nothing, until it is over.

    Args:
        told: gives the number of each signal that comes, as a byte, and `_OVER` at the end.
        thread: the main thread.
    """
    was_pressed = False
    events = select.poll()
    events.register(told, select.POLLIN)
    while True:
        if events.poll(1000 * AGAIN_SECONDS if was_pressed else None):
            numbers = os.read(told, 100)
            if _OVER in numbers:
                return
            was_pressed = was_pressed or signal.SIGINT in numbers
        elif (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nobody else cares
            and not _is_interrupted(thread)
        ):
            signal.pthread_kill(thread, signal.SIGINT)


def _is_interrupted(thread: int) -> bool:
    """Whether a thread has a KeyboardInterrupt on its way: it leaves its blocks, or cleans up."""
    found: object = sys._current_exceptions().get(thread)
    error = found[1] if isinstance(found, tuple) else found  # a tuple up to Python 3.11
    while isinstance(error, BaseException):
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _settings_sentence(error: ValidationError) -> str:
    """What is wrong with the settings; the values of secrets are not shown."""
    told = []
    for one in error.errors():
        name = str(one["loc"][0]) if one["loc"] else "settings"
        variable = name if name.isupper() else f"SEEDVR2_{name.upper()}"
        got = "" if _SECRET.search(variable) else f", got {str(one['input'])[:80]!r}"
        told.append(f"{variable}: {str(one['msg']).removeprefix('Value error, ')}{got}")
    return "; ".join(told)


class CommandGroup(TyperGroup):
    """The commands of a program; Ctrl-C outside of `exit_codes` ends them as it does inside."""

    def invoke(self, ctx: Any) -> object:
        """Run the command that the words name."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            say(INTERRUPTED)
            raise typer.Exit(130) from error


def run_program(program: Callable[[], object]) -> None:
    """Run a program; an error that nothing has handled is told in one sentence and ends it with 1.

    Python's traceback goes to a file, which the sentence names.
    """
    try:
        program()
    except KeyboardInterrupt:
        say(INTERRUPTED)
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - told, and kept in full
        tell_unexpected(error)
        sys.exit(1)


def tell_unexpected(error: Exception) -> None:
    """Write the traceback of an error that nothing has handled to a file, and say where it is."""
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, OSError):
        first = os_error_sentence(error)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="seedvr2-error-", suffix=".log", delete=False, errors="backslashreplace"
        ) as log:
            log.write("".join(traceback.format_exception(error)))
        where = f"the details are in {log.name}"
    except OSError:
        where = "its details could not be written"
    say(f"error: unexpected {type(error).__name__}: {first[:300]}; {where}")
