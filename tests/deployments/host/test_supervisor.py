"""The supervisor with real processes: small servers that behave as a test asks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deployments.host import supervisor as module
from deployments.host.supervisor import AskedToStop, ManagedProcess, Supervisor
from seedvr2_core.errors import ServiceError
from tests.kits.processes import ROOT, children_of, is_running

# Says where it listens, answers, notes its end; with `child` it has an attached child of its own.
SMALL = """
import argparse, http.server, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--fail", action="store_true")
parser.add_argument("--child", action="store_true")
parser.add_argument("name")
given = parser.parse_args()
if given.fail:
    sys.exit("no luck today")
def end(*_):
    with open("ends.txt", "a") as ends:
        ends.write(given.name + "\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
if given.child:
    tie = "--parent=" + str(os.getpid())
    command = [sys.executable, "-m", "deployments.host.attached", tie, "small", "grandchild"]
    subprocess.Popen(command)
handler = http.server.SimpleHTTPRequestHandler
server = http.server.ThreadingHTTPServer(("127.0.0.1", given.port), handler)
print(f"{given.name}: http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
Make = Callable[..., ManagedProcess]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a process that runs the small server in tmp_path."""
    (tmp_path / "small.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def process(name: str, *arguments: str) -> ManagedProcess:
        return ManagedProcess(
            name=name,
            module="small",
            arguments=(name, *arguments),
            environment=environment,
            log=tmp_path / f"{name}.log",
            port=0,
        )

    return process


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supervisor(told: list[str]) -> Iterator[Supervisor]:
    with Supervisor(told.append) as supervisor:
        yield supervisor


def until(true: Callable[[], object], supervisor: Supervisor) -> None:
    """Look after the processes until something is true."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        for process in supervisor.processes:
            process.keep_running(supervisor.say)
        time.sleep(0.02)


def answers(url: str | None) -> bool:
    try:
        return httpx.get(url or "", timeout=5).is_success
    except httpx.TransportError:
        return False


def pid_of(process: ManagedProcess) -> int:
    assert process._process is not None
    return process._process.pid


def test_a_process_that_dies_comes_back_at_its_address(
    supervisor: Supervisor, make: Make, told: list[str]
) -> None:
    one, two = make("one"), make("two")
    supervisor.start(one, two)
    before = one.url
    assert answers(one.url)
    assert one.url != two.url
    os.kill(pid_of(one), signal.SIGKILL)
    until(lambda: answers(before) and told, supervisor)
    assert one.url == before
    assert "one ended (SIGKILL" in told[0]
    assert "started again in 1 s" in told[0]


def test_what_does_not_start_is_told_in_its_own_words(supervisor: Supervisor, make: Make) -> None:
    with pytest.raises(ServiceError, match=r"(?s)bad did not start: exit code 1.*no luck today"):
        supervisor.start(make("good"), make("bad", "--fail"))


@pytest.mark.long
def test_what_dies_again_and_again_ends_the_whole(
    supervisor: Supervisor, make: Make, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setattr(module, "MAX_DELAY_SECONDS", 0.0)
    process = make("one")
    supervisor.start(process)
    process.arguments = ("one", "--fail")
    os.kill(pid_of(process), signal.SIGKILL)
    with pytest.raises(ServiceError, match=r"(?s)one ended 6 times in a row.*no luck today"):
        supervisor.watch()
    assert len(told) == module.MAX_DEATHS


def test_a_log_that_grows_too_long_is_kept_once_and_begins_again(
    supervisor: Supervisor, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "MAX_LOG_BYTES", 1000)
    process = make("one")
    supervisor.start(process)
    url, kept = process.url, tmp_path / "one.log.1"
    asked = 0

    def kept_once() -> bool:
        nonlocal asked
        asked += answers(url)  # a line of its log each
        return kept.exists()

    until(kept_once, supervisor)
    assert f"one: {url}" in kept.read_text()
    assert answers(url)
    later = (tmp_path / "one.log").read_bytes()
    assert b"\0" not in later, "it must not go on at its old offset"
    assert 0 < len(later) <= 1000
    assert asked < 100


def test_the_last_one_started_ends_first(make: Make, tmp_path: Path, told: list[str]) -> None:
    with Supervisor(told.append) as supervisor:
        for name in ("one", "two", "three"):
            supervisor.start(make(name))
        supervisor.end(supervisor.processes[1], make("never started"))
    assert (tmp_path / "ends.txt").read_text().split() == ["two", "three", "one"]


def test_signals_stop_once(supervisor: Supervisor) -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    with supervisor.signals():
        with pytest.raises(AskedToStop, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # no second one in the middle of the end
        assert supervisor._hurry
    assert signal.getsignal(signal.SIGINT) is before


class Ending:
    """In whose finalizer a signal comes: Python drops what its handler raises there."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_has_dropped_stops_it_as_well(
    supervisor: Supervisor, make: Make
) -> None:
    with supervisor.signals():
        Ending()
        with pytest.raises(AskedToStop, match="SIGINT"):
            supervisor.watch()
        with pytest.raises(AskedToStop, match="SIGINT"):
            supervisor.start(make("one"))
        assert not supervisor._hurry, "nobody has pressed twice"


def test_kill_9_leaves_nothing(make: Make, tmp_path: Path) -> None:
    code = """
import os
from pathlib import Path
from deployments.host.supervisor import ManagedProcess, Supervisor
supervisor = Supervisor(print)
supervisor.start(*(ManagedProcess(name=n, module="small", arguments=(n, "--child"), port=0,
                        environment=os.environ, log=Path(n + ".log")) for n in ("one", "two")))
print("up", flush=True)
supervisor.watch()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=dict(make("x").environment),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    deadline = time.monotonic() + 60
    while not all("grandchild: " in log.read_text() for log in logs):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    tree = children_of(process.pid)
    assert len(tree) == 5
    process.kill()
    process.communicate()
    while any(map(is_running, tree)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
