"""Each phase of a real session holds what the plan predicts for it, on every rung of every ladder.

A CPU stands in for the device. All tensors are counted but those that stand for host memory.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from seedvr2_core.config import DIT_CONFIGS, VAE_TINY
from seedvr2_core.engines.seedvr2 import parking
from seedvr2_core.engines.seedvr2.phases import Models, Phases
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.tiny import make_models
from seedvr2_core.errors import DeviceMemoryError
from seedvr2_core.planning.memory import CHUNKS
from seedvr2_core.planning.peaks import MemoryRequest, PhasePeaks, Residency
from seedvr2_core.planning.plan import Plan
from seedvr2_core.planning.rungs.slices import BANDS, SLICES, Slices
from seedvr2_core.vae import conv
from seedvr2_core.vae.bands import strips
from seedvr2_core.vae.store import CacheStore
from tests.kits.gpu.live_bytes import LiveBytes
from tests.kits.restorer import make_frames, make_pieces, make_plan

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 64, 48
FRAMES, WINDOW, OVERLAP = 69, 10, 2
LATENTS = 10
"""Of the longest piece, which is one of two windows."""
BLOCK = 2 * HEIGHT * WIDTH * 8 * 2
"""Bytes of the caches of most layers at full size in half precision: two frames at 8 channels."""
STRIP = 3 * 8 * WIDTH * 11
"""Elements of a strip of a band, eight rows at full size."""
DITS = {"tiny": "tiny-7b", "tiny-3b": "tiny-3b"}
RESIDENT = Residency(weights=True, caches=True)
RESIDENCIES = {
    "resident": RESIDENT,
    "parked": Residency(weights=True, caches=False),
    "away": Residency(weights=False, caches=False),
    "streamed": Residency(weights=True, caches=False, streamed=True),
    "all streamed": Residency(weights=False, caches=False, streamed=True, layers=3),
}


def planned(engine: str, dtype: str, rung: Slices, stay: Residency) -> dict[str, int]:
    request = MemoryRequest(
        dit_config=DIT_CONFIGS[DITS[engine]],
        vae_config=VAE_TINY,
        width=WIDTH,
        height=HEIGHT,
        num_latents_in_window=WINDOW,
        overlap=OVERLAP,
        segment_latents=LATENTS,
        source_frame_bytes=3 * 16 * 16,
        device_bytes=None,
        device_kind="cpu",
        vae_dtype=dtype,
        dit_dtype=dtype,
    )
    phases = PhasePeaks.of(request)
    return {
        "encode": phases.encode(rung, stay),
        "dit": phases.dit(CHUNKS[0], stay),
        "decode": phases.decode(rung, stay),
    }


def plan_of(engine: str, dtype: str, rung: Slices, stay: Residency) -> Plan:
    frames = rung.level_frames(VAE_TINY, (HEIGHT, WIDTH))
    plan = make_plan(
        FRAMES,
        memory={
            "vae_dtype": dtype,
            "dit_dtype": dtype,
            "encoder_slice": rung.latents,
            "decoder_slice": rung.latents,
            "encoder_level_frames": frames,
            "decoder_level_frames": frames[::-1],
            "encoder_block_bytes": rung.block_bytes,
            "decoder_block_bytes": rung.block_bytes,
            "encoder_bands": rung.bands,
            "decoder_bands": rung.bands,
            "chunk_tokens": CHUNKS[0],
            "park_caches": not stay.caches and not stay.streamed,
            "stream_caches": stay.streamed,
            "streamed_layers": stay.layers,
            "weights_resident": stay.weights,
        },
        name=engine,
        window=WINDOW,
        overlap=OVERLAP,
    )
    return dataclasses.replace(plan, width=WIDTH, height=HEIGHT)


class PhaseBytes(LiveBytes):
    """Peaks of each phase; host memory is left out."""

    def __init__(self) -> None:
        super().__init__(device="cpu")
        self.peaks: dict[str, int] = {}

    def limit(self, most: int) -> None:
        """Stand for a device that has so many bytes beside the weights."""
        self._most = most

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count a phase for itself."""
        self.peak = self.live
        yield
        self.peaks[name] = max(self.peaks.get(name, 0), self.peak)

    def places(self, arena: parking.Arena, tensors: Sequence[Tensor]) -> list[Tensor]:
        """`Arena.places`, which are in host memory."""
        with _disable_current_modes():
            made = _PLACES(arena, tensors)
        self.leave_out(*made)
        return made


_PLACES = parking.Arena.places


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> PhaseBytes:
    """Counts what a session does; caches move on the CPU as they do for a GPU."""
    seen = PhaseBytes()
    store = functools.partial(CacheStore, always=True, host_like=seen.outside)
    monkeypatch.setattr(parking, "CacheStore", store)
    monkeypatch.setattr(parking.Arena, "places", lambda self, x: seen.places(self, x))
    for method, phase in (("encode", "encode"), ("restore_windows", "dit"), ("decode", "decode")):
        monkeypatch.setattr(Phases, method, _counted(getattr(Phases, method), phase, seen))
    return seen


