"""Processes of a test: runs the command, finds its descendants and kills them."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from seedvr2_core.files.process import die_with_parent

ROOT = Path(__file__).parents[2]
MARK = "SEEDVR2_TEST_MARK"
"""An environment variable by which a test finds everything that it started, orphans included."""


def command_line(*arguments: str | Path) -> list[str]:
    """The command line of `seedvr2` in this checkout."""
    return [sys.executable, "-m", "deployments.cli.app", *map(str, arguments)]


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with changes."""
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


def free_port() -> int:
    """A port of loopback on which a server can listen later, and once more after it was killed.

    Not one that the system hands out to outgoing connections: any process could get it before the
    server listens there, for a minute each time.
    """
    handed_out = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    first, last = map(int, handed_out)
    ports = [port for port in range(10_000, 65_536) if not first <= port <= last]
    for port in random.Random().sample(ports, min(len(ports), 200)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"no port is free beside those from {first} to {last}")


def children_of(pid: int) -> list[int]:
    """Ids of the process and all its descendants, parents first."""
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
    """kill -9 a process and all its descendants; returns their ids."""
    found = children_of(pid)
    for process in found:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return found


def marked(mark: str) -> list[int]:
    """Ids of all running processes that have this mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if wanted in _environ_of(pid) and is_running(pid)]


def _environ_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it ended meanwhile


def command_of(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def ends_with_us(number: int = signal.SIGKILL) -> Callable[[], None]:
    """What a service does as it starts (preexec_fn): it ends with this process, even by kill -9.

    To be exact, it ends with the thread that starts it.

    Args:
        number: the signal that it gets; it may want to tidy up.
    """
    return partial(die_with_parent, os.getpid(), number)


@contextlib.contextmanager
def mounted(folder: Path, *, size: str) -> Iterator[Path]:
    """Mount a file system in memory of this size ("1m") at a new folder, while the block runs."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
