"""The watchdog's mechanics, on real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from seedvr2_core.child.protocol import (
    Event,
    Heartbeat,
    Previewed,
    Probe,
    Ready,
    SegmentDone,
    Waiting,
)
from seedvr2_core.errors import (
    ChildFailedError,
    DeadlineError,
    InvalidVideoError,
    ResourceError,
    StalledError,
)
from tasks.child.awake import awake_seconds
from tasks.child.guard import MAX_LOG_CHARS, Child
from tasks.settings import Settings
from tests.kits.hosts.memory import forget_peak, peak_kib
from tests.kits.processes import is_running

StartChild = Callable[[str], Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartChild]:
    """Start a child that runs a few lines of Python."""
    children: list[Child] = []

    def run(body: str) -> Child:
        script = tmp_path / f"child{len(children)}.py"
        script.write_text(
            "import json, os, signal, subprocess, sys, time\n"
            "from seedvr2_core.child.protocol import *\n"
            "from seedvr2_core.child.progress import Emitter\n"
            "emit = Emitter(sys.stdout).emit\n" + textwrap.dedent(body)
        )
        children.append(Child(command=[sys.executable, "-u", str(script)]))
        return children[-1]

    yield run
    for child in children:
        child.close()


READY = Ready(engine="sleep", device="cpu")


def take(child: Child, *, stall: float = 20.0, limit: float = 30.0) -> Event:
    """The child's next event."""
    deadline = awake_seconds() + limit
    return child.next_event(stall_seconds=stall, deadline=deadline, doing="testing")


def test_events_come_in_order(start: StartChild) -> None:
    done = SegmentDone(segment=0, seconds=1.5)
    child = start(f"emit({READY}); emit({done}); time.sleep(30)")
    assert [take(child), take(child)] == [READY, done]


def test_requests_arrive(start: StartChild) -> None:
    child = start(
        """
        request = decode_request(sys.stdin.readline())
        emit(Waiting(whom=repr(request)))
        """
    )
    request = Probe(path=Path("a \u00fc\n.mp4"), out=Path("/b"))
    child.send(request)
    assert take(child) == Waiting(whom=repr(request))


def test_garbage_and_half_lines_are_log_text_not_life(start: StartChild) -> None:
    child = start(f"print('{{\"event'); print('[1]'); print('noise'); emit({READY})")
    assert take(child) == READY
    assert list(child.tail)[:3] == ['{"event', "[1]", "noise"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"event": "exploded"}', "unknown message 'exploded'"),
        ('{"event": "idle", "mood": 1}', r"message 'idle' .* has the fields \['mood'\]"),
        ('{"event": "waiting", "whom": 7, "lock": ""}', r"field waiting\.whom .* is 7"),
    ],
    ids=["name", "field", "type"],
)
def test_events_that_we_do_not_know_are_told(start: StartChild, line: str, told: str) -> None:
    child = start(f"emit({READY}); print('{line}', flush=True); time.sleep(30)")
    assert take(child) == READY
    with pytest.raises(ChildFailedError, match=told):
        take(child)


