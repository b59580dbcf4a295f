"""Operations in a row: they share a child as long as it is well, and none is left behind."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.child.protocol import Prepare, Probe, Request
from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.kernels.devices import may_have_gpus
from tasks.child import operation
from tasks.child.guard import Child
from tasks.child.operation import (
    child_for,
    drop_engine,
    one_child,
    pass_on,
    run_operation,
    waiting_child,
)


@pytest.fixture
def started(settings_with, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Child]]:
    """The children that were started; none of them outlives the test."""
    settings_with()
    children: list[Child] = []

    def start(**options: Any) -> Child:
        children.append(Child(**options))
        return children[-1]

    monkeypatch.setattr(operation, "Child", start)
    yield children
    assert not any(child.alive for child in children)


def probe(clip: Path, folder: Path) -> None:
    """Probe a clip."""
    run_operation(Probe(path=clip, out=folder / "probe.json"), doing="probing")
    assert (folder / "probe.json").is_file()


def test_operations_in_a_row_share_a_child(
    started: list[Child], demo_clip: Path, tmp_path: Path
) -> None:
    with one_child():
        probe(demo_clip, tmp_path)
        probe(demo_clip, tmp_path)
        assert len(started) == 1
        assert started[0].alive
    assert not started[0].alive, "it has ended with the block"


def test_outside_of_a_block_each_has_its_own(
    started: list[Child], demo_clip: Path, tmp_path: Path
) -> None:
    with one_child():
        probe(demo_clip, tmp_path)
    probe(demo_clip, tmp_path)
    assert len(started) == 2


def test_a_child_that_has_failed_serves_nobody_else(
    started: list[Child], demo_clip: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with one_child():
        probe(demo_clip, tmp_path)
        with pytest.raises(InvalidVideoError):
            probe(broken, tmp_path)
        probe(demo_clip, tmp_path)
        assert len(started) == 2


def test_a_child_that_died_while_it_waited_is_replaced(
    started: list[Child], demo_clip: Path, tmp_path: Path
) -> None:
    with one_child():
        probe(demo_clip, tmp_path)
        os.killpg(started[0].pid, signal.SIGKILL)
        started[0]._process.wait()
        probe(demo_clip, tmp_path)
        assert len(started) == 2


def test_the_time_in_which_it_waited_is_no_silence(
    started: list[Child], demo_clip: Path, tmp_path: Path
) -> None:
    with one_child():
        probe(demo_clip, tmp_path)
        started[0].last_life -= 2 * operation.STALL_SECONDS  # an upload took so long
        began = time.monotonic()
        probe(demo_clip, tmp_path)
        assert len(started) == 1
        assert time.monotonic() - began < operation.STALL_SECONDS


def test_a_child_that_is_taken_belongs_to_its_taker(
    started: list[Child], demo_clip: Path, tmp_path: Path
) -> None:
    with one_child():
        assert waiting_child() is None, "nothing has run yet"
        probe(demo_clip, tmp_path)
        child = waiting_child()
        assert child is not None
        assert child is started[0]
        assert waiting_child() is None, "it has one owner"
        probe(demo_clip, tmp_path)
        assert len(started) == 2
    assert child.alive, "the block does not end what is not its own"
    assert list(child.tail) == []
    child.close()
    assert waiting_child() is None, "outside of a block none waits"


@pytest.mark.parametrize(
    ("restores", "asked"), [(True, ["Prepare", "Probe", "Probe"]), (False, ["Probe", "Probe"])]
)
def test_who_probes_for_a_job_loads_torch_meanwhile(
    started: list[Child],
    demo_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restores: bool,
    asked: list[str],
) -> None:
    sent: list[str] = []
    real = Child.send

    def send(child: Child, request: Request[Any]) -> None:
        sent.append(type(request).__name__)
        real(child, request)

    monkeypatch.setattr(Child, "send", send)
    with one_child(restores=restores):
        probe(demo_clip, tmp_path)
        probe(demo_clip, tmp_path)
        assert sent == asked
        assert len(started) == 1
    sent.clear()
    probe(demo_clip, tmp_path)
    assert sent[0] == "Probe", "outside of a block nothing follows"


def test_a_child_that_is_told_to_prepare_has_torch(started: list[Child]) -> None:
    """On a machine without a GPU, as a mapping of its memory shows; another one never loads it."""
    with one_child():
        idle, told = operation.Child(), operation.Child()
        told.send(Prepare())
        end = time.monotonic() + 60
        while not (loaded := "libtorch" in _maps(told)) and time.monotonic() < end:
            time.sleep(0.05)
        assert loaded != may_have_gpus()
        assert "libtorch" not in _maps(idle)
        for child in (idle, told):
            child.close()


def _maps(child: Child) -> str:
    return Path(f"/proc/{child.pid}/maps").read_text()


def taken(clip: Path, folder: Path) -> Child:
    """The child that has probed a clip, as whoever restores takes it."""
    probe(clip, folder)
    child = waiting_child()
    assert child is not None
    return child


def test_on_a_cpu_who_has_made_segments_does_what_follows(
    started: list[Child], demo_clip: Path, tmp_path: Path
) -> None:
    with one_child():
        child = taken(demo_clip, tmp_path)
        probe(demo_clip, tmp_path)  # another one, which waits now
        assert pass_on(child, "cpu", is_idle=True) is None
        probe(demo_clip, tmp_path)
        assert len(started) == 2
        assert [one.alive for one in started] == [True, False]


@pytest.mark.parametrize("why", ["a GPU", "no block", "still at work"])
def test_who_cannot_go_on_stays_with_its_owner(
    started: list[Child],
    demo_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    monkeypatch.setattr(operation, "_END_SECONDS", 0.3)
    device = "cuda:0" if why == "a GPU" else "cpu"
    with one_child():
        child = taken(demo_clip, tmp_path)
        if why != "no block":
            assert pass_on(child, device, is_idle=why != "still at work") is child
    if why == "no block":
        assert pass_on(child, device, is_idle=True) is child
    assert child.alive
    child.close()


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_an_engine_is_left_to_the_next_session_of_the_job(
    started: list[Child], demo_clip: Path, tmp_path: Path, device: str
) -> None:
    """On a GPU as well: it is the same job's, and is taken or dropped a moment later."""
    with one_child():
        child = taken(demo_clip, tmp_path)
        assert pass_on(child, device, is_idle=True, goes_on=True) is None
        probe(demo_clip, tmp_path)  # another child: this one would let its engine go
        assert [one.alive for one in started] == [True, True]
        assert child_for(device, None) is child
        assert pass_on(child, device, is_idle=True, goes_on=True) is None
        drop_engine()
        assert [one.alive for one in started] == [False, True]
        taken_next = child_for("cpu", None)
        assert taken_next is started[1]
        pass_on(taken_next, device, is_idle=True, goes_on=True)
    assert not started[1].alive, "it has ended with the block"
