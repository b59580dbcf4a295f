"""A seat and who may ask what there; the child that sits there is a thread of the test."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.child.messages.life import Rest
from seedvr2_core.child.warm.kept import Kept
from seedvr2_core.child.warm.rest import WaitingPlace
from seedvr2_core.child.warm.seat import SeatCall, make_private, seat_for, short_path
from seedvr2_core.errors import DeadlineError, ResourceError
from seedvr2_core.files import hold_lock
from seedvr2_core.planning.build import build_plan
from tests.kits.factories import make_info, make_options

LOCK = "gpu-7.lock"


class Sitter:
    """Waits at a seat in a thread, with the lock of a GPU; `pipes` is what a job has brought."""

    def __init__(self, rest: Rest, kept: Kept) -> None:
        self.pipes: list[int] | None = None
        self.path = rest.seat.with_suffix(".sock")
        self._place = WaitingPlace.taken(rest, kept)
        place = self._place.__enter__()
        self._thread = threading.Thread(target=self._sit, args=(place,))
        self._thread.start()

    def _sit(self, place: WaitingPlace) -> None:
        self.pipes = place.wait()
        self._place.__exit__(None, None, None)

    def ask(self, **question: object) -> dict[str, Any]:
        with SeatCall(self.path) as caller:
            return caller.ask(question)

    def has_ended(self) -> bool:
        self._thread.join(timeout=10)
        return not self._thread.is_alive()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """A loaded engine, and the lock of a GPU."""
    kept, plan = Kept(), build_plan(make_info(), "a", make_options())
    session, warm = kept.open_session(plan, device="cpu", beat=lambda *_: None, weights_dir=None)
    assert not warm
    session.close()
    kept.hold(tmp_path / LOCK, lambda: _hold(tmp_path / LOCK))
    yield kept
    kept.close()


def _hold(path: Path) -> AbstractContextManager[None]:
    return hold_lock(path, timeout=0, on_wait=lambda: None)


@pytest.fixture
def ask_rest(tmp_path: Path) -> Callable[..., Rest]:
    """A request to rest, below a path that is too long for a socket's name."""

    def make(seconds: float = 60.0, keeper: int | None = None) -> Rest:
        folder = tmp_path / ("long" * 30)
        return Rest(
            seat=seat_for(folder, "cpu", {}),
            terms="ours",
            seconds=seconds,
            keeper=keeper or os.getpid(),
        )

    return make


@contextmanager
def sitting(rest: Rest, kept: Kept) -> Iterator[Sitter]:
    sitter = Sitter(rest, kept)
    yield sitter
    with suppress(OSError):  # it has ended by itself
        sitter.ask(ask="yield", lock="")
    assert sitter.has_ended()
    assert not sitter.path.exists()


def test_a_job_on_the_same_terms_is_taken_with_its_pipes(
    kept: Kept, ask_rest: Callable[..., Rest]
) -> None:
    with sitting(ask_rest(), kept) as sitter, SeatCall(sitter.path) as caller:
        reader, writer = os.pipe()
        assert caller.pid == os.getpid()
        answer = caller.ask({"ask": "attach", "terms": "ours"}, [reader] * 4)
        assert answer == {"taken": True}
        assert sitter.has_ended()
        assert sitter.pipes is not None
        os.write(writer, b"a request")
        assert os.read(sitter.pipes[0], 100) == b"a request"
        for pipe in (reader, writer, *sitter.pipes):
            os.close(pipe)


def test_a_job_on_other_terms_ends_it(kept: Kept, ask_rest: Callable[..., Rest]) -> None:
    with sitting(ask_rest(), kept) as sitter, SeatCall(sitter.path) as caller:
        assert caller.ask({"ask": "attach", "terms": "theirs"}, [0] * 4) == {"taken": False}
        assert sitter.has_ended()
        assert sitter.pipes is None


