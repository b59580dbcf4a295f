"""The host runs a slice ahead of the device: the same frames, and errors before them."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seedvr2_core.config import VAE_TINY
from seedvr2_core.engines.seedvr2 import sampler, transfer
from seedvr2_core.engines.seedvr2.finite import check_finite, extremes
from seedvr2_core.engines.seedvr2.sampler import NoiseAhead, latent_noise
from seedvr2_core.engines.seedvr2.tiny import vae_weights
from seedvr2_core.engines.seedvr2.transfer import Begun, Lanes
from seedvr2_core.errors import NumericalError
from seedvr2_core.kernels.switches import switched
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.model import FramesPerLevel, VideoVAE, build_vae
from tests.kits.restorer import (
    begin_behind,
    latents,
    make_frames,
    make_grid,
    make_pieces,
    make_plan,
    open_tiny,
    pictures,
    run_piece,
    run_shot,
)

ARGUMENTS = (5, [0, 1, 5, 9], (4, 6), 16)


@pytest.fixture
def _one_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "ahead", 1)


def test_only_a_gpu_lets_the_host_run_ahead() -> None:
    assert Lanes(torch.device("cpu")).ahead == 0
    with switched(on_cpu=True):
        assert Lanes(torch.device("cpu")).ahead == 1
    with switched(on_cpu=True, overlap=False):
        assert Lanes(torch.device("cpu")).ahead == 0


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_begun_work_is_finished_in_order_and_late(ahead: int) -> None:
    finished: list[int] = []

    def finish(item: int) -> int:
        finished.append(item)
        return item

    begun = Begun(ahead, finish)
    for item in range(5):
        assert begun.put(item) == ([item - ahead] if item >= ahead else [])
    assert begun.rest() == list(range(5 - ahead, 5))
    assert finished == list(range(5))


@pytest.mark.long
def test_frames_are_the_same_one_slice_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over pieces that go on from each other."""
    plan = make_plan(58)
    source, pieces = make_frames(plan), make_pieces(plan)
    assert len(pieces) > 1
    wanted = run_shot(open_tiny(plan), plan, source, pieces)
    monkeypatch.setattr(Lanes, "ahead", 1)
    late = run_shot(open_tiny(plan), plan, source, pieces)
    assert np.array_equal(pictures(late), pictures(wanted))
    assert torch.equal(latents(late), latents(wanted))


@pytest.mark.long
@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.soak), "bfloat16"])
def test_a_resumed_shot_has_the_same_bits_in_half_precision(dtype: str) -> None:
    """On the path of a GPU, with the references of its kernels."""
    plan = make_plan(58, memory={"vae_dtype": dtype, "dit_dtype": dtype})
    source, pieces = make_frames(plan), make_pieces(plan)
    with switched(on_cpu=True):
        wanted = run_shot(open_tiny(plan), plan, source, pieces)
        place = len(pieces) - 1
        session = open_tiny(plan)
        state, frames = begin_behind(session, plan, source, pieces[place], wanted[:place])
        last = run_piece(session, plan, pieces[place], frames, state)
    assert np.array_equal(pictures([last]), pictures(wanted[place:]))
    assert torch.equal(latents([last]), latents(wanted[place:]))


