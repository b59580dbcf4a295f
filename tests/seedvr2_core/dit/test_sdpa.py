"""Which kernel attention goes through: counted on the meta device, at production sizes."""

import dataclasses
import logging
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import DIT_3B, DIT_7B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit import sdpa
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import FoldedDiT, expected_keys, make_tables
from seedvr2_core.dit.sdpa import MAX_CUDNN_SHAPES, CallShape, Sdpa, call_shapes, job_sdpa
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.frames import padded_size
from seedvr2_core.kernels.switches import switched

SIZES = {"720p": (720, 1280), "1080p": (1080, 1920), "2k": (1440, 2560), "4k": (2160, 3840)}
EACH_SIZE = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
TEXT_LEN, WINDOW, CHUNK = 58, 25, 65_536
META = torch.device("meta")


def two_layers(config: DiTConfig) -> DiTConfig:
    """One layer of each window method, the second the last one."""
    return dataclasses.replace(config, shifted=(False, True), num_separate_layers=1)


def latent_size(size: tuple[int, int], window: int) -> tuple[int, int, int]:
    height, width = padded_size(*size)
    return window, height // 8, width // 8


@dataclasses.dataclass
class Calls:
    """Shapes of queries and keys that came to each kernel."""

    cudnn: list[tuple[torch.Size, torch.Size]]
    flash: list[tuple[torch.Size, torch.Size]]

    @property
    def cudnn_share(self) -> float:
        """Of the work of attention."""
        done = [sum(q[0] * q[2] * k[2] for q, k in calls) for calls in (self.cudnn, self.flash)]
        return done[0] / sum(done)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    seen = Calls([], [])

    def noting(to: list[tuple[torch.Size, torch.Size]]) -> object:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            to.append((q.shape, k.shape))
            return torch.empty_like(q)

        return attend

    monkeypatch.setattr(sdpa, "_through_cudnn", noting(seen.cudnn))
    monkeypatch.setattr(sdpa, "_through_flash", noting(seen.flash))
    return seen


def run(config: DiTConfig, size: tuple[int, int, int], attend: Sdpa, chunk: int = CHUNK) -> None:
    """A call of the production model on the meta device, which stands for a GPU."""
    with META:
        dit = FoldedDiT(config, text_len=TEXT_LEN, dtype=torch.bfloat16)
        tables = make_tables(config, size, TEXT_LEN, chunk_tokens=chunk, device=META, sdpa=attend)
        dit(torch.empty(*size, config.in_channels), tables=tables)


@EACH_SIZE
@pytest.mark.parametrize("config", [DIT_3B, DIT_7B], ids=["3b", "7b"])
def test_a_job_gives_few_shapes_to_cudnn(
    calls: Calls, config: DiTConfig, size: tuple[int, int]
) -> None:
    """With windows of every length that ends of shots have, and on lower rungs of memory."""
    config = two_layers(config)
    planned = latent_size(size, WINDOW)
    attend = job_sdpa(config, planned, TEXT_LEN, chunk_tokens=CHUNK)
    run(config, planned, attend)
    assert 0.9 < calls.cudnn_share < 1
    warm = set(calls.cudnn)
    for window, chunk in ((12, CHUNK), (1, CHUNK), (37, CHUNK), (WINDOW, 16_384)):
        run(config, latent_size(size, window), attend, chunk)
    assert set(calls.cudnn) == warm  # a new length builds no plan
    assert len(warm) <= MAX_CUDNN_SHAPES
    assert all(q == k for q, k in calls.cudnn + calls.flash)


def test_the_shapes_counted_are_those_that_come(calls: Calls) -> None:
    config, size = two_layers(DIT_7B), latent_size(SIZES["720p"], 9)
    known = call_shapes(config, size, TEXT_LEN, CHUNK)
    run(config, size, Sdpa(known))
    assert {CallShape(num_windows=q[0], length=q[2]) for q, _ in calls.cudnn} == set(known)
    assert not calls.flash
    work = sum(q[0] * q[2] ** 2 for q, _ in calls.cudnn)
    assert work == sum(known.values())


@pytest.mark.parametrize("mode", ["flash", "default"])
def test_the_switch(calls: Calls, mode: str) -> None:
    config, size = two_layers(DIT_7B), latent_size(SIZES["720p"], 3)
    with switched(dit_attention=mode):
        run(config, size, Sdpa(call_shapes(config, size, TEXT_LEN, CHUNK)))
    assert not calls.cudnn
    assert bool(calls.flash) == (mode == "flash")


def test_what_cudnn_refuses_goes_through_flash(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise RuntimeError("no engine")

    monkeypatch.setattr(sdpa, "_through_cudnn", refuse)
    config, size = two_layers(DIT_7B), latent_size(SIZES["720p"], 3)
    with caplog.at_level(logging.WARNING):
        run(config, size, Sdpa(call_shapes(config, size, TEXT_LEN, CHUNK)))
    assert len(caplog.records) == 1  # and is not asked again
    assert "no engine" in caplog.text
    assert calls.flash


@pytest.fixture(params=list(product((False, True), repeat=2)), ids=str)
def _kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    rows, heads = request.param
    with switched(on_cpu=True, fused_rows=rows, fused_heads=heads):
        yield


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("chunk", [None, 60], ids=["whole", "chunks"])
@pytest.mark.parametrize("size", [(3, 18, 32), (1, 2, 2), (5, 4, 60)], ids=str)
def test_the_path_of_a_gpu_gives_what_the_plain_one_gives(
    size: tuple[int, int, int], chunk: int | None
) -> None:
    """With the kernels' references: kept text, gathered rows, joined heads."""
    config = dataclasses.replace(DIT_TINY_7B, shifted=(True, False, True))
    generator = torch.Generator().manual_seed(5)
    text = torch.randn(7, config.text_dim, generator=generator)
    vid = torch.randn(*size, config.in_channels, generator=generator)
    dit = load_folded(config, pcg64_v1(expected_keys(config), 11), text, dtype=torch.float32)
    with torch.inference_mode():
        on_gpu = dit(vid, tables=make_tables(config, size, 7, chunk_tokens=chunk))
        with switched(on_cpu=False):
            plain = dit(vid, tables=make_tables(config, size, 7, chunk_tokens=chunk))
    torch.testing.assert_close(on_gpu, plain, atol=2e-5, rtol=1e-5)
