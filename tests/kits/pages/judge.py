"""Judges a command that a page shows without running it: do its program, options and files exist?

Placeholders (`JOB`, `DIR`, `...`) are values like any other. What only runs with Docker, a GPU or
another host is at least read this way.
"""

import importlib
import itertools
import re
from collections.abc import Callable

import typer
import yaml
from typer.main import get_command

from tests.kits.pages.commands import words_of
from tests.kits.processes import ROOT

PROGRAMS = ("seedvr2", "prefect", "python", "make", "bash", "docker")
"""Programs that are ours or whose commands we can read."""
_OF_THE_SYSTEM = ("export", "cd", "cp", "chmod", "git", "curl", "getent", "hostname", "systemctl")
_MAKEFILE = (ROOT / "Makefile").read_text()


class UnknownPartError(AssertionError):
    """The command names a program, an option, a target or a file that does not exist."""


def judge(text: str) -> None:
    """Check a command and every command inside it.

    Raises:
        UnknownPartError: something in it does not exist.
    """
    for part in _simple_commands(text):
        words = words_of(part)
        if not words or words[0] in _OF_THE_SYSTEM:
            continue
        program = words[0].removeprefix(".venv/bin/")
        if program not in _JUDGES:
            raise UnknownPartError(f"unknown program {words[0]!r} in {text!r}")
        _JUDGES[program](words[1:])


def _simple_commands(text: str) -> list[str]:
    """The commands of a line with `&&`, `$(...)` or a loop in it."""
    if loop := re.match(r"for \w+ in .*?; do (.*); done", text):
        return _simple_commands(loop[1])
    inner = re.findall(r"\$\(([^()]+)\)", text)
    outer = re.sub(r"\$\([^()]+\)", "VALUE", text).replace("\\\n", " ")
    return [*inner, *outer.split("&&")]


def _judge_typer(app: typer.Typer, words: list[str]) -> None:
    """Let the command's own parser read the words."""
    command = get_command(app)
    context = command.make_context("program", [], resilient_parsing=True)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:  # type: ignore[attr-defined]
            raise UnknownPartError(f"there is no command {words[0]!r}")
        command = command.commands[words[0]]  # type: ignore[attr-defined]
        words = words[1:]
        context = command.make_context("program", [], resilient_parsing=True)
    context.resilient_parsing = False  # from here on, what is unknown is an error
    try:
        command.make_parser(context).parse_args(list(words))
    except Exception as error:
        raise UnknownPartError(f"{command.name}: {error}") from error


def _seedvr2(words: list[str]) -> None:
    from deployments.cli.app import app

    _judge_typer(app, words)


def _python(words: list[str]) -> None:
    words = words[1:] if words[0] == "-P" else words
    if words[0] != "-m":
        if not (ROOT / words[0]).is_file():
            raise UnknownPartError(f"there is no file {words[0]}")
        return
    is_package = ROOT.joinpath(*words[1].split(".")).is_dir()
    module = importlib.import_module(f"{words[1]}.__main__" if is_package else words[1])
    if parse := getattr(module, "parse", None):  # argparse
        try:
            parse(words[2:])
        except SystemExit as error:
            raise UnknownPartError(f"{words[1]} does not take {words[2:]}") from error
        return
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(module.main)
    _judge_typer(app, words[2:])


def _prefect(words: list[str]) -> None:
    from prefect.cli import _app

    try:
        _app._app.parse_args(words, exit_on_error=False, print_error=False)
    except Exception as error:
        raise UnknownPartError(f"prefect {words}: {error}") from error


def _make(words: list[str]) -> None:
    for word in words:
        name, is_variable, _ = word.partition("=")
        wanted = rf"\b{name}\b" if is_variable else rf"^{re.escape(name)}:"
        if not re.search(wanted, _MAKEFILE, re.M):
            raise UnknownPartError(f"the Makefile knows no {word!r}")


def _bash(words: list[str]) -> None:
    script = ROOT / words[0]
    if not script.is_file():
        raise UnknownPartError(f"there is no script {words[0]}")
    for option in (word for word in words if word.startswith("--")):
        if option not in script.read_text():
            raise UnknownPartError(f"{script.name} knows no {option}")


def _docker(words: list[str]) -> None:
    """The files and profiles of `compose`; what `run` starts inside the image."""
    if words[0] == "compose":
        options = dict(itertools.pairwise(words))
        services = yaml.safe_load((ROOT / options["-f"]).read_text())["services"].values()
        profiles = {profile for service in services for profile in service.get("profiles", [])}
        if "--profile" in options and options["--profile"] not in profiles:
            raise UnknownPartError(f"compose knows no profile {options['--profile']!r}")
    if words[0] == "run":
        inside = [index for index, word in enumerate(words) if word in PROGRAMS]
        if inside:
            judge(" ".join(words[inside[0] :]))


_JUDGES: dict[str, Callable[[list[str]], None]] = {
    "seedvr2": _seedvr2,
    "python": _python,
    "prefect": _prefect,
    "make": _make,
    "bash": _bash,
    "docker": _docker,
}