class Spoiled(VideoVAE):
    """Its second slice is not finite in one frame."""

    calls = 0

    def decode_latents(
        self,
        latents_BZhwC: torch.Tensor,
        state: DecoderState | None = None,
        *,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[torch.Tensor, DecoderState]:
        video, state = super().decode_latents(latents_BZhwC, state, max_frames=max_frames)
        self.calls += 1
        if self.calls == 2:
            video[0, 1, 1, 3, 4] = torch.nan
        return video, state


@pytest.mark.usefixtures("_one_ahead")
@pytest.mark.long
def test_no_frame_that_is_not_finite_is_given_away() -> None:
    def build(dtype: torch.dtype) -> VideoVAE:
        vae = build_vae(VAE_TINY, vae_weights(), dtype=dtype)
        vae.__class__ = Spoiled
        return vae

    plan = make_plan(25)
    grid = make_grid(plan)
    session, shot, piece = open_tiny(plan, build_vae=build), plan.shots[0], make_pieces(plan)[0]
    state = session.begin(iter(()), shot=shot, piece=piece)
    seen: list[int] = []
    spoiled = grid.first_frame(grid.decoder_slices[1].start) + 1
    restored = session.restore(iter(make_frames(plan)), shot=shot, piece=piece, state=state)
    with pytest.raises(NumericalError, match=f"phase decode .* at frame {spoiled};"):
        seen += [frame.index for frame in restored]
    for frame in restored:
        seen.append(frame.index)
    assert all(index < grid.first_frame(grid.decoder_slices[1].start) for index in seen)


def test_each_part_is_looked_at() -> None:
    x = torch.zeros(4, 3, 2, 2)
    assert extremes(x).tolist() == [[0, 0]] * 4
    plan = make_plan(25)
    grid = make_grid(plan)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[2, 1, 0, 1] = value
        with pytest.raises(NumericalError, match="latent 7 "):
            check_finite(extremes(x), "encode", "float16", grid, range(5, 9), frames=False)


def test_noise_made_ahead_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    make = sampler.latent_noise

    def spy(*args: object, **kwargs: object) -> object:
        threads.append(threading.current_thread().name)
        return make(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(sampler, "latent_noise", spy)
    wanted = latent_noise(*ARGUMENTS[:3], channels=ARGUMENTS[3])
    ahead = NoiseAhead(pin_memory=False)
    ahead.prepare(*ARGUMENTS)
    assert torch.equal(ahead.take(*ARGUMENTS), wanted)
    ahead.prepare(6, *ARGUMENTS[1:])  # another window than the one that comes
    assert torch.equal(ahead.take(*ARGUMENTS), wanted)
    ahead.close()
    assert threads[0].startswith("noise")
    assert threading.current_thread().name in threads
    assert np.isfinite(wanted.numpy()).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_frames_finished_by_the_kernel_are_those_of_the_plain_way(dtype: str) -> None:
    """But for a last bit here and there."""
    plan = make_plan(9)
    source = make_frames(plan)
    if dtype == "uint16":
        source = [dataclasses.replace(f, rgb=f.rgb.astype(np.uint16) * 257) for f in source]
    pieces = make_pieces(plan)
    wanted = pictures(run_shot(open_tiny(plan), plan, source, pieces))
    with switched(on_cpu=True, **dict.fromkeys(("fused_rows", "fused_heads"), False)):
        made = pictures(run_shot(open_tiny(plan), plan, source, pieces))
    assert made.dtype == wanted.dtype == np.dtype(dtype)
    off = np.abs(made.astype(int) - wanted.astype(int))
    assert off.max() <= (1 if dtype == "uint8" else 3)
    assert (off > 0).mean() < (0.01 if dtype == "uint8" else 0.4)


class FakeGpu:
    """Stands in for `torch.cuda` in transfer.py: notes what is asked of streams, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._here = "compute"
        self._made = iter(("up", "down"))

    def Stream(self, device: object) -> "FakeStream":
        return FakeStream(self, next(self._made))

    def current_stream(self, device: object) -> "FakeStream":
        return FakeStream(self, self._here)

    @contextmanager
    def stream(self, stream: "FakeStream") -> Iterator[None]:
        before, self._here = self._here, stream.name
        yield
        self._here = before

    def Event(self, *, blocking: bool) -> "FakeGpu":
        assert blocking
        return self

    def record(self, stream: "FakeStream") -> None:
        self.log.append(f"event on {stream.name}")

    def synchronize(self) -> None:
        self.log.append("host waits")

    def copied(self, what: str) -> None:
        self.log.append(f"{what} on {self._here}")


@dataclasses.dataclass
class FakeStream:
    gpu: FakeGpu
    name: str

    def wait_stream(self, other: "FakeStream") -> None:
        self.gpu.log.append(f"{self.name} waits for {other.name}")


def test_copies_wait_for_what_they_copy_and_the_host_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which streams wait for each other; no GPU is here to run it."""
    gpu = FakeGpu()
    monkeypatch.setattr(transfer, "torch", SimpleNamespace(cuda=gpu, empty_like=unpinned))
    whole_copy = torch.Tensor.copy_

    def copy(to: torch.Tensor, x: torch.Tensor, *, non_blocking: bool = False) -> torch.Tensor:
        assert non_blocking
        gpu.copied("copy")
        return whole_copy(to, x)

    def pin(x: torch.Tensor) -> torch.Tensor:
        gpu.copied("pinned")
        return x.clone()

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda _, s: gpu.log.append(f"kept for {s.name}")
    )
    lanes = Lanes(torch.device("cpu"))
    lanes._up, lanes._down = gpu.Stream(None), gpu.Stream(None)
    (moved,) = lanes.upload([torch.arange(3)])
    assert moved.tolist() == [0, 1, 2]
    assert gpu.log == ["pinned on up", "compute waits for up", "kept for compute"]
    gpu.log.clear()
    landing = lanes.download([torch.arange(4), torch.arange(5)])
    assert len(landing._device) == 2, "not freed while it is copied"
    assert [len(x) for x in landing.wait()] == [4, 5]
    assert [len(x) for x in landing.wait()] == [4, 5]
    copies = ["copy on down"] * 2
    assert gpu.log == ["down waits for compute", *copies, "event on down", "host waits"]
    assert not landing._device
    gpu.log.clear()
    with switched(overlap=False):
        lanes.download(lanes.upload([torch.arange(3)])).wait()
    assert not gpu.log


def unpinned(x: torch.Tensor, *, device: str, pin_memory: bool) -> torch.Tensor:
    assert (device, pin_memory) == ("cpu", True)
    return torch.empty_like(x)