def test_the_last_words_of_a_child_that_dies_in_mid_line(start: StartChild) -> None:
    """What it said before counts; the half line is log text and is in the message."""
    half = '{"event": "segment_done", "segm'
    child = start(
        f"emit({READY}); sys.stdout.write('{half}'); sys.stdout.flush(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert take(child) == READY
    with pytest.raises(ChildFailedError, match="SIGKILL while testing") as caught:
        take(child)
    assert str(caught.value).endswith(half)


def test_silence_is_a_stall_even_while_it_logs(start: StartChild) -> None:
    child = start("while True: print('busy', file=sys.stderr); time.sleep(0.05)")
    with pytest.raises(StalledError, match=r"no sign of life for 1 s while testing(.|\n)*busy"):
        take(child, stall=1.0)


def test_deadline_ends_a_lively_child(start: StartChild) -> None:
    child = start(
        f"while True: emit({Heartbeat(phase='decode', done=1, total=2)}); time.sleep(0.05)"
    )
    deadline = awake_seconds() + 1.0

    def wait_for_more() -> None:
        while True:
            child.next_event(stall_seconds=5.0, deadline=deadline, doing="testing")

    with pytest.raises(DeadlineError):
        wait_for_more()


def test_exit_code_and_last_lines_are_told(start: StartChild) -> None:
    child = start("[print(f'line {i}', file=sys.stderr) for i in range(30)]; sys.exit(7)")
    with pytest.raises(ChildFailedError, match="exit code 7") as caught:
        take(child)
    assert "line 29" in str(caught.value)
    assert "line 9\n" not in str(caught.value)


def test_signal_is_told_by_name(start: StartChild) -> None:
    child = start("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ChildFailedError, match="SIGKILL") as caught:
        take(child)
    assert "memory" not in str(caught.value)  # somebody else has killed it


GREEDY = """
import sys
from tasks.child.guard import Child
script = (
    "open('/proc/self/oom_score_adj', 'w').write('1000');"
    "kept = [b'x' * 2**24 for _ in range(64)]"
)
child = Child(command=[sys.executable, "-c", script])
try:
    child.next_event(stall_seconds=60, doing="testing")
except Exception as error:
    print(type(error).__name__, error)
"""


@contextmanager
def small_cgroup(num_bytes: int) -> Iterator[Path]:
    """A control group whose processes may have so much memory; skips where none can be made."""
    older = Path("/sys/fs/cgroup/memory")
    home = older if older.is_dir() else Path("/sys/fs/cgroup")
    group = home / f"seedvr2-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = "memory.limit_in_bytes" if older.is_dir() else "memory.max"
        (group / limit).write_text(str(num_bytes))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group for memory can be made here: {error}")
    yield group
    group.rmdir()


def test_a_child_that_the_kernel_ended_for_want_of_memory_says_so() -> None:
    with small_cgroup(300 * 2**20) as group:
        told = subprocess.run(
            [sys.executable, "-c", GREEDY],
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert told.stdout.startswith(
        "ChildFailedError the child process ended with signal SIGKILL while testing: the kernel "
        "ended it, because memory ran out"
    ), told
    assert "give this container or machine more" in told.stdout


def test_a_library_that_gives_up_because_it_is_refused_memory_is_told(start: StartChild) -> None:
    child = start(
        """
        import ctypes
        from seedvr2_core.child.memory import bound_memory
        bound_memory(2**29)
        ctypes.CDLL("libstdc++.so.6")["_Znwm"](ctypes.c_size_t(2**40))  # operator new
        """
    )
    with pytest.raises(ChildFailedError, match=r"SIGABRT while testing: it was refused memory"):
        take(child)


def test_a_signal_without_a_name_is_told_by_its_number(start: StartChild) -> None:
    child = start("os.kill(os.getpid(), signal.SIGRTMIN + 5)")
    number = signal.SIGRTMIN + 5
    with pytest.raises(ChildFailedError, match=f"ended with signal {number} while testing"):
        take(child)


def test_a_flood_without_a_newline_leaves_memory_alone(start: StartChild) -> None:
    """300 MB on stdout and 30 MB on stderr; then the child goes on as if nothing had been."""
    child = start(
        f"""
        for _ in range(300):
            sys.stdout.write('x' * 10**6)
        for _ in range(30):
            sys.stderr.write('y' * 10**6)
        print(flush=True)
        print(file=sys.stderr, flush=True)
        emit({READY})
        time.sleep(30)
        """
    )
    forget_peak()
    before = peak_kib()
    assert take(child, stall=120.0, limit=120.0) == READY
    assert peak_kib() - before < 50e6 / 1024
    assert max(map(len, child.tail)) <= MAX_LOG_CHARS


@pytest.mark.long
@pytest.mark.parametrize("stopped", [pytest.param("both", marks=pytest.mark.soak), "parent"])
def test_time_in_which_we_were_stopped_does_not_count(stopped: str, tmp_path: Path) -> None:
    """A laptop that sleeps, a frozen container: longer than the stall limit, and it goes on."""
    beats = tmp_path / "beats.py"
    beats.write_text(
        "import sys, time\n"
        "from seedvr2_core.child.protocol import *\n"
        "from seedvr2_core.child.progress import Emitter\n"
        "emit = Emitter(sys.stdout).emit\n"
        "for _ in range(60):\n"
        f"    emit({Heartbeat(phase='restore', done=1, total=2)}); time.sleep(0.2)\n"
        "emit(Idle())\n"
    )
    watch = (
        "import sys\n"
        "from seedvr2_core.child.protocol import Idle\n"
        "from tasks.child.guard import Child\n"
        f"child = Child(command=[sys.executable, '-u', {str(beats)!r}])\n"
        "print(child.pid, flush=True)\n"
        "while not isinstance(child.next_event(stall_seconds=4.0, doing='testing'), Idle): pass\n"
        "print('done', flush=True)\n"
        "child.close()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", watch], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        time.sleep(1.0)
        os.kill(parent.pid, signal.SIGSTOP)
        if stopped == "both":
            os.killpg(child, signal.SIGSTOP)
        time.sleep(7.0)
        os.kill(parent.pid, signal.SIGCONT)
        time.sleep(0.3)  # the parent looks first: its child has said nothing yet
        os.killpg(child, signal.SIGCONT)
        assert parent.stdout.readline() == "done\n"
    assert parent.returncode == 0


def test_exit_is_noticed_although_a_grandchild_holds_the_pipe(start: StartChild) -> None:
    child = start("subprocess.Popen(['sleep', '30']); sys.exit(7)")
    began = time.monotonic()
    with pytest.raises(ChildFailedError, match="exit code 7"):
        take(child)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("kind", [InvalidVideoError, ResourceError], ids=lambda kind: kind.__name__)
def test_reported_errors_keep_their_class(start: StartChild, kind: type[Exception]) -> None:
    child = start(f"emit(Failed(kind='{kind.__name__}', message='told'))")
    with pytest.raises(kind, match="told"):
        take(child)


def test_unknown_error_kinds_do_not_pick_other_classes(start: StartChild) -> None:
    child = start("emit(Failed(kind='__doc__', message='told'))")
    with pytest.raises(ChildFailedError, match="told"):
        take(child)


@pytest.mark.long
def test_close_ends_the_whole_group_even_if_it_ignores_term(start: StartChild) -> None:
    child = start(
        """
        grand = subprocess.Popen([sys.executable, '-c',
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "print(1, flush=True); time.sleep(60)"],
            stdout=subprocess.PIPE)
        grand.stdout.readline()
        emit(SegmentDone(segment=grand.pid, seconds=1.0))
        time.sleep(60)
        """
    )
    event = take(child)
    assert isinstance(event, SegmentDone)
    pid = event.segment
    child.close()
    assert not child.alive
    assert not is_running(pid)


def test_worker_dies_with_a_parent_that_is_killed() -> None:
    """The real child, started by a process that is then killed -9."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from tasks.child.guard import Child; c = Child(); "
            "print(c.pid, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(pid)


def test_worker_prints_do_not_reach_the_protocol() -> None:
    code = (
        "import os, sys; sys.argv = ['w', str(os.getppid())]\n"
        "from seedvr2_core.child import __main__ as child\n"
        "from seedvr2_core.child.protocol import Previewed, Probe\n"
        "child.OPERATIONS = {Probe: lambda r, e: (print('noise'), os.system('echo more'), "
        "Previewed())[-1]}\nchild.main()"
    )
    script = [sys.executable, "-u", "-c", code]
    child = Child(command=script)
    try:
        child.send(Probe(path=Path("a"), out=Path("b")))
        assert take(child) == Heartbeat(phase="probe", done=0, total=0), "it has begun"
        assert take(child) == Previewed()
    finally:
        child.close()
    assert {"noise", "more"} <= set(child.tail)


def test_child_is_its_own_group(start: StartChild) -> None:
    child = start(f"emit({READY}); time.sleep(30)")
    take(child)
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, []),
        ({"child_memory_bytes": 2**30}, ["--memory-bytes", "1073741824"]),
        ({"confine_children": False}, ["--unconfined"]),
    ],
    ids=["default", "memory", "unconfined"],
)
def test_the_child_is_told_what_the_operator_allows(
    start: StartChild,
    settings_with: Callable[..., Settings],
    settings: dict[str, object],
    given: list[str],
) -> None:
    settings_with(**settings)
    child = start('emit(Waiting(whom=" ".join(sys.argv[1:])))')
    assert take(child) == Waiting(whom=" ".join([str(os.getpid()), *given]))
