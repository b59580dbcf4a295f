"""The transformer as a whole: names, strictness, and an oracle that loops over windows."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.config import DIT_3B, DIT_7B, DIT_CONFIGS, DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit import rope as ropes
from seedvr2_core.dit.attention import Attention
from seedvr2_core.dit.model import (
    DiT,
    DiTTables,
    check_keys,
    expected_keys,
    load_plain,
    make_tables,
    permute_rows_,
)
from seedvr2_core.dit.window import Grid, window_order, windows
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.errors import CheckpointError, PlanError

pytestmark = pytest.mark.usefixtures("either_path")

TINY = pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])


def _model(config: DiTConfig) -> DiT:
    return load_plain(config, pcg64_v1(expected_keys(config), 7))


def _inputs(config: DiTConfig, size: Grid, text_len: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    vid = torch.randn(*size, config.in_channels, generator=generator)
    return vid, torch.randn(text_len, config.text_dim, generator=generator)


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [(DIT_3B, 635, 3_391_475_776), (DIT_7B, 1128, 8_239_607_872)],
    ids=["3b", "7b"],
)
def test_names_and_sizes_of_the_public_models(
    config: DiTConfig, tensors: int, parameters: int
) -> None:
    shapes = expected_keys(config)
    buffers = [name for name in shapes if name.endswith("rope.rope.freqs")]
    numel = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert len(shapes) == tensors
    assert len(buffers) == config.num_layers
    assert sum(n for name, n in numel.items() if name not in buffers) == parameters


def test_presets() -> None:
    assert DIT_CONFIGS["7b-sharp"] == DIT_CONFIGS["7b"]
    assert (DIT_3B.mlp_hidden, DIT_7B.mlp_hidden) == (6912, 12288)
    assert (DIT_3B.num_layers, DIT_7B.num_layers) == (32, 36)
    assert DIT_3B.shifted[:3] == (False, True, False)


@TINY
def test_a_checkpoint_must_fit_exactly(config: DiTConfig) -> None:
    tensors: dict[str, Tensor] = pcg64_v1(expected_keys(config), 7)
    check_keys(config, tensors)
    check_keys(config, tensors | {"blocks.0.attn.rope.rope.freqs": torch.zeros(5)})
    with pytest.raises(CheckpointError, match=r"1 unknown \['extra'\]"):
        load_plain(config, tensors | {"extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        load_plain(config, {n: t for n, t in tensors.items() if n != "txt_in.bias"})
    with pytest.raises(CheckpointError, match=r"txt_in\.bias"):
        load_plain(config, tensors | {"txt_in.bias": torch.zeros(3)})


@TINY
def test_dtypes_are_as_promised(config: DiTConfig) -> None:
    model = load_plain(config, pcg64_v1(expected_keys(config), 7), dtype=torch.bfloat16)
    wide = {n for n, t in model.state_dict().items() if t.dtype == torch.float32}
    assert "vid_in.proj.weight" in wide
    assert "vid_out.proj.weight" in wide
    for name, tensor in model.state_dict().items():
        assert (tensor.ndim == 1 and not name.endswith("bias")) <= (name in wide), name
    vid, text = _inputs(config, (1, 4, 6))
    assert model(vid, text).dtype == torch.float32


@TINY
@pytest.mark.parametrize("chunk", [40, 700], ids=lambda c: f"chunk{c}")
def test_chunks_do_not_change_the_result(config: DiTConfig, chunk: int) -> None:
    model = _model(config)
    vid, text = _inputs(config, (3, 34, 60))
    with torch.inference_mode():
        whole = model(vid, text, tables=_tables(config, vid, None))
        cut = model(vid, text, tables=_tables(config, vid, chunk))
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)


def _tables(config: DiTConfig, vid: Tensor, chunk: int | None) -> DiTTables:
    t, h, w, _ = vid.shape
    return make_tables(config, (t, h, w), 5, chunk_tokens=chunk)


@TINY
def test_same_input_same_bits_and_input_untouched(config: DiTConfig) -> None:
    model = _model(config)
    vid, text = _inputs(config, (3, 18, 32))
    before = vid.clone(), text.clone()
    with torch.inference_mode():
        first, second = model(vid, text), model(vid, text)
    assert torch.equal(first, second)
    assert torch.equal(vid, before[0])
    assert torch.equal(text, before[1])


@TINY
def test_first_layer_may_be_shifted_and_methods_may_repeat(config: DiTConfig) -> None:
    config = dataclasses.replace(config, shifted=(True, True, False, False))
    vid, text = _inputs(config, (3, 34, 60))
    with torch.inference_mode():
        assert _model(config)(vid, text).isfinite().all()


def test_text_parts_of_the_last_layer_are_dead() -> None:
    tensors = pcg64_v1(expected_keys(DIT_TINY_7B), 7)
    vid, text = _inputs(DIT_TINY_7B, (2, 18, 32))
    changed = dict(tensors)
    for name in ("mlp.txt.proj_in.weight", "attn.proj_out.txt.weight", "attn.norm_q.txt.weight"):
        changed[f"blocks.3.{name}"] = tensors[f"blocks.3.{name}"] * 2
    with torch.inference_mode():
        out = [load_plain(DIT_TINY_7B, t)(vid, text) for t in (tensors, changed)]
    assert torch.equal(out[0], out[1])


@TINY
def test_wrong_sizes_are_refused(config: DiTConfig) -> None:
    model = _model(config)
    vid, text = _inputs(config, (1, 4, 6))
    with pytest.raises(PlanError, match="must be even, got 3x6"):
        model(vid[:, :3], text)
    with pytest.raises(PlanError, match="33 channels, got 32"):
        model(vid[..., :32], text)
    with pytest.raises(PlanError, match="make_tables"):
        model(vid, text, tables=make_tables(config, (1, 4, 8), 5))
    with pytest.raises(PlanError, match="make_tables"):
        model(vid, text, tables=make_tables(config, (1, 4, 6), 6))


def test_permutation_in_place() -> None:
    x, rows = torch.randn(50, 1100), torch.randperm(50)
    want = x[rows]
    permute_rows_(x, rows)
    assert torch.equal(x, want)


# --- an oracle: one window at a time, softmax written out ---------------------------------------


def _heads(linear: torch.nn.Linear, x: Tensor, config: DiTConfig) -> tuple[Tensor, ...]:
    return linear(x).view(len(x), 3, config.num_heads, config.head_dim).unbind(1)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("qhc,khc->hqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hqk,khc->qhc", scores.softmax(-1), v)


def _naive(
    attn: Attention, video: Tensor, text: Tensor, config: DiTConfig, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Video rows in grid order and text, after the output projection."""
    q_v, k_v, v_v = _heads(attn.proj_qkv.of("vid"), video, config)
    q_t, k_t, v_t = _heads(attn.proj_qkv.of("txt"), text, config)
    q_v, k_v = attn.norm_q.of("vid")(q_v), attn.norm_k.of("vid")(k_v)
    q_t, k_t = attn.norm_q.of("txt")(q_t), attn.norm_k.of("txt")(k_t)
    if config.rope == "lang":
        turn = ropes.rotation(ropes.text_angles(config.head_dim, len(text)))
        q_t, k_t = ropes.rotate_(q_t, turn), ropes.rotate_(k_t, turn)
    positions = torch.arange(len(video)).view(grid)
    out, said = torch.empty_like(q_v), []
    for t0, t1, y0, y1, x0, x1 in windows(grid, config.window_counts, shifted=True):
        rows = positions[t0:t1, y0:y1, x0:x1].flatten()
        angles = ropes.video_angles(
            config.rope, config.head_dim, (t1 - t0, y1 - y0, x1 - x0), len(text)
        )
        turn = ropes.rotation(angles)
        q = torch.cat([ropes.rotate_(q_v[rows], turn), q_t])
        k = torch.cat([ropes.rotate_(k_v[rows], turn), k_t])
        result = _softmax_attention(q, k, torch.cat([v_v[rows], v_t]))
        out[rows] = result[: len(rows)]
        said.append(result[len(rows) :])
    text_mean = torch.stack(said).mean(0).flatten(1)
    return attn.proj_out.of("vid")(out.flatten(1)), attn.proj_out.of("txt")(text_mean)


