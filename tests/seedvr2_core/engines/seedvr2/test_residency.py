"""Where caches and weights lie changes no bit of a shot, in one run or where work is taken up."""

import functools
from collections.abc import Iterator

import pytest
import torch

from seedvr2_core.engines.seedvr2 import parking
from seedvr2_core.frames import Frame
from seedvr2_core.vae import causal_conv
from seedvr2_core.vae.store import CacheStore
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

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("either_path")]

LONG = 189
WINDOWS = {"window": 6, "overlap": 2}
TAKEN_UP = 10
"""The piece at which work is taken up: its warm-up begins inside the shot, at frame 45 and
latent 2."""
RINGS = {
    "encoder_rings": True,
    "decoder_rings": True,
    "encoder_level_frames": (1, 1, 1, 4),
    "decoder_level_frames": (2, 1, 1, 1),
}
BOUNDED = {"encoder_level_frames": (4, 4, 1, 1), "decoder_level_frames": (1, 1, 4, 4)}
AWAY = {"weights_resident": False}
WAYS = [
    pytest.param(RINGS, {"park_caches": True, **AWAY}, id="rings-parked"),
    pytest.param(BOUNDED, {"park_caches": True, **AWAY}, id="parked"),
    pytest.param(BOUNDED, {"stream_caches": True, **AWAY}, id="streamed-caches"),
    pytest.param(BOUNDED, {"stream_caches": True, "streamed_layers": 3}, id="streamed-all"),
    pytest.param(BOUNDED, {"streamed_layers": 2, **AWAY}, id="streamed-layers"),
    pytest.param(
        BOUNDED,
        {"stream_caches": True, "encoder_block_bytes": 9000, "decoder_block_bytes": 0, **AWAY},
        id="straight-caches",
    ),
]
"""What decides bits, and what must not."""


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """Small frames in rings, and caches that move on a CPU as they do for a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_conv, "RING_PIXELS", 1)
        patch.setattr(parking, "CacheStore", functools.partial(CacheStore, always=True))
        yield


@pytest.fixture(scope="module")
def source() -> list[Frame]:
    return make_frames(make_plan(LONG, **WINDOWS))


@functools.cache
def _resident(path: bool, rings: bool) -> list[Result]:
    """Everything stays; the shot until behind that piece."""
    plan = make_plan(LONG, memory=RINGS if rings else BOUNDED, **WINDOWS)
    return run_shot(open_tiny(plan), plan, make_frames(plan), make_pieces(plan)[: TAKEN_UP + 1])


@pytest.mark.parametrize(("memory", "elsewhere"), WAYS)
def test_what_waits_elsewhere_changes_no_bit(
    source: list[Frame], memory: dict[str, object], elsewhere: dict[str, object]
) -> None:
    plan = make_plan(LONG, memory=memory | elsewhere, **WINDOWS)
    wanted = _resident(causal_conv.switches().on_cpu, memory is RINGS)
    pieces = make_pieces(plan)
    _assert_same(run_shot(open_tiny(plan), plan, source, pieces[:2]), wanted[:2])
    session, piece = open_tiny(plan), pieces[TAKEN_UP]
    reads = session.reads(plan.shots[0], [piece])
    assert min(reads.frames.start, reads.latents.start) > 0
    state, frames = begin_behind(session, plan, source, piece, wanted[:TAKEN_UP])
    _assert_same([run_piece(session, plan, piece, frames, state)], wanted[TAKEN_UP:])


def _assert_same(results: list[Result], wanted: list[Result]) -> None:
    assert torch.equal(torch.from_numpy(pictures(results)), torch.from_numpy(pictures(wanted)))
    assert torch.equal(latents(results), latents(wanted))
