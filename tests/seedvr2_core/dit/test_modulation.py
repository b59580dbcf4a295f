"""Modulation: which numbers of the time embedding go where, in which dtype."""

import pytest
import torch

from seedvr2_core.dit.modulation import (
    BlockModulation,
    OutputModulation,
    Slot,
    gated,
    modulate_,
    time_vectors,
)

WIDTH = 4


def embedding() -> torch.Tensor:
    """(6 D,): each number says where it stands: channel, slot, part as digits."""
    channel = torch.arange(WIDTH)[:, None, None] * 100
    slot = torch.arange(2)[None, :, None] * 10
    return (channel + slot + torch.arange(3)).flatten().float()


@pytest.mark.parametrize(("slot", "digit"), [("attn", 0), ("mlp", 10)])
def test_channels_are_slowest_then_slots_then_shift_scale_gate(slot: Slot, digit: int) -> None:
    shift, scale, gate = time_vectors(embedding(), slot)
    channels = torch.arange(WIDTH) * 100.0
    assert torch.equal(shift, channels + digit)
    assert torch.equal(scale, channels + digit + 1)
    assert torch.equal(gate, channels + digit + 2)


@pytest.mark.parametrize("slot", ["attn", "mlp"])
def test_learned_vectors_are_added_in_float32(slot: Slot) -> None:
    block = BlockModulation(WIDTH).requires_grad_(False)
    for number, parameter in enumerate(block.parameters()):
        parameter.fill_(number + 0.25)
    half = embedding().bfloat16()
    found = block(half, slot)
    shift, scale, gate = time_vectors(half, slot)
    for vector, time, part in (
        (found.shift_D, shift, "shift"),
        (found.scale_D, scale, "scale"),
        (found.gate_D, gate, "gate"),
    ):
        assert vector.dtype == torch.float32
        assert torch.equal(vector, time + block.get_parameter(f"{slot}_{part}"))


def test_the_output_takes_the_attention_slot() -> None:
    output = OutputModulation(WIDTH).requires_grad_(False)
    shift, scale = output(embedding())
    assert torch.equal(
        torch.stack([shift, scale]), torch.stack(time_vectors(embedding(), "attn")[:2])
    )


def test_modulation_then_gate_is_the_formula_in_place() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, WIDTH, generator=generator)
    modulation = BlockModulation(WIDTH)(embedding(), "mlp")
    expected = x * modulation.scale_D + modulation.shift_D
    rows = x.clone()
    assert modulate_(rows, modulation) is rows
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(gated(x, modulation), x * modulation.gate_D)
