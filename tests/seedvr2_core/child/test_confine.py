"""A confined process has no network, no way to new rights, and no look at other processes."""

import json
import os
import platform
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from seedvr2_core.child.confine import socket_filter

ATTEMPTS = """
    import ctypes, json, os, socket, subprocess, sys, threading
    from seedvr2_core.child.confine import confine

    threads = len(os.listdir("/proc/self/task"))
    missing = confine()

    def attempt(what):
        try:
            what()
            return "done"
        except OSError as error:
            return error.strerror

    parent, address = int(sys.argv[1]), ("127.0.0.1", int(sys.argv[2]))
    libc = ctypes.CDLL(None, use_errno=True)

    def trace():
        if libc.ptrace(16, parent, 0, 0) < 0:  # PTRACE_ATTACH
            raise OSError(ctypes.get_errno(), "refused")

    def in_thread():
        found = []
        thread = threading.Thread(target=lambda: found.append(attempt(connect)))
        thread.start()
        thread.join()
        if found != ["done"]:
            raise OSError(1, str(found[0]))

    def connect():
        socket.create_connection(address, timeout=2)

    def grandchild():
        code = f"import socket; socket.create_connection({address!r}, timeout=2)"
        if subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode:
            raise OSError(1, "refused")

    def ring():
        if libc.syscall(425, 1, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    with open("/proc/self/status") as status:
        no_new = next(line.split()[1] for line in status if line.startswith("NoNewPrivs"))
    print(json.dumps({
        "missing": missing,
        "threads": threads,
        "no_new_privs": no_new,
        "connect": attempt(connect),
        "in_thread": attempt(in_thread),
        "grandchild": attempt(grandchild),
        "ipv6": attempt(lambda: socket.socket(socket.AF_INET6)),
        "udp": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
        "ring": attempt(ring),
        "environ": attempt(lambda: open(f"/proc/{parent}/environ", "rb").read()),
        "trace": attempt(trace),
        "unix": attempt(lambda: socket.socketpair()),
        "file": attempt(lambda: open(sys.argv[3], "w").write("x")),
        "program": attempt(lambda: subprocess.run(["true"], check=True)),
    }))
"""


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a confined process could do, by name: "done" or the system's refusal."""
    written = tmp_path_factory.mktemp("confine") / "file"
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = subprocess.run(
            [
                *(sys.executable, "-c", textwrap.dedent(ATTEMPTS)),
                *(str(os.getpid()), str(server.getsockname()[1]), str(written)),
            ],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_nothing_is_missing_here_and_no_thread_ran_before(attempts: dict[str, object]) -> None:
    assert attempts["missing"] == []
    assert attempts["threads"] == 1
    assert attempts["no_new_privs"] == "1"


@pytest.mark.parametrize(
    "what", ["connect", "in_thread", "grandchild", "ipv6", "udp", "ring", "environ", "trace"]
)
def test_what_the_child_never_needs_is_refused(attempts: dict[str, object], what: str) -> None:
    assert attempts[what] != "done"


@pytest.mark.parametrize("what", ["unix", "file", "program"])
def test_what_the_child_needs_still_works(attempts: dict[str, object], what: str) -> None:
    assert attempts[what] == "done"


def test_a_machine_that_we_do_not_know_gets_no_filter() -> None:
    assert socket_filter("riscv64") is None
    known = socket_filter(platform.machine())
    assert known is None or len(known) % 8 == 0


def test_the_real_child_is_confined_and_dies_before_its_parent() -> None:
    command = [sys.executable, "-P", "-m", "seedvr2_core.child", str(os.getpid())]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as child:
        try:
            proc = Path(f"/proc/{child.pid}")
            deadline = time.monotonic() + 60
            while (proc / "oom_score_adj").read_text().strip() != "500":
                assert time.monotonic() < deadline, "the child has not begun"
                time.sleep(0.05)
            told = dict(
                line.partition(":")[::2] for line in (proc / "status").read_text().splitlines()
            )
        finally:
            child.kill()
    assert told["NoNewPrivs"].strip() == "1"
    assert told["Seccomp"].strip() == "2"  # a filter