def test_it_makes_way_for_whoever_wants_its_gpu_and_for_no_other(
    kept: Kept, ask_rest: Callable[..., Rest]
) -> None:
    with sitting(ask_rest(), kept) as sitter:
        assert sitter.ask(ask="yield", lock="gpu-8.lock") == {"ends": False}
        assert sitter.ask(ask="tell")["engine"] == "lanczos"
        assert sitter.ask(ask="yield", lock=LOCK) == {"ends": True}
        assert sitter.has_ended()


def test_nonsense_and_silence_do_not_end_it(kept: Kept, ask_rest: Callable[..., Rest]) -> None:
    with sitting(ask_rest(), kept) as sitter:
        for nonsense in (b"{", b"[1]\n", b"null\n", b"[" * 60_000, json.dumps({"ask": 7}).encode()):
            with socket.socket(socket.AF_UNIX) as caller, short_path(sitter.path) as name:
                caller.connect(name)
                caller.sendall(nonsense)
        with socket.socket(socket.AF_UNIX) as caller, short_path(sitter.path) as name:
            caller.connect(name)  # and says nothing
            assert sitter.ask(ask="attach", terms="ours") == {"taken": False}, "it has no pipes"


def test_a_lock_file_that_is_replaced_ends_it(
    kept: Kept, ask_rest: Callable[..., Rest], tmp_path: Path
) -> None:
    """Whoever takes the new one takes the GPU."""
    with sitting(ask_rest(), kept) as sitter:
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).touch()
        assert sitter.has_ended()


def test_the_end_of_the_worker_ends_it(kept: Kept, ask_rest: Callable[..., Rest]) -> None:
    worker = subprocess.Popen(["sleep", "600"])
    with sitting(ask_rest(keeper=worker.pid), kept) as sitter:
        worker.kill()
        worker.wait()
        assert sitter.has_ended()


def test_a_worker_that_has_ended_already_is_refused(
    kept: Kept, ask_rest: Callable[..., Rest]
) -> None:
    worker = subprocess.Popen(["true"])
    worker.wait()
    with pytest.raises(ProcessLookupError), WaitingPlace.taken(ask_rest(keeper=worker.pid), kept):
        pass


def test_a_seat_is_for_one(kept: Kept, ask_rest: Callable[..., Rest]) -> None:
    with sitting(ask_rest(), kept) as sitter:
        with pytest.raises(DeadlineError), WaitingPlace.taken(ask_rest(), kept):
            pass
        assert sitter.ask(ask="tell")["pid"] == os.getpid()


def test_what_is_open_of_the_job_and_an_engine_that_was_spoiled_are_refused(
    kept: Kept, ask_rest: Callable[..., Rest], tmp_path: Path
) -> None:
    kept.files = (tmp_path / "job",)
    (tmp_path / "job").mkdir()
    with (
        (tmp_path / "job" / "left").open("wb"),
        pytest.raises(ResourceError, match="left of the job is still open"),
        WaitingPlace.taken(ask_rest(), kept),
    ):
        pass
    kept.spoil()
    with pytest.raises(ResourceError, match="do not stay"), WaitingPlace.taken(ask_rest(), kept):
        pass


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(ResourceError, match="nobody else"):
        make_private(folder)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(ResourceError, match="nobody else"):
        make_private(link)


def test_gpus_have_seats_of_their_own(tmp_path: Path) -> None:
    one = seat_for(tmp_path, "cuda:0", {"CUDA_VISIBLE_DEVICES": "0", "LANG": "C"})
    assert one == seat_for(tmp_path, "cuda:0", {"CUDA_VISIBLE_DEVICES": "0"})
    assert one != seat_for(tmp_path, "cuda:0", {"CUDA_VISIBLE_DEVICES": "1"})
    assert one != seat_for(tmp_path, "cpu", {"CUDA_VISIBLE_DEVICES": "0"})


HANGS = """
import ctypes, os, sys
from seedvr2_core.files.process import die_with_pipe
die_with_pipe(0)
print("hangs", flush=True)
ctypes.PyDLL(None).sleep(600)  # with Python's lock: no thread of ours runs any more
"""


def test_a_process_that_hangs_in_a_library_ends_with_the_pipe() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANGS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"hangs\n"
        time.sleep(0.2)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=20) == -9
