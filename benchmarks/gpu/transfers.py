"""What moves between host and device arrives whole and in time: bits, page-locked bytes, rates.

The VAE with its caches in host memory, the transformer with layers there, caches that are parked,
and pictures on their way are each compared with the same work where everything stays. Each is done
again with the copying streams held up, so that a wait that is missing shows as other bits. On a CPU
tiny models stand in and nothing is late.
"""

import dataclasses
import gc
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.report import LineReport
from seedvr2_core.config import DIT_7B, DIT_TINY_7B, VAE_PRODUCTION, VAE_TINY, DiTConfig
from seedvr2_core.dit.model import FoldedDiT
from seedvr2_core.engines.seedvr2.parking import GuestModule, Parking
from seedvr2_core.engines.seedvr2.transfer import Lanes
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights
from seedvr2_core.vae.store import CacheStore
from seedvr2_core.vae.stream import StreamState

SLICES = (2, 3, 3, 3)
"""Latents."""
LEVELS = (2, 2, 2, 4)
"""Frames at once, full size first."""
HELD_UP_CYCLES = 20_000_000
"""For which a copying stream sleeps: about 10 ms."""
LAYERS, STREAMED = 6, 4


def run(report: LineReport, device: torch.device) -> None:
    """All of it; what fails is told, and the rest runs."""
    with torch.inference_mode():
        _all_of_the_vae(report, device)
        gc.collect()
        report.attempt("layers", lambda: _layers(report, device))
        report.attempt("pictures", lambda: _pictures(report, device))


def _all_of_the_vae(report: LineReport, device: torch.device) -> None:
    vae, size = _vae(device), (544, 960) if on_gpu(device) else (16, 24)
    for phase in ("encode", "decode"):
        report.attempt(f"caches, {phase}", lambda p=phase: _caches(report, vae, size, p))
    report.attempt("parked", lambda: _parked(report, vae, size))


def _vae(device: torch.device) -> VideoVAE:
    config = VAE_PRODUCTION if on_gpu(device) else VAE_TINY
    dtype = torch.float16 if on_gpu(device) else torch.float32
    return build_vae(config, random_weights(config, seed=1), dtype=dtype, device=device)


