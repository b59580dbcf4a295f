"""Locks hold between processes and end with their holder."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seedvr2_core.errors import DeadlineError
from seedvr2_core.files.locks import has_flock, hold_lock

HOLDER = """
import sys, time
from pathlib import Path
from seedvr2_core.files.locks import hold_lock
with hold_lock(Path(sys.argv[1]), timeout=0, on_wait=lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds tmp_path/a.lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def _never() -> None:
    raise AssertionError("nobody else holds it")


def test_free_lock_is_taken_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    for _ in range(2):
        with hold_lock(path, timeout=0, on_wait=_never):
            pass
    assert path.exists()


def test_held_by_another_process(tmp_path: Path, holder: subprocess.Popen) -> None:
    waited = []
    with (
        pytest.raises(DeadlineError, match=r"a\.lock"),
        hold_lock(tmp_path / "a.lock", timeout=0.6, on_wait=lambda: waited.append(1)),
    ):
        pass
    assert waited == [1]


def test_kill_9_releases_it(tmp_path: Path, holder: subprocess.Popen) -> None:
    def kill() -> None:
        os.kill(holder.pid, signal.SIGKILL)

    with hold_lock(tmp_path / "a.lock", timeout=20, on_wait=kill):
        assert holder.wait(timeout=20) == -signal.SIGKILL


def test_released_by_an_error_inside(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="inside"),
        hold_lock(tmp_path / "a.lock", timeout=0, on_wait=_never),
    ):
        raise RuntimeError("inside")
    with hold_lock(tmp_path / "a.lock", timeout=0, on_wait=_never):
        pass


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "a.lock", timeout=0, on_wait=_never):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with hold_lock(tmp_path / "a.lock", timeout=0, on_wait=_never):
            assert child.poll() is None
    finally:
        child.communicate(b"\n")


def test_a_signal_lands_while_waiting(tmp_path: Path, holder: subprocess.Popen) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with (
            pytest.raises(Stopped),
            hold_lock(
                tmp_path / "a.lock",
                timeout=60,
                on_wait=lambda: signal.setitimer(signal.ITIMER_REAL, 0.1),
            ),
        ):
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_lock_whose_file_was_deleted_while_waiting_is_taken_anew(tmp_path: Path) -> None:
    """The holder removes the whole folder, as a sweep does; nobody ends up with a lost file."""
    path = tmp_path / "job" / "a.lock"
    entered, delete = threading.Event(), threading.Event()

    def hold_and_delete() -> None:
        with hold_lock(path, timeout=0, on_wait=_never):
            entered.set()
            assert delete.wait(20)
            shutil.rmtree(path.parent)

    with ThreadPoolExecutor() as pool:
        holder = pool.submit(hold_and_delete)
        assert entered.wait(20)
        with hold_lock(path, timeout=20, on_wait=delete.set):
            holder.result(timeout=20)
            assert path.exists()
            with (
                pytest.raises(DeadlineError),
                hold_lock(path, timeout=0, on_wait=lambda: None),
            ):
                pass


def test_has_flock(tmp_path: Path) -> None:
    assert has_flock(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not has_flock(tmp_path / "missing")
