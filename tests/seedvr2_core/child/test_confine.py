"""A confined process has no network, no way to new rights, and no look at other processes."""

import json
import os
import platform
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from seedvr2_core.child.confine import socket_filter

ATTEMPTS = """
    import ctypes, json, mmap, os, resource, socket, subprocess, sys, threading
    from seedvr2_core.child.confine import confine

    threads = len(os.listdir("/proc/self/task"))
    missing = [words for words, held in confine().items() if not held]

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

    def reserve():
        # As CUDA does it: a terabyte of addresses that cannot be touched yet.
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        if libc.mmap(None, 2**40, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0) == 2**64 - 1:
            raise OSError(ctypes.get_errno(), "refused")

    def lock():
        page = mmap.mmap(-1, 4096)
        if libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(page)), 4096):
            raise OSError(ctypes.get_errno(), "refused")

    def listen():
        socket.socket(socket.AF_UNIX).bind("\\0seedvr2-test-%d" % os.getpid())

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
        "signal": attempt(lambda: os.kill(parent, 0)),
        "abstract": attempt(lambda: socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[4])),
        "scopes": libc.syscall(444, None, ctypes.c_size_t(0), 1) >= 6,
        "memfd": attempt(lambda: os.memfd_create("x")),
        "event": attempt(lambda: os.eventfd(0)),
        "pid": attempt(lambda: os.pidfd_open(os.getpid())),
        "affinity": attempt(lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))),
        "device": attempt(lambda: open("/dev/zero", "rb").read(1)),
        "reserve": attempt(reserve),
        "lock": attempt(lock),
        "listen": attempt(listen),
        "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
        "unix": attempt(lambda: socket.socketpair()),
        "file": attempt(lambda: open(sys.argv[3], "w").write("x")),
        "program": attempt(lambda: subprocess.run(["true"], check=True)),
    }))
"""


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a confined process could do, by name: "done" or the system's refusal."""
    written = tmp_path_factory.mktemp("confine") / "file"
    name = f"seedvr2-test-{os.getpid()}-{written.parent.name}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as outside,
    ):
        outside.bind(f"\0{name}")
        outside.listen()
        ended = subprocess.run(
            [
                *(sys.executable, "-c", textwrap.dedent(ATTEMPTS)),
                *(str(os.getpid()), str(server.getsockname()[1]), str(written), name),
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


@pytest.mark.parametrize("what", ["signal", "abstract"])
def test_what_landlock_alone_refuses(attempts: dict[str, object], what: str) -> None:
    if not attempts["scopes"]:
        pytest.skip("Landlock has scopes from Linux 6.12 on")
    assert attempts[what] != "done"


LOOKS = """
import sys
from pathlib import Path
from seedvr2_core.child.confine import _own_domain
path = Path(f"/proc/{sys.argv[1]}/cwd")
print(path.readlink(), flush=True)
assert _own_domain()
path.readlink()
"""


def test_landlock_by_itself_keeps_other_processes_out_of_sight() -> None:
    """Where the child is not root, nothing else keeps it from its own user's processes."""
    with subprocess.Popen(["sleep", "60"], env={"SECRET": "x"}) as other:
        try:
            seen = subprocess.run(
                [sys.executable, "-c", LOOKS, str(other.pid)],
                cwd=Path(__file__).parents[3],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            other.kill()
    assert seen.stdout.strip() == str(Path.cwd()), "it sees them before"
    assert "PermissionError" in seen.stderr, seen.stderr


@pytest.mark.parametrize("what", ["unix", "file", "program"])
def test_what_the_child_needs_still_works(attempts: dict[str, object], what: str) -> None:
    assert attempts[what] == "done"


@pytest.mark.parametrize(
    "what",
    ["memfd", "event", "pid", "affinity", "device", "reserve", "lock", "listen", "netlink"],
)
def test_what_a_gpus_driver_is_known_to_call_still_works(
    attempts: dict[str, object], what: str
) -> None:
    """As far as that can be seen without a GPU."""
    assert attempts[what] == "done"


DENIED = {"x86_64": {101, 310, 311, 425, 438}, "aarch64": {117, 270, 271, 425, 438}}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_these_calls_and_no_others(machine: str) -> None:
    """Every number that Linux has or may get is run through the program."""
    program = socket_filter(machine)
    assert program is not None
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    a_socket = {"x86_64": 41, "aarch64": 198}[machine]
    refused = {nr for nr in range(1000) if nr != a_socket and not _allows(program, arch, nr)}
    assert refused == DENIED[machine]
    families = {family for family in range(50) if _allows(program, arch, a_socket, family)}
    assert families == {socket.AF_UNIX, socket.AF_NETLINK}
    assert not _allows(program, arch + 1, 0), "calls of another machine's table"
    assert not _allows(program, arch, 0x40000000 + a_socket, socket.AF_INET)


def _allows(program: bytes, arch: int, number: int, argument: int = 0) -> bool:
    """Run classic BPF as the kernel does it, for the four instructions that the filter has."""
    words = {0: number, 4: arch, 16: argument}
    value = at = 0
    while True:
        code, true, false, operand = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                value = words[operand]
            case 0x15:
                at += true if value == operand else false
            case 0x35:
                at += true if value >= operand else false
            case 0x06:
                return operand == 0x7FFF0000


def test_a_machine_that_we_do_not_know_gets_no_filter() -> None:
    assert socket_filter("riscv64") is None
    known = socket_filter(platform.machine())
    assert known is None or len(known) % 8 == 0


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _of_the_real_child(*options: str) -> tuple[dict[str, str], str]:
    """What the kernel says of a child that has begun: its status and its oom_score_adj."""
    command = [sys.executable, "-P", "-m", "seedvr2_core.child", str(os.getpid()), *options]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as child:
        try:
            score = Path(f"/proc/{child.pid}/oom_score_adj")
            deadline = time.monotonic() + 60
            while score.read_text().strip() != "500":
                assert time.monotonic() < deadline, "the child has not begun"
                time.sleep(0.05)
            return _status(child.pid), score.read_text().strip()
        finally:
            child.kill()


def test_the_real_child_is_confined_and_dies_before_its_parent() -> None:
    status, _ = _of_the_real_child()
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # a filter


def test_an_operator_may_leave_the_child_unconfined() -> None:
    """For a GPU whose driver does not work in a confined process; it still dies first."""
    status, oom_score = _of_the_real_child("--unconfined")
    ours = _status(os.getpid())
    assert oom_score == "500"
    assert (status["NoNewPrivs"], status["Seccomp"]) == (ours["NoNewPrivs"], ours["Seccomp"])
