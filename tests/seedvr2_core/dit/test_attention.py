"""Attention of one layer: windows do not see each other, and text is seen as a whole."""

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.attention import Attention, layer_streams, without_text
from seedvr2_core.dit.model import make_tables

pytestmark = pytest.mark.usefixtures("either_path")

TINY = pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])
TEXT_LEN = 5
LATENT = (2, 34, 60)


def random_attention(config: DiTConfig, layer: int = 0) -> Attention:
    torch.manual_seed(1)
    return Attention(config, layer, folded=False, dtype=torch.float32).requires_grad_(False)


def attend(config: DiTConfig, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Video rows in sorted order and the projected text of a first layer."""
    attn = random_attention(config)
    layer = make_tables(config, LATENT, TEXT_LEN, chunk_tokens=None).layers[False]
    heads = attn.project_text(text, layer.text_rotation)
    rows, said = attn(video, heads, layer.batches[0].runs, layer)
    return rows, attn.project_text_out(said, layer.window_rank_W)


def inputs(config: DiTConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tokens = LATENT[0] * LATENT[1] * LATENT[2] // 4
    video = torch.randn(tokens, config.width, generator=generator)
    return video, torch.randn(TEXT_LEN, config.width, generator=generator)


@TINY
def test_a_window_sees_its_own_tokens_only(config: DiTConfig) -> None:
    video, text = inputs(config)
    before, _ = attend(config, video, text)
    first = make_tables(config, LATENT, TEXT_LEN).layers[False].batches[0].runs[0].window_len
    changed = video.clone()
    changed[0] += 10
    after, _ = attend(config, changed, text)
    assert torch.equal(after[first:], before[first:])
    assert (after[:first] != before[:first]).any(dim=1).all()


@TINY
def test_every_window_sees_the_text_and_the_text_sees_every_window(config: DiTConfig) -> None:
    video, text = inputs(config)
    rows, told = attend(config, video, text)
    other_rows, _ = attend(config, video, text.roll(1, dims=1))
    assert (other_rows != rows).any(dim=1).all()
    for token in (0, len(video) // 2, -1):
        changed = video.clone()
        changed[token] += 10
        assert not torch.equal(attend(config, changed, text)[1], told)


def test_the_order_of_text_matters_only_where_text_rotates() -> None:
    """The 7B's text has no positions: its tokens are a set."""
    order = torch.randperm(TEXT_LEN, generator=torch.Generator().manual_seed(3))
    assert order.tolist() != list(range(TEXT_LEN))
    for config, same in ((DIT_TINY_7B, True), (DIT_TINY_3B, False)):
        video, text = inputs(config)
        rows, told = attend(config, video, text)
        shuffled_rows, shuffled_told = attend(config, video, text[order])
        assert torch.allclose(shuffled_rows, rows, atol=1e-5) == same
        assert torch.allclose(shuffled_told, told[order], atol=1e-5) == same


@TINY
def test_rows_without_text_are_those_of_the_video(config: DiTConfig) -> None:
    for layer in range(config.num_layers):
        streams = layer_streams(config, layer)
        assert ("txt" in streams) == (layer < config.num_separate_layers)
        assert without_text(streams) in (("vid",), ("all",))
