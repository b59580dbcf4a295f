"""Processes of a test: run the command, see its tree, kill it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def command_line(*arguments: str | Path) -> list[str]:
    """The `seedvr2` command of this checkout."""
    return [sys.executable, "-m", "deployments.cli", *map(str, arguments)]


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, changed."""
    return {**os.environ, **changes}


def run_command(
    *arguments: str | Path, timeout: float = 120, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command_line(*arguments),
        env=environment(changes),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def children_of(pid: int) -> list[int]:
    """The process and everything below it, parents first."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*"):
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except FileNotFoundError:
                continue  # it ended meanwhile
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_tree(pid: int) -> list[int]:
    """kill -9 a process and everything below it; returns who was there."""
    found = children_of(pid)
    for process in found:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return found
