"""Errors become a sentence on stderr, what helps, and an exit code."""

import errno
import functools
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from rich.console import Console

from deployments.host.exits import exit_codes, for_people, run_program, say, tell
from seedvr2_core.errors import ChildFailedError, InvalidRequestError
from tasks.settings import Settings
from tests.kits.processes import ROOT


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            InvalidRequestError("[bold] is no model"),
            2,
            "error: [bold] is no model [invalid_request]",
        ),
        (
            ChildFailedError("it ended with 1"),
            1,
            f"error: it ended with 1 [process_failed]\nwhat helps: {ChildFailedError.remedy}",
        ),
        (KeyboardInterrupt(), 130, "interrupted; all is kept: run it again to go on"),
    ],
    ids=["wrong input", "failure", "interrupted"],
)
def test_each_kind_of_end_has_its_code(
    error: BaseException, code: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, exit_codes("all is kept"):
        raise error
    assert caught.value.exit_code == code
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"{line}\n")


def on_a_screen(text: str, *, terminal: bool, columns: int = 40) -> list[str]:
    """The lines of a screen that show a text."""
    screen = Console(file=io.StringIO(), width=columns, force_terminal=terminal, color_system=None)
    return for_people(text, screen).split("\n")


def test_a_terminal_cuts_no_word_of_a_sentence() -> None:
    note = (
        "note: model auto became waifu2x: seedvr2-7b needs an NVIDIA GPU; the source is compressed"
    )
    lines = on_a_screen(note, terminal=True)
    assert max(map(len, lines)) <= 40
    assert lines[0] == "note: model auto became waifu2x:"
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == note
    assert on_a_screen(note, terminal=False) == [note]
    assert on_a_screen("  " + note, terminal=True)[1].startswith("    ")
    question = "1. Where is work in progress kept? The work directory, or a bucket"
    assert on_a_screen(question, terminal=True)[0] == "1. Where is work in progress kept? The"
    long = f"error: {'/folder' * 20} is no file"
    assert "/folder" * 20 in on_a_screen(long, terminal=True)[1], "a path stays in one piece"


@pytest.mark.parametrize(
    "line",
    [
        f"done: /home/you{'/folder with words' * 4}/a.mp4",
        "  to make the whole video: seedvr2 upscale my.mp4 --resolution 1080p --codec hevc",
    ],
    ids=["path", "command"],
)
def test_what_people_copy_is_one_line(line: str) -> None:
    assert on_a_screen(line, terminal=True) == [line]


