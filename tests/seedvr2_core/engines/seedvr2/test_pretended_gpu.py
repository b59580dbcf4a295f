"""Shots on a pretended GPU: what has to wait for something waits for it, on every rung.

Every way of waiting that they use is left out once, too, and has to be missed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.tiny import make_models
from seedvr2_core.engines.seedvr2.transfer import Landing
from seedvr2_core.kernels.switches import switched
from seedvr2_core.planning.plan import Plan
from seedvr2_core.planning.rungs.slices import BANDS, RINGS, SLICES, Slices
from seedvr2_core.vae import causal_conv, conv
from tests.kits.gpu.ledger import Ledger
from tests.kits.gpu.pretended import pretended
from tests.kits.gpu.rungs import ELSEWHERE, STRIP, memory_of
from tests.kits.restorer import (
    Result,
    begin_behind,
    latents,
    make_frames,
    make_pieces,
    make_plan,
    open_tiny,
    pictures,
    run_piece,
    run_shot,
)

FRAMES = 17
"""5 latents, two windows."""
NOT_REACHED = {
    "vae/store.py _like synchronize",
    "vae/store.py move_to_device wait_event",
    "vae/store.py rest synchronize",
}
"""No shot of these networks needs them; tests/seedvr2_core/vae/test_store.py does."""
ONCE = {
    "dit/tables.py _layer_tables",
    "dit/tables.py make_tables",
    "engines/seedvr2/pictures.py _bands_of",
    "engines/seedvr2/session.py _restore",
}
"""Where the host may stand still: tables of a window's size, those of the colour, and the tail of
a piece when all its frames are out."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small frames in rings and in bands, as the large ones of a GPU."""
    monkeypatch.setattr(causal_conv, "RING_PIXELS", 1)
    monkeypatch.setattr(conv, "STRIP_ELEMENTS", STRIP)


def _plan(memory: dict[str, object], *, frames: int = FRAMES, **engine: object) -> Plan:
    return make_plan(frames, memory=memory, **({"window": 4, "overlap": 1} | engine))


def _open(plan: Plan) -> SeedVR2Session:
    models = make_models(plan, device="cuda:0")
    return SeedVR2Session(models, plan, device="cuda:0", beat=lambda *_: None)


def _made(plan: Plan, *, without: str = "") -> tuple[list[Result], Ledger]:
    """A shot in pieces, and what was seen behind the loading."""
    with pretended(without=without) as ledger:
        session = _open(plan)
        ledger.stops.clear()
        made = run_shot(session, plan, make_frames(plan), make_pieces(plan))
        session.close()
    return made, ledger


def _assert_same(got: list[Result], wanted: list[Result]) -> None:
    assert (pictures(got) == pictures(wanted)).all()
    assert torch.equal(latents(got), latents(wanted))


def test_a_resident_shot_is_that_of_the_cpu_and_the_host_hardly_ever_stands_still() -> None:
    plan = _plan(memory_of(SLICES[0], "float32"))
    got, ledger = _made(plan)
    assert ledger.faults == []
    assert ledger.stops.keys() <= ONCE
    with switched(on_cpu=True):
        wanted = run_shot(open_tiny(plan), plan, make_frames(plan), make_pieces(plan))
    # Linears and GELU are one operation on a GPU alone.
    difference = np.abs(pictures(got).astype(int) - pictures(wanted))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    torch.testing.assert_close(latents(got), latents(wanted), rtol=0, atol=0.01)


@pytest.mark.long
@pytest.mark.parametrize(
    ("slices", "dtype", "engine"),
    [
        pytest.param(RINGS, "float32", "tiny", id="rings"),
        pytest.param(RINGS, "float16", "tiny-3b", id="rings-fp16"),
        pytest.param(SLICES[0], "float32", "tiny-3b", id="large"),
        pytest.param(SLICES[-1], "bfloat16", "tiny", id="small-bf16"),
        pytest.param(BANDS, "float32", "tiny", id="bands"),
    ],
)
def test_nothing_meets_that_has_to_wait(slices: Slices, dtype: str, engine: str) -> None:
    rung = memory_of(slices, dtype)
    ways = ["parked"] if slices.rings else ["straight"] if slices.bands else [*ELSEWHERE]
    frames = 5 if slices.bands else FRAMES  # thousands of copies a frame
    plans = [
        _plan(rung | ELSEWHERE.get(way, {}), frames=frames, name=engine) for way in ("", *ways)
    ]
    made = [_made(plan) for plan in plans]
    assert [ledger.faults for _, ledger in made] == [[]] * len(made)
    for got, _ in made[1:]:
        _assert_same(got, made[0][0])


