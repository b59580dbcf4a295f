"""Caches that wait in host memory: the same bits, and each is there when its layer runs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.vae.causal_conv import ConvState
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights
from seedvr2_core.vae.store import CacheStore, _Lane
from tests.kits.gpu.pretended import DEVICE, pretended

pytestmark = pytest.mark.usefixtures("either_path")

CPU = torch.device("cpu")
LEVELS = (2, 2, 1, 1)
SIZES = [1, 2, 1, 3]


BLOCKS = [
    pytest.param(None, id="all_through_blocks"),
    pytest.param(2000, id="the_larger_straight"),
    pytest.param(0, id="all_straight"),
]


def _store(block_bytes: int | None = None) -> CacheStore:
    return CacheStore(CPU, block_bytes=block_bytes, always=True)


def _random(dtype: torch.dtype, *size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def _vae(dtype: torch.dtype, *, fold: bool) -> VideoVAE:
    return build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=dtype, fold=fold)


@pytest.mark.parametrize(
    ("first", "block", "fold"),
    [
        pytest.param(0, None, True, id="from_the_start-through_blocks-folded"),
        pytest.param(3, None, False, id="inside_a_shot-through_blocks-as_trained"),
        pytest.param(0, 2000, False, id="from_the_start-larger_straight-as_trained"),
        pytest.param(3, 2000, True, id="inside_a_shot-larger_straight-folded"),
        pytest.param(0, 0, True, id="from_the_start-straight-folded"),
        pytest.param(3, 0, False, id="inside_a_shot-straight-as_trained"),
    ],  # every two values of these three meet
)
def test_streaming_changes_no_bit(
    dtype: torch.dtype, first: int, block: int | None, *, fold: bool
) -> None:
    vae = _vae(dtype, fold=fold)
    latents, video = _random(dtype, 1, 16, 7, 2, 3), _random(dtype, 1, 3, 28, 16, 24)
    resident, streamed = vae.start_decoder(first), vae.start_decoder(first)
    streamed.use_store(_store(block))
    for part in latents.split(SIZES, dim=2):
        wanted, resident = vae.decode(part, resident, max_frames=LEVELS)
        got, streamed = vae.decode(part, streamed, max_frames=LEVELS)
        assert torch.equal(got, wanted)
        streamed.settle()
    encoder, other = vae.start_encoder(first), vae.start_encoder(first)
    other.use_store(_store(block))
    start = 0
    for index, size in enumerate(SIZES):
        count = 4 * size - (3 if not index and not first else 0)
        part = video[:, :, start : start + count]
        wanted, encoder = vae.encode(part, encoder, max_frames=LEVELS[::-1])
        got, other = vae.encode(part, other, max_frames=LEVELS[::-1])
        assert torch.equal(got, wanted)
        start += count
    for mine, theirs in ((streamed, resident), (other, encoder)):
        pairs = zip(mine.named_tensors(), theirs.named_tensors(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_cache_is_on_its_way_before_its_layer_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a shot's third slice on, when the order of the layers is known."""
    vae = _vae(torch.float32, fold=True)
    latents = _random(torch.float32, 1, 16, 8, 2, 3)
    store, waited = _store(), []
    bring = CacheStore._bring

    def note(self: CacheStore, state: object, *, beside: object = None) -> object:
        waited.append(beside is None)
        return bring(self, state, beside=beside)

    monkeypatch.setattr(CacheStore, "_bring", note)
    state = vae.start_decoder()
    state.use_store(store)
    for index, part in enumerate(latents.split(2, dim=2)):
        waited.clear()
        vae.decode(part, state, max_frames=LEVELS)
        if index > 1:
            # With depth first some layers run several times before the next level's.
            assert sum(waited) < 0.5 * len(waited)


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_no_larger_than_they_may(
    monkeypatch: pytest.MonkeyPatch, block: int | None
) -> None:
    sizes: list[int] = []
    like = _Lane._like

    def note(self: _Lane, x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return like(self, x)

    monkeypatch.setattr(_Lane, "_like", note)
    vae = _vae(torch.float32, fold=True)
    state = vae.start_decoder()
    state.use_store(_store(block))
    for part in _random(torch.float32, 1, 16, 8, 2, 3).split(2, dim=2):
        vae.decode(part, state, max_frames=LEVELS)
    caches = [x.nbytes for _, x in state.named_tensors()]
    passing = [size for size in caches if block is None or size <= block]
    assert max(sizes, default=0) == max(passing, default=0)
    assert len(passing) == {None: len(caches), 0: 0}.get(block, len(passing))
    assert block != 2000 or 0 < len(passing) < len(caches)


def _frames(height: int) -> Tensor:
    x = torch.ones((1, 4, 2, height, 8), device=DEVICE)
    return x.contiguous(memory_format=torch.channels_last_3d)


def _put(store: CacheStore, state: ConvState, height: int = 8) -> None:
    frames = _frames(height)
    state.frames = store.put(state, frames)
    store.let_go()


def _fill(store: CacheStore, state: ConvState) -> None:
    assert state.frames is not None
    store.fill(state, torch.empty(state.frames.shape, device=DEVICE))


def _a_block_grows() -> None:
    """Where a cache was brought that is not the next one, and the one after it is larger."""
    store = CacheStore(DEVICE)
    first, second, third, last = states = [ConvState() for _ in range(4)]
    for state in states:
        _put(store, state)
    for state in states:
        _fill(store, state)
    _put(store, last, height=16)
    _fill(store, first)
    assert store._ahead.keys() == {id(second)}
    _fill(store, third)
    store.rest()


def _what_has_gone_comes_back() -> None:
    store, state = CacheStore(DEVICE), ConvState()
    for _ in range(3):  # at first the two blocks are made, which waits for everything
        _put(store, state)
        _fill(store, state)
    store.rest()


def _the_host_reads() -> None:
    store, state = CacheStore(DEVICE, block_bytes=0), ConvState()
    _put(store, state)
    store.rest()
    assert state.frames is not None
    assert state.frames.sum() == 4 * 2 * 8 * 8


@pytest.mark.parametrize(
    ("do", "wait"),
    [
        (_a_block_grows, "vae/store.py _like synchronize"),
        (_what_has_gone_comes_back, "vae/store.py move_to_device wait_event"),
        (_the_host_reads, "vae/store.py rest synchronize"),
    ],
)
def test_a_wait_is_missed_when_it_is_left_out(do: Callable[[], None], wait: str) -> None:
    with pretended() as ledger:
        do()
    assert ledger.faults == []
    assert wait in ledger.waits
    with pretended(without=wait) as ledger:
        do()
    assert ledger.faults != []