def _counted(method: Any, phase: str, seen: PhaseBytes) -> Any:
    def call(*args: Any, **how: Any) -> Any:
        with seen.phase(phase):
            return method(*args, **how)

    def go(*args: Any, **how: Any) -> Iterator[Any]:
        with seen.phase(phase):
            yield from method(*args, **how)

    return go if phase == "decode" else call


def held(plan: Plan, stay: Residency, seen: PhaseBytes) -> dict[str, int]:
    """Peak bytes of each phase over all pieces, weights included."""
    models = make_models(plan, device="cpu")
    vae = models.build_vae(getattr(torch, plan.memory.vae_dtype if plan.memory else ""))
    vae_weights = _tensors(vae)
    streamed = list(models.dit.blocks)[len(models.dit.blocks) - stay.layers :]
    kept = _num_bytes(_tensors(models.dit)) - sum(_num_bytes(_tensors(b)) for b in streamed)
    session = SeedVR2Session(
        Models(build_vae=lambda _: vae, dit=models.dit), plan, device="cpu", beat=lambda *_: None
    )
    seen.leave_out(*vae_weights, *_tensors(models.dit))
    frames, shot = iter(make_frames(plan)), plan.shots[0]
    pieces = make_pieces(plan)
    with seen:
        state = session.begin(frames, shot=shot, piece=pieces[0])
        for piece in pieces:
            for _ in session.restore(frames, shot=shot, piece=piece, state=state):
                pass
            session.take_commit()
    session.close()
    return {
        phase: peak + _num_bytes(vae_weights) + (kept if phase == "dit" or stay.weights else 0)
        for phase, peak in seen.peaks.items()
    }


def weights_of(plan: Plan) -> int:
    """Bytes of all weights."""
    models = make_models(plan, device="cpu")
    return _num_bytes(_tensors(models.build_vae(torch.float32))) + _num_bytes(_tensors(models.dit))


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


CASES = [
    ("tiny", "float32", 0, "resident"),
    ("tiny", "float32", 2, "all streamed"),
    ("tiny", "bfloat16", 1, "away"),
    ("tiny", "bfloat16", 5, "streamed"),
    ("tiny-3b", "float32", 3, "streamed"),
    ("tiny-3b", "float32", 1, "resident"),
    ("tiny-3b", "bfloat16", 4, "parked"),
    ("tiny-3b", "bfloat16", 0, "all streamed"),
]
"""Every rung of slices, and every rung of what stays, with both engines and dtypes."""


@pytest.mark.long
@pytest.mark.parametrize(("engine", "dtype", "slices", "stay"), CASES)
def test_each_phase_holds_what_is_planned(
    seen: PhaseBytes, engine: str, dtype: str, slices: int, stay: str
) -> None:
    rung, residency = SLICES[slices], RESIDENCIES[stay]
    if residency.streamed:
        rung = rung._replace(block_bytes=(None, BLOCK, 0)[slices % 3])
    plan = plan_of(engine, dtype, rung, residency)
    found, wanted = held(plan, residency, seen), planned(engine, dtype, rung, residency)
    for phase, num_bytes in found.items():
        # Finished frames and latents, which are the host's, are among what is counted.
        assert 0.98 * num_bytes <= wanted[phase] <= 1.05 * num_bytes, (phase, found, wanted)


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "dtype", "stay"),
    [
        ("tiny", "float32", "all streamed"),
        ("tiny", "bfloat16", "streamed"),
        ("tiny-3b", "float32", "streamed"),
        ("tiny-3b", "bfloat16", "resident"),
    ],
)
def test_each_phase_holds_what_is_planned_in_bands_of_rows(
    seen: PhaseBytes, monkeypatch: pytest.MonkeyPatch, engine: str, dtype: str, stay: str
) -> None:
    monkeypatch.setattr(conv, "STRIP_ELEMENTS", STRIP)
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", STRIP)
    residency = RESIDENCIES[stay]
    plan = plan_of(engine, dtype, BANDS, residency)
    found, wanted = held(plan, residency, seen), planned(engine, dtype, BANDS, residency)
    whole = planned(engine, dtype, BANDS._replace(bands=False), residency)
    for phase, num_bytes in found.items():
        assert 0.98 * num_bytes <= wanted[phase] <= 1.05 * num_bytes, (phase, found, wanted)
        assert phase == "dit" or wanted[phase] < whole[phase]


@pytest.mark.long
@pytest.mark.parametrize(("phase", "share"), [("encode", 0.3), ("decode", 0.93)])
def test_a_device_with_less_ends_with_its_own_error(
    seen: PhaseBytes, phase: str, share: float
) -> None:
    rung = SLICES[2]
    parked = RESIDENCIES["parked"]
    plan = plan_of("tiny", "float32", rung, parked)
    wanted = planned("tiny", "float32", rung, parked)[phase]
    seen.limit(round(share * (wanted - weights_of(plan))))
    with pytest.raises(DeviceMemoryError, match=f"in phase {phase} of shot 0"):
        held(plan, parked, seen)