def test_what_could_steer_a_terminal_is_shown() -> None:
    assert on_a_screen("note: a\x1b[31mb\rc", terminal=True) == ["note: a\\x1b[31mb\\rc"]


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_codes("all is kept"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (errno.EACCES, 2, "Permission denied; give this user the right"),
        (errno.EROFS, 2, "Read-only file system; name a place on another file system"),
        (errno.ENOTDIR, 2, "Not a directory; a part of the path is a file"),
        (errno.ENAMETOOLONG, 2, "File name too long; use a shorter name"),
        (errno.ENOSPC, 1, "No space left on device; make room"),
        (errno.EIO, 1, "Input/output error; the disk or its connection fails"),
        (errno.EXFULL, 1, "Exchange full; look at the system's log"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) and value > 2 else None,
)
def test_what_the_system_refuses_is_a_sentence_too(
    number: int, code: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, exit_codes("all is kept"):
        raise OSError(number, os.strerror(number), "/a/b.mp4")
    assert caught.value.exit_code == code
    assert capfd.readouterr().err.startswith(f"error: /a/b.mp4: {told}")


def test_a_wrong_setting_is_named_and_a_secret_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEEDVR2_FETCH_SECONDS", "soon")
    monkeypatch.setenv("SEEDVR2_CALLBACK_SECRET", "too-short")
    with pytest.raises(typer.Exit) as caught, exit_codes("all is kept"):
        Settings()
    told = capfd.readouterr().err
    assert caught.value.exit_code == 2
    assert "SEEDVR2_FETCH_SECONDS: Input should be a valid number" in told
    assert "got 'soon'" in told
    assert "SEEDVR2_CALLBACK_SECRET: " in told
    assert "too-short" not in told


def test_names_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[31m\udcff\u202eb c\u00a0é")
    assert capfd.readouterr().err == "a\\x1b[31m\\xff\\u202eb c\u00a0é\n"


def test_what_is_said_is_shown_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    """Rich would make a picture of `:m:`, and leave `[b]` out."""
    told = "error: start: write h:m:s; got a:smile:[b].mp4"
    say(told)
    assert capfd.readouterr().err == told + "\n"


def test_every_console_shows_text_as_it_is() -> None:
    """And no text becomes part of a bar or a table in another way than as it is."""
    for path in (ROOT / "deployments").rglob("*.py"):
        text = path.read_text()
        for found in re.findall(r"\bConsole\((?!\))[^)]*\)", text):
            assert "emoji=False" in found, f"{path}: {found}"
        for found in re.findall(r"TextColumn\([^)]*\)", text):
            assert "markup=False" in found, f"{path}: {found}"


def test_the_result_is_raw_for_scripts(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    tell("/a\x1b\udcff.mp4")
    assert capfdbinary.readouterr().out == b"/a\x1b\xff.mp4\n"


def test_an_error_that_nobody_expected_leaves_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fails() -> None:
        raise ZeroDivisionError("by \x1b nothing\nand more")

    with pytest.raises(SystemExit) as ended:
        run_program(fails)
    (log,) = tmp_path.iterdir()
    assert ended.value.code == 1
    told = "error: unexpected ZeroDivisionError: by \\x1b nothing; the details are in "
    assert capfd.readouterr().err == f"{told}{log}\n"
    assert "Traceback" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("deployments.gateway", "--receiver", "example.org"),
        ("deployments.edge", "--root", "."),
        ("deployments.deploy", "check"),
        ("deployments.host.volumes", "."),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_program_of_ours_shows_a_traceback(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """An error that nobody thought of, put into each program from outside."""
    (tmp_path / "sitecustomize.py").write_text(
        "import deployments.host.exits as exits, contextlib\n"
        "@contextlib.contextmanager\n"
        "def broken(kept):\n"
        "    raise ZeroDivisionError('nobody thought of this')\n"
        "    yield\n"
        "exits.exit_codes = broken\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", *arguments],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: unexpected ZeroDivisionError: nobody thought of this; ")
    assert "Traceback" not in done.stderr


def pressed(
    code: str, *, before: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command whose work is `code`, in which Ctrl-C comes; looked after every 0.2 s."""
    begin = (
        "import os, signal, sys, time\n"
        "from deployments.host import exits\n"
        "exits.AGAIN_SECONDS = 0.2\n"
        "def press(): os.kill(os.getpid(), signal.SIGINT)\n"
        "def work():\n"
    )
    end = "with exits.exit_codes('all is kept'):\n    work()\n"
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return subprocess.run(
        [sys.executable, "-c", begin + lines + end],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        preexec_fn=before,
    )


IN_A_FINALIZER = """
class Ending:
    def __del__(self): press()
Ending()
print('dropped', flush=True)
time.sleep(50)
"""
SWALLOWED = """
try: press()
except BaseException: pass
print('dropped', flush=True)
while True: time.sleep(0.01)
"""
CLEANS_UP = """
try: press()
finally:
    try: raise OSError('something of its own')
    except OSError: time.sleep(1)
    time.sleep(1)
    print('cleaned up', flush=True)
"""


@pytest.mark.parametrize(
    ("code", "told"),
    [(IN_A_FINALIZER, "dropped\n"), (SWALLOWED, "dropped\n"), (CLEANS_UP, "cleaned up\n")],
    ids=["in a finalizer", "swallowed", "not again while it cleans up"],
)
def test_ctrl_c_ends_a_command_wherever_it_comes(code: str, told: str) -> None:
    done = pressed(code)
    assert done.stdout == told, done.stderr
    assert "interrupted; all is kept: run it again to go on\n" in done.stderr


AT_A_RUNS_END = """
from prefect import flow
flow(on_completion=[lambda *_: press()])(lambda: None)()
print('dropped', flush=True)
time.sleep(50)
"""


@pytest.mark.long
def test_ctrl_c_that_prefect_drops_at_a_runs_end_ends_a_command(
    api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has its last state, so Prefect takes the interruption and goes on."""
    monkeypatch.setenv("PREFECT_API_URL", api_url)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    done = pressed(AT_A_RUNS_END)
    assert done.stdout == "dropped\n", done.stderr
    assert "interrupted; all is kept: run it again to go on\n" in done.stderr


def test_a_command_that_is_to_ignore_ctrl_c_does_so() -> None:
    """As a script's program in the background is."""
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    done = pressed("press()\ntime.sleep(1)\nprint('whole')", before=ignore)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