@pytest.mark.long
@pytest.mark.parametrize("way", ["", "half"])
def test_work_that_is_taken_up_waits_too(way: str) -> None:
    memory = memory_of(SLICES[1], "float32") | ELSEWHERE.get(way, {})
    plan = _plan(memory, frames=61, window=6, overlap=2)
    source, pieces = make_frames(plan), make_pieces(plan)
    with pretended() as ledger:
        wanted = run_shot(_open(plan), plan, source, pieces)
        session = _open(plan)
        state, frames = begin_behind(session, plan, source, pieces[-1], wanted[:-1])
        got = run_piece(session, plan, pieces[-1], frames, state)
    assert ledger.faults == []
    _assert_same([got], wanted[-1:])


@pytest.mark.long
@pytest.mark.parametrize("way", ["half", "straight"])
def test_every_wait_is_missed_when_it_is_left_out(way: str) -> None:
    plan = _plan(memory_of(SLICES[0], "float32") | ELSEWHERE[way])
    _, whole = _made(plan)
    assert whole.faults == []
    assert len(whole.waits) > 6
    unneeded = {wait for wait in whole.waits if not _made(plan, without=wait)[1].faults}
    assert unneeded <= NOT_REACHED


@pytest.mark.long
def test_what_goes_to_the_host_is_kept_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    first: Callable[..., None] = Landing.__init__

    def forgetful(self: Landing, host: Any, device: Any, event: Any) -> None:
        first(self, host, (), event)

    monkeypatch.setattr(Landing, "__init__", forgetful)
    _, ledger = _made(_plan(memory_of(SLICES[0], "float32")))
    assert any("gets memory back" in fault for fault in ledger.faults)


def test_the_pretended_gpu_is_as_strict_as_one() -> None:
    with pretended() as ledger:
        x = torch.ones(4, device="cuda:0")
        assert (x.device.type, x.is_cuda, x.is_pinned()) == ("cuda", True, False)
        with pytest.raises(RuntimeError, match="meet"):
            _ = x + torch.ones(4)
        with pytest.raises(TypeError, match="no arrays"):
            x.numpy()
        with pytest.raises(RuntimeError, match="no pages"):
            x.pin_memory()
        assert (x + torch.tensor(1.0)).sum().item() == 8
        assert torch.equal(x.cpu(), torch.ones(4))
        assert ledger.faults == []


def _read_early() -> None:
    x, host = torch.ones(4, device="cuda:0"), torch.zeros(4, pin_memory=True)
    host.copy_(x, non_blocking=True)
    host.sum()


def _write_early() -> None:
    host, x = torch.zeros(4, pin_memory=True), torch.zeros(4, device="cuda:0")
    x.copy_(host, non_blocking=True)
    host.add_(1)


def _show_early() -> None:
    host, x = torch.zeros(4, pin_memory=True), torch.zeros(4, device="cuda:0")
    host.copy_(x, non_blocking=True)
    host.numpy()


def _other_stream() -> None:
    x = torch.ones(4, device="cuda:0")
    with torch.cuda.stream(torch.cuda.Stream()):
        _ = x + 1


def _back_early() -> None:
    x, stream = torch.ones(4, device="cuda:0"), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x.add_(1)
    del x


@pytest.mark.parametrize(
    ("do", "fault"),
    [
        (_read_early, "the host reads"),
        (_write_early, "the host writes"),
        (_show_early, "the host writes"),
        (_other_stream, "stream 1 reads"),
        (_back_early, "stream 0 gets memory back that stream 1 uses"),
    ],
)
def test_the_ledger_sees(do: Callable[[], None], fault: str) -> None:
    with pretended() as ledger:
        do()
    assert any(fault in told for told in ledger.faults), ledger.faults


def test_the_ledger_is_content_with_what_waits() -> None:
    with pretended() as ledger:
        x, stream = torch.ones(4, device="cuda:0"), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        host = torch.zeros(4, pin_memory=True)
        with torch.cuda.stream(stream):
            host.copy_(x, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        x.record_stream(stream)
        del x
        event.synchronize()
        assert host.numpy().sum() == 4
        parts = torch.zeros(8, pin_memory=True)
        y = torch.zeros(4, device="cuda:0")
        parts[:4].copy_(y, non_blocking=True)
        parts[4:].add_(1)  # other bytes
    assert ledger.faults == []
