"""Parking: modules and states that wait in host memory come back as they were."""

import pytest
import torch

from seedvr2_core.config import DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.memory import end_bytes, layer_sizes, streamed_weight_bytes
from seedvr2_core.dit.model import expected_keys
from seedvr2_core.engines.seedvr2 import parking as residency
from seedvr2_core.engines.seedvr2.parking import Parking
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.vae.blocks import MidBlockState, ResBlockState
from seedvr2_core.vae.causal_conv import ConvState
from seedvr2_core.vae.conv import LAYOUT

CPU = torch.device("cpu")


def test_a_guest_module_comes_and_goes() -> None:
    module = torch.nn.BatchNorm1d(3)
    guest = residency.GuestModule(module, torch.device("meta"), resident=False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for _ in range(2):
        assert {t.device.type for t in module.state_dict().values()} == {"cpu"}
        with guest.on_device() as there:
            assert {t.device.type for t in there.state_dict().values()} == {"meta"}
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def _state(first: float, *, size: int = 6, device: str = "cpu") -> MidBlockState:
    def conv(value: float, frames: int) -> ConvState:
        x = torch.full((1, 3, frames, 5, size), value, device=device)
        return ConvState(frames=x.contiguous(memory_format=LAYOUT))

    blocks = [ResBlockState(conv1=conv(first, 2), conv2=conv(first + 1, 1)) for _ in range(2)]
    return MidBlockState(resnets=blocks)


def _values(state: MidBlockState) -> list[float]:
    assert all(t.is_contiguous(memory_format=LAYOUT) for _, t in state.named_tensors())
    assert all((t == t.flatten()[0]).all() for _, t in state.named_tensors())
    return [t.flatten()[0].item() for _, t in state.named_tensors()]


def _block(state: MidBlockState) -> int:
    (address,) = {t.untyped_storage().data_ptr() for _, t in state.named_tensors()}
    return address


def test_states_wait_in_one_block_that_is_used_again() -> None:
    parking = Parking(CPU, enabled=True)
    first = parking.park(_state(1.0))
    # 180 and 90 floats in steps of 512 bytes: no rounding up to powers of two.
    storage = next(first.named_tensors())[1].untyped_storage()
    assert storage.nbytes() == 2 * (1024 + 512)
    fetched = parking.fetch(first)
    assert _values(fetched) == [1.0, 2.0, 1.0, 2.0]
    again = parking.park(_state(5.0))
    assert _block(again) == storage.data_ptr()
    assert _values(again) == [5.0, 6.0, 5.0, 6.0]
    # What was fetched is its own, and what still waits is not disturbed by the next one.
    assert _values(fetched) == [1.0, 2.0, 1.0, 2.0]
    other = parking.park(_state(7.0))
    assert _values(again) == [5.0, 6.0, 5.0, 6.0]
    assert _values(parking.fetch(again)) == [5.0, 6.0, 5.0, 6.0]
    larger = parking.park(_state(9.0, size=60))
    assert [_values(state)[0] for state in (other, larger)] == [7.0, 9.0]


def test_nothing_moves_where_nothing_waits() -> None:
    parking, state = Parking(CPU, enabled=False), _state(1.0)
    assert parking.park(state) is state
    assert parking.fetch(state) is state


@pytest.mark.gpu
def test_on_a_gpu_the_block_is_page_locked() -> None:
    gpu = torch.device("cuda:0")
    parking = Parking(gpu, enabled=True)
    parked = parking.park(_state(1.0, device="cuda"))
    assert all(t.is_pinned() for _, t in parked.named_tensors())
    fetched = parking.fetch(parked)
    assert all(t.is_cuda for _, t in fetched.named_tensors())
    assert _values(fetched) == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("resident", [True, False], ids=["rest_stays", "rest_comes"])
def test_layers_that_come_one_by_one_change_no_bit(
    config: DiTConfig, dtype: torch.dtype, *, resident: bool
) -> None:
    generator = torch.Generator().manual_seed(5)
    vid = torch.randn(3, 18, 32, config.in_channels, generator=generator)
    text = torch.randn(7, config.text_dim, generator=generator)
    dit = load_folded(config, pcg64_v1(expected_keys(config), 11), text, dtype=dtype)
    with torch.inference_mode():
        wanted = dit(vid)
    for count in (1, 3, config.num_layers):
        streamed = list(dit.blocks)[config.num_layers - count :]
        guest = residency.GuestModule(dit, CPU, resident=resident, streamed=streamed)
        for _ in range(2):
            with guest.on_device() as there, torch.inference_mode():
                slots = {_address(block) for block in streamed}
                got = [there(vid), there(vid)]
                used = {_address(block) for block in streamed}
            assert all(torch.equal(x, wanted) for x in got)
            # Two places on the device, and no block is left there.
            assert len(used) <= 2
            assert not used & slots
            assert {_address(block) for block in streamed} == slots


def _address(block: torch.nn.Module) -> int:
    (address,) = {x.untyped_storage().data_ptr() for x in block.state_dict().values()}
    return address


@pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])
def test_bytes_on_the_device_are_those_of_the_plan(config: DiTConfig) -> None:
    text = torch.zeros(7, config.text_dim)
    dit = load_folded(config, pcg64_v1(expected_keys(config), 11), text)
    sizes = [sum(x.nbytes for x in block.state_dict().values()) for block in dit.blocks]
    ends = sum(x.nbytes for x in dit.state_dict().values()) - sum(sizes) - dit.text_LD.nbytes
    for count in range(config.num_layers + 1):
        kept, moved = sizes[: len(sizes) - count], sizes[len(sizes) - count :]
        held = ends + sum(kept) + 2 * max(moved, default=0)
        planned = streamed_weight_bytes(end_bytes(config), layer_sizes(config), count)
        assert held <= planned <= 1.03 * held
