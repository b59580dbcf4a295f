"""The causal conv against its formula, in slices of any size, and what a state can do."""

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.vae.causal_conv import (
    CausalConv3d,
    ConvState,
    extend_frames,
    join_frames,
    split_frames,
)
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.stream import StreamState

pytestmark = pytest.mark.usefixtures("either_path")

KINDS = [
    pytest.param((3, 3, 3), (1, 1, 1), id="resnet"),
    pytest.param((1, 1, 1), (1, 1, 1), id="shortcut"),
    pytest.param((1, 3, 3), (1, 2, 2), id="down_space"),
    pytest.param((3, 3, 3), (2, 2, 2), id="down_space_time"),
]
Triple = tuple[int, int, int]


def _conv(kernel: Triple, stride: Triple) -> CausalConv3d:
    generator = torch.Generator().manual_seed(1)
    conv = CausalConv3d(2, 3, kernel=kernel, stride=stride).double().requires_grad_(False)
    conv.weight.normal_(generator=generator)
    conv.bias.normal_(generator=generator)
    return conv


def _video(frames: int = 9) -> Tensor:
    return torch.randn(2, 2, frames, 5, 6, generator=torch.Generator().manual_seed(2)).double()


def _by_formula(conv: CausalConv3d, x: Tensor) -> Tensor:
    """y[j] = bias + sum over k of conv2d(x[max(s j - (K - 1) + k, 0)], W[k])."""
    taps, step = conv.kernel[0], conv.stride[0]
    padded = F.pad(x, (0, 1, 0, 1) if conv.stride[1] == 2 else (conv.kernel[1] // 2,) * 4)
    frames = []
    for j in range((x.shape[2] - 1) // step + 1):
        products = [
            F.conv2d(
                padded[:, :, max(0, step * j - (taps - 1) + k)],
                conv.weight[:, :, k],
                stride=conv.stride[1:],
            )
            for k in range(taps)
        ]
        frames.append(sum(products) + conv.bias[:, None, None])
    return torch.stack(frames, dim=2)


@pytest.mark.parametrize(("kernel", "stride"), KINDS)
@pytest.mark.parametrize(
    "sizes", [[9], [1] * 9, [1, 4, 4], [2, 3, 4], [3, 1, 5]], ids=lambda s: "-".join(map(str, s))
)
def test_streamed_conv_follows_the_formula(
    kernel: Triple, stride: Triple, sizes: list[int]
) -> None:
    conv, x, state = _conv(kernel, stride), _video(), ConvState()
    parts = []
    for start, stop in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        parts.append(conv(x[:, :, start:stop], state))
        assert parts[-1].is_contiguous(memory_format=LAYOUT) or not parts[-1].numel()
    torch.testing.assert_close(join_frames(parts), _by_formula(conv, x), rtol=0, atol=1e-12)


def test_strided_conv_inside_a_shot_pairs_from_its_first_frame() -> None:
    conv, x = _conv((3, 3, 3), (2, 2, 2)), _video(frames=8)
    got = conv(x, ConvState(lead=1))
    assert got.shape[2] == 4
    fed_before = torch.cat([x[:, :, :1], x], dim=2)
    expected = conv(fed_before, ConvState())[:, :, 1:]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_extended_frames_are_laid_out_and_empty_the_state() -> None:
    x, state = _video(frames=2), ConvState(frames=_video(frames=3)[:, :, :2])
    buffer = extend_frames(x, state, extra_channels=1)
    assert buffer.is_contiguous(memory_format=LAYOUT)
    assert buffer.shape == (2, 3, 4, 5, 6)
    assert torch.equal(buffer[:, :2, 2:], x)
    assert state.frames is None


def test_state_never_crosses_a_change_of_dtype() -> None:
    conv, state = _conv((3, 3, 3), (1, 1, 1)), ConvState()
    conv(_video(), state)
    with pytest.raises(AssertionError, match="change of dtype"):
        conv.float()(_video().float(), state)


def test_split_and_join_are_inverse() -> None:
    x = _video()
    assert torch.equal(join_frames(split_frames(x, 2)), x)
    assert [part.shape[2] for part in split_frames(x, 4)] == [4, 4, 1]
    assert split_frames(x, None)[0] is x
    assert join_frames([x[:, :, :0], x]) is x


@dataclass(slots=True)
class _Tree(StreamState):
    count: int = 3
    conv: ConvState = field(default_factory=ConvState)
    convs: list[ConvState] = field(default_factory=lambda: [ConvState(), ConvState()])


def _tree() -> _Tree:
    tree = _Tree()
    tree.convs[1].frames = _video()[:, :, :2].contiguous(memory_format=LAYOUT)
    return tree


def test_state_names_and_counts_its_tensors() -> None:
    tree = _tree()
    ((path, tensor),) = tree.named_tensors()
    assert path == "convs.1.frames"
    assert tree.num_bytes() == tensor.numel() * 8
    assert _Tree().num_bytes() == 0


def test_state_clone_is_independent_and_keeps_the_layout() -> None:
    tree = _tree()
    copy = tree.clone()
    original, copied = tree.convs[1].frames, copy.convs[1].frames
    assert original is not None
    assert copied is not None
    assert copied.is_contiguous(memory_format=LAYOUT)
    copied.zero_()
    copy.convs[0].lead = 9
    assert original.any()
    assert tree.convs[0].lead == 2


def test_state_moves() -> None:
    moved = _tree().to("meta")
    ((_, tensor),) = moved.named_tensors()
    assert tensor.device.type == "meta"
    assert moved.count == 3
    ((_, back),) = _tree().to("cpu").named_tensors()
    assert torch.equal(back, _video()[:, :, :2])