def _caches(report: LineReport, vae: VideoVAE, size: tuple[int, int], phase: str) -> None:
    """Resident, then streamed through blocks of several sizes."""
    device = vae.encoder.conv_in.weight.device
    resident, seconds = _slices(vae, size, phase, None, held_up=False)
    caches = [x.nbytes for _, x in resident[-1].named_tensors()]
    for block in (None, max(caches) // 2, 0):
        for held_up in (False, True):
            store = CacheStore(device, block_bytes=block, always=True)
            streamed, took = _slices(vae, size, phase, store, held_up=held_up)
            same = all(_same(x, y) for x, y in zip(resident, streamed, strict=True))
            _tell(
                report,
                f"caches, {phase}",
                same,
                block_bytes=block,
                held_up=held_up,
                cache_bytes=sum(caches),
                seconds=took,
                resident_seconds=seconds,
            )


def _slices(
    vae: VideoVAE, size: tuple[int, int], phase: str, store: CacheStore | None, *, held_up: bool
) -> tuple[list[Any], float]:
    """Results of some slices and the state behind them; seconds of the last slice."""
    device, made = vae.encoder.conv_in.weight.device, list[Any]()
    state: Any = vae.start_encoder() if phase == "encode" else vae.start_decoder()
    if store is not None:
        state.use_store(store)
    began = 0.0
    for index, latents in enumerate(SLICES):
        _wait(device)
        if held_up and store is not None:
            _hold_up(store._streams)
        began = time.perf_counter()
        if phase == "encode":
            video = _random(device, 1, 3, 4 * latents - (0 if index else 3), *size, seed=index)
            video = video.to(vae.dtype).contiguous(memory_format=LAYOUT)
            got, state = vae.encode_latents(video, state, max_frames=LEVELS)
        else:
            cells = (size[0] // 8, size[1] // 8, vae.config.latent_channels)
            latents_BZhwC = _random(device, 1, latents, *cells, seed=index)
            got, state = vae.decode_latents(latents_BZhwC, state, max_frames=LEVELS[::-1])
        made.append(got)
        _wait(device)
    took = time.perf_counter() - began
    state.settle()
    return [*made, state], took


def _parked(report: LineReport, vae: VideoVAE, size: tuple[int, int]) -> None:
    """Caches that leave and come back, as they are and in rings; page-locked bytes beside them."""
    device = vae.encoder.conv_in.weight.device
    for rings in (False, True):
        state = vae.start_encoder(rings=rings)
        video = _random(device, 1, 3, 5, *size, seed=0).to(vae.dtype)
        _, state = vae.encode_latents(video, state, max_frames=LEVELS)
        wanted = state.packed().mapped(Tensor.clone)
        parking, before = Parking(device, enabled=True), _page_locked(device)
        parked = parking.park(state)
        taken = _page_locked(device) - before
        fetched = parking.fetch(parked)
        num_bytes = wanted.num_bytes()
        locked = all(x.is_pinned() for _, x in parked.named_tensors()) or not on_gpu(device)
        _tell(
            report,
            "parked",
            _same(wanted, fetched.packed()) and locked,
            rings=rings,
            cache_bytes=num_bytes,
            page_locked_bytes=taken,
            rounded=taken / num_bytes if on_gpu(device) else None,
        )


def _layers(report: LineReport, device: torch.device) -> None:
    """A transformer with the last layers in host memory."""
    config = dataclasses.replace(
        DIT_7B, shifted=DIT_7B.shifted[:LAYERS], num_separate_layers=LAYERS
    )
    size = (9, 68, 120)
    if not on_gpu(device):
        config, size = DIT_TINY_7B, (3, 18, 32)
    dit = _dit(config, device)
    vid = _random(device, *size, config.in_channels, seed=1)
    streamed = list(dit.blocks)[-min(STREAMED, len(dit.blocks) - 1) :]
    for _ in range(2):  # the first call builds kernels
        _wait(device)
        began = time.perf_counter()
        wanted = dit(vid)
        _wait(device)
    seconds = time.perf_counter() - began
    moved = sum(x.nbytes for block in streamed for x in block.state_dict().values())
    guest = GuestModule(dit, device, resident=True, streamed=streamed)
    for held_up in (False, True):
        with guest.on_device() as there:
            blocks: Any = guest._blocks
            if held_up:
                _hold_up([blocks._stream])
            got = [there(vid)]
            _wait(device)
            began = time.perf_counter()
            got.append(there(vid))
            _wait(device)
        _tell(
            report,
            "layers",
            all(torch.equal(x, wanted) for x in got),
            held_up=held_up,
            moved_bytes=moved,
            seconds=time.perf_counter() - began,
            resident_seconds=seconds,
        )


def _dit(config: DiTConfig, device: torch.device) -> FoldedDiT:
    """With small random weights."""
    dtype = torch.bfloat16 if on_gpu(device) else torch.float32
    with torch.device(device):
        dit = FoldedDiT(config, text_len=58, dtype=dtype)
    generator = torch.Generator(device).manual_seed(5)
    for tensor in (*dit.parameters(), *dit.buffers()):
        tensor.normal_(std=0.02, generator=generator)
    return dit


def _pictures(report: LineReport, device: torch.device) -> None:
    """Frames on their way up and down, computed on in between."""
    lanes = Lanes(device)
    frames = [torch.full((1080, 1920, 3), value, dtype=torch.uint8) for value in range(16)]
    for held_up in (False, True):
        if held_up:
            _hold_up([lanes._up, lanes._down])
        landings = []
        for frame in frames:
            (there,) = lanes.upload([frame])
            landings.append(lanes.download([there + 1]))
            del there
        same = all(
            torch.equal(landing.wait()[0], frame + 1)
            for landing, frame in zip(landings, frames, strict=True)
        )
        _tell(report, "pictures", same, held_up=held_up)


def _tell(report: LineReport, name: str, same: bool, **figures: Any) -> None:
    report.line(name, same_bits=same, **figures)
    if not same:
        report.wrong()


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors, or all tensors of two states, have equal bits."""
    if not isinstance(a, StreamState):
        return torch.equal(a, b)
    pairs = list(zip(a.named_tensors(), b.named_tensors(), strict=True))
    return all(x == y and torch.equal(m.cpu(), n.cpu()) for (x, m), (y, n) in pairs)


def _hold_up(streams: Sequence[Any]) -> None:
    """Let what is asked of these streams next begin late."""
    for stream in streams:
        if stream is not None:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(HELD_UP_CYCLES)


def _random(device: torch.device, *size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(device)


def _page_locked(device: torch.device) -> int:
    """Bytes that torch has locked on this machine."""
    if not on_gpu(device):
        return 0
    stats: Any = torch.cuda.memory.host_memory_stats()
    return stats["allocated_bytes.current"]


def _wait(device: torch.device) -> None:
    if on_gpu(device):
        torch.cuda.synchronize(device)