@TINY
@pytest.mark.parametrize("grid", [(3, 17, 30), (1, 9, 40)], ids=str)
def test_grouped_attention_equals_a_loop_over_windows(config: DiTConfig, grid: Grid) -> None:
    attn = _model(config).blocks[0].get_submodule("attn")
    assert isinstance(attn, Attention)
    video, text = torch.randn(grid[0] * grid[1] * grid[2], config.width), torch.randn(5, 64)
    order = window_order(grid, config.window_counts, shifted=True)
    tables = make_tables(config, (grid[0], 2 * grid[1], 2 * grid[2]), 5, chunk_tokens=None)
    layer = tables.layers[True]
    with torch.inference_mode():
        want_video, want_text = _naive(attn, video, text, config, grid)
        heads = attn.project_text(text, layer.text_rotation)
        rows, said = attn(video[order.order_N], heads, layer.batches[0].runs, layer)
        got_text = attn.project_text_out(said, layer.window_rank_W)
    torch.testing.assert_close(rows[tables.place_N[True]], want_video, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got_text, want_text, atol=1e-5, rtol=1e-4)


def test_grouped_calls_not_window_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attention call for each distinct shape, never one for each window."""
    calls: list[int] = []
    real = F.scaled_dot_product_attention

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(q.shape[0])
        return real(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    config = dataclasses.replace(DIT_TINY_7B, shifted=(True,), num_separate_layers=1)
    vid, text = _inputs(config, (3, 34, 60))
    _model(config)(vid, text)
    found = windows((3, 17, 30), config.window_counts, shifted=True)
    shapes = {(b - a, d - c, f - e) for a, b, c, d, e, f in found}
    assert len(calls) == len(shapes) < len(found)
    assert sum(calls) == len(found)
