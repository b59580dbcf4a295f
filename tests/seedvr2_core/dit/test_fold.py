"""Folding the modulation into the weights changes nothing but rounding."""

import dataclasses
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import DIT_3B, DIT_7B, DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.fold import fold_tensors, load_folded
from seedvr2_core.dit.memory import weight_bytes
from seedvr2_core.dit.model import FoldedDiT, expected_keys, load_plain
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.errors import CheckpointError
from seedvr2_core.kernels.switches import switched

CONFIGS = {
    "3b": DIT_TINY_3B,
    "7b": DIT_TINY_7B,
    "3b, last layer unshared": dataclasses.replace(DIT_TINY_3B, num_separate_layers=4),
    "7b, last layer shared": dataclasses.replace(DIT_TINY_7B, num_separate_layers=1),
    "inner width differs": dataclasses.replace(DIT_TINY_3B, num_heads=3),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def _inputs(config: DiTConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    vid = torch.randn(3, 18, 32, config.in_channels, generator=generator)
    return vid, torch.randn(7, config.text_dim, generator=generator)


@EACH
@pytest.mark.parametrize("on_cpu", [False, True], ids=["cpu path", "gpu path"])
@pytest.mark.parametrize("timestep", [1000.0, 437.5])
def test_folded_equals_plain(config: DiTConfig, timestep: float, *, on_cpu: bool) -> None:
    tensors = pcg64_v1(expected_keys(config), 11)
    vid, text = _inputs(config)
    with torch.inference_mode():
        plain = load_plain(config, tensors)(vid, text, timestep)
        with switched(on_cpu=on_cpu):
            folded = load_folded(config, tensors, text, timestep=timestep, dtype=torch.float32)(vid)
    torch.testing.assert_close(folded, plain, atol=2e-5, rtol=1e-5)


@EACH
def test_folding_yields_each_tensor_of_the_model_once(config: DiTConfig) -> None:
    _, text = _inputs(config)
    tensors = pcg64_v1(expected_keys(config), 11)
    names = [name for name, _ in fold_tensors(config, tensors, text)]
    assert sorted(names) == sorted(FoldedDiT(config, text_len=7).state_dict())


class _Lazy(Mapping[str, Tensor]):
    """Reads on demand and counts, as a checkpoint file does."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self.reads: dict[str, int] = {}

    def __getitem__(self, name: str) -> Tensor:
        self.reads[name] = self.reads.get(name, 0) + 1
        return self._tensors[name].half()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


@EACH
def test_lazy_half_precision_checkpoint(config: DiTConfig) -> None:
    tensors = pcg64_v1(expected_keys(config), 11)
    lazy = _Lazy(tensors)
    vid, text = _inputs(config)
    with torch.inference_mode():
        got = load_folded(config, lazy, text, dtype=torch.float32)(vid)
        halves = {name: tensor.half() for name, tensor in tensors.items()}
        want = load_plain(config, halves)(vid, text)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    assert max(lazy.reads.values()) <= 3


def test_folding_does_not_touch_the_checkpoint() -> None:
    tensors = pcg64_v1(expected_keys(DIT_TINY_3B), 11)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    load_folded(DIT_TINY_3B, tensors, _inputs(DIT_TINY_3B)[1], dtype=torch.float32)
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_a_wrong_checkpoint_is_refused() -> None:
    tensors = pcg64_v1(expected_keys(DIT_TINY_7B), 11)
    with pytest.raises(CheckpointError, match="belong together"):
        load_folded(DIT_TINY_3B, tensors, torch.zeros(7, 48))


@EACH
def test_weight_bytes(config: DiTConfig) -> None:
    _, text = _inputs(config)
    model = load_folded(config, pcg64_v1(expected_keys(config), 11), text)
    held = sum(t.nbytes for name, t in model.state_dict().items() if name != "text_LD")
    assert held <= weight_bytes(config) <= 1.02 * held


@pytest.mark.parametrize("config", [DIT_3B, DIT_7B], ids=["3b", "7b"])
def test_weight_bytes_at_full_size(config: DiTConfig) -> None:
    with torch.device("meta"):
        state = FoldedDiT(config, text_len=0, dtype=torch.bfloat16).state_dict()
    held = sum(tensor.nbytes for tensor in state.values())
    assert held <= weight_bytes(config) <= 1.001 * held


def test_tensors_can_lie_elsewhere_than_they_were_folded() -> None:
    tensors = pcg64_v1(expected_keys(DIT_TINY_3B), 11)
    model = load_folded(DIT_TINY_3B, tensors, _inputs(DIT_TINY_3B)[1], place="meta")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
