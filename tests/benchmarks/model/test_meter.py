"""The meter counts what operators move; budgets keep the VAE from moving more than it has to."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from benchmarks.model.meter import CARDS, Key, Meter, Row, as_text, part_of, sums
from benchmarks.model.meter_stages import meter_piece
from seedvr2_core.kernels.norm import norm_silu
from seedvr2_core.planning import memory

META = torch.device("meta")
H100 = CARDS["h100"]
HALF = {"dtype": torch.float16, "device": META}


@pytest.fixture
def meter() -> Iterator[Meter]:
    with torch.inference_mode():
        yield Meter(H100)


def _total(meter: Meter) -> Row:
    return sums(meter.rows, lambda _: "")[""]


@pytest.mark.long
def test_operators_in_place_and_views(meter: Meter) -> None:
    x = torch.empty((8, 1000), **HALF)
    with meter.stage("a", times=10):
        x.add_(x[:1].expand_as(x).transpose(0, 1).transpose(0, 1))
    row = _total(meter)
    # x and one row of the other are read, x is written; views cost nothing.
    assert (row.calls, row.read, row.written) == (10, 10 * (16000 + 2000), 10 * 16000)
    assert row.seconds == pytest.approx(10 * (34000 / H100.bandwidth + H100.launch))


def test_a_bias_is_one_more_kernel_of_a_convolution(meter: Meter) -> None:
    x = torch.empty((1, 64, 3, 10, 20), **HALF)
    weight, bias = torch.empty((64, 64, 3, 3, 3), **HALF), torch.empty(64, **HALF)
    with meter.stage("a"):
        F.conv3d(x, weight, None, padding=(0, 1, 1))
    alone = _total(meter)
    assert alone.flops == 2 * 27 * 64 * 64 * 200
    assert (alone.launches, alone.written) == (1, 64 * 200 * 2)
    with meter.stage("b"):
        F.conv3d(x, weight, bias, padding=(0, 1, 1))
    both = sums(meter.rows, lambda key: key[0])
    assert both["b"].launches == 2
    assert both["b"].moved - alone.moved == 2 * alone.written
    assert {part_of(key) for key in meter.rows} == {"convolution", "bias"}


def test_attention_stores_no_scores_and_wide_heads_need_many_queries(meter: Meter) -> None:
    q = torch.empty((2, 1, 4096, 512), **HALF)
    with meter.stage("all"):
        F.scaled_dot_product_attention(q, q, q)
    with meter.stage("few"):
        for part in q.split(512, dim=2):
            F.scaled_dot_product_attention(part, q, q)
    found = sums(meter.rows, lambda key: key[0])
    assert found["all"].written == q.nbytes
    assert found["all"].flops == found["few"].flops == 4 * 2 * 4096**2 * 512
    assert found["few"].seconds > 2 * found["all"].seconds


def test_our_kernels_tell_their_own_cost(meter: Meter) -> None:
    x, vector = torch.empty((1, 8, 2, 4, 4), **HALF), torch.empty(8, **HALF)
    with meter.stage("a"):
        norm_silu(x, vector, vector, out_BCTHW=x, num_groups=2, eps=1e-6, silu=True)
    ((key, row),) = meter.rows.items()
    assert (key[0], key[2], part_of(key)) == ("a", "norm_silu", "norm")
    assert (row.read, row.written) == (2 * x.nbytes + 2 * vector.nbytes, x.nbytes)


@pytest.fixture(scope="module")
def vae_at_1080p() -> dict[Key, Row]:
    return meter_piece("7b", "1080p", H100, only=("encode", "decode"))


TERABYTES = {
    ("encode", "norm"): 1.1,
    ("decode", "norm"): 2.1,
    ("encode", "bias"): 0.12,
    ("decode", "bias"): 0.02,
    ("encode", "joins"): 0.6,
    ("decode", "joins"): 1.2,
    ("encode", "copies"): 0.16,
    ("decode", "copies"): 0.13,
    ("encode", "convolution"): 1.7,
    ("decode", "convolution"): 3.6,
}
"""Most that 100 frames of 1080p may move: a pass more over a level's activations exceeds it. One
frame at a time, a convolution reads three for each, which costs it nothing: it calculates longer.
"""


@pytest.mark.slow
def test_budget_of_the_vae(vae_at_1080p: dict[Key, Row]) -> None:
    parts = sums(vae_at_1080p, lambda key: (key[0], part_of(key)))
    moved = {name: parts[name].moved / 1e12 for name in TERABYTES}
    assert {name: moved[name] for name in TERABYTES if moved[name] > TERABYTES[name]} == {}
    # Nor may the parts shrink unseen to nothing: then the meter would have lost them.
    assert all(moved[name] > TERABYTES[name] / 4 for name in TERABYTES)
    stages = sums(vae_at_1080p, lambda key: key[0])
    assert stages["encode"].seconds + stages["decode"].seconds < 13.8
    assert stages["encode"].launches + stages["decode"].launches < 36_000
    assert "decode norm" in as_text(vae_at_1080p, lines=3)


@pytest.mark.soak
def test_each_step_of_the_vae_pays(
    vae_at_1080p: dict[Key, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the meter: which is why it is on."""
    now = sums(vae_at_1080p, lambda _: "")[""]
    for name in ("absorbed_bias", "frame_attention", "inner_padding"):
        rows = meter_piece("7b", "1080p", H100, only=("encode", "decode"), off=[name])
        assert sums(rows, lambda _: "")[""].seconds > now.seconds, name
    monkeypatch.setattr(memory, "RINGS", memory.SLICES[0])
    rows = meter_piece("7b", "1080p", H100, only=("encode", "decode"))
    assert sums(rows, lambda _: "")[""].seconds > now.seconds, "rings"
