"""Every rung of every ladder gives the bits of the same rung where everything stays.

What each rung takes of a device is in tests/seedvr2_core/vae/test_memory.py.
"""

import functools
import itertools
from collections.abc import Iterator

import pytest
import torch

from seedvr2_core.engines.seedvr2 import parking
from seedvr2_core.planning.rungs.slices import BANDS, RINGS, SLICES, Slices
from seedvr2_core.vae import causal_conv, conv
from seedvr2_core.vae.store import CacheStore
from tests.kits.gpu.rungs import ELSEWHERE, STRIP, memory_of
from tests.kits.restorer import (
    Result,
    latents,
    make_frames,
    make_pieces,
    make_plan,
    open_tiny,
    pictures,
    run_shot,
)

pytestmark = pytest.mark.long

FRAMES = 25
"""7 latents, two windows."""


@pytest.fixture(autouse=True, scope="module")
def _as_for_a_gpu() -> Iterator[None]:
    """Small frames in rings and in bands, and caches that move."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_conv, "RING_PIXELS", 1)
        patch.setattr(conv, "STRIP_ELEMENTS", STRIP)
        patch.setattr(parking, "CacheStore", functools.partial(CacheStore, always=True))
        yield


def _made(engine: str, memory: dict[str, object]) -> list[Result]:
    plan = make_plan(FRAMES, memory=memory, name=engine, window=6, overlap=2)
    return run_shot(open_tiny(plan), plan, make_frames(plan), make_pieces(plan))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("engine", "chunk", "rungs"),
    [
        ("tiny", 0, (RINGS, *SLICES, BANDS)),
        ("tiny-3b", 40, (RINGS, SLICES[0], SLICES[-1], BANDS)),
    ],
    ids=["tiny", "tiny-3b"],
)
def test_where_things_wait_changes_no_bit_of_any_rung(
    engine: str, chunk: int, rungs: tuple[Slices, ...], dtype: str
) -> None:
    others = itertools.cycle(("streamed", "straight"))
    for slices in rungs:
        rung = memory_of(slices, dtype, chunk_tokens=chunk)
        wanted = _made(engine, rung)
        if slices.bands:
            # The resident path: whole frames, with no bands, cut into the same strips.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(conv, "MAX_ELEMENTS", STRIP)
                whole = _made(engine, rung | {"encoder_bands": False, "decoder_bands": False})
                got = _made(engine, rung | ELSEWHERE["straight"])
            assert (pictures(got) == pictures(whole)).all(), slices
            assert torch.equal(latents(got), latents(whole)), slices
        # What is in rings is never streamed. "half" goes both ways of a stream.
        for name in ("parked",) if slices.rings else ("half", next(others)):
            got = _made(engine, rung | ELSEWHERE[name])
            assert (pictures(got) == pictures(wanted)).all(), (slices, name)
            assert torch.equal(latents(got), latents(wanted)), (slices, name)
