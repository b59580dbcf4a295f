"""Weights are recognised by what they hold, read exactly, and refused by tensor name."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import DIT_TINY_3B, VAE_TINY
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import load_plain
from seedvr2_core.errors import CheckpointError
from seedvr2_core.vae.model import build_vae
from seedvr2_core.weights.checkpoint import (
    Identity,
    identify,
    load_text_embedding,
    open_checkpoint,
)
from seedvr2_core.weights.layouts import public_layouts
from tests.kits.weights import ROPE, tensors, tiny_layouts, write_safetensors, write_sparse

State = dict[str, Tensor]
PARTS = ("dit-3b", "dit-7b", "vae", "pos_emb")
QKV = "blocks.1.attn.proj_qkv.vid.weight"


def look(path: Path) -> Identity:
    return identify(path, layouts=tiny_layouts)


def write_torch(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def old_names(state: State) -> State:
    pairs = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    renamed = dict(state)
    for new, old in pairs:
        renamed = {name.replace(new, old): t for name, t in renamed.items()}
    assert renamed.keys() != state.keys()
    return renamed


def test_layouts_are_the_key_lists(shared: Path) -> None:
    folder = shared / "seedvr2"
    for part, file in (("dit-3b", "keys_dit_3b.json"), ("dit-7b", "keys_dit_7b.json")):
        listed = json.loads((folder / file).read_text())["tensors"]
        layout = public_layouts()[part]
        assert {**layout.shapes, **layout.unread} == {n: tuple(s) for n, s in listed.items()}
    listed = json.loads((folder / "keys_vae.json").read_text())
    assert public_layouts()["vae"].shapes == {n: tuple(s) for n, s in listed.items()}


@pytest.mark.parametrize(
    ("part", "read", "unread", "values"),
    [
        ("dit-3b", 603, 32, 3_391_475_776),
        ("dit-7b", 1092, 36, 8_239_607_872),
        ("vae", 250, 0, 250_648_227),
        ("pos_emb", 1, 0, 58 * 5120),
    ],
)
def test_layouts_have_the_published_counts(part: str, read: int, unread: int, values: int) -> None:
    layout = public_layouts()[part]
    assert (len(layout.shapes), len(layout.unread)) == (read, unread)
    shapes = [*layout.shapes.values(), *layout.unread.values()]
    total = sum(torch.Size(shape).numel() for shape in shapes)
    assert total - values in (0, sum(torch.Size(s).numel() for s in layout.unread.values()))


@pytest.mark.parametrize("part", ["dit-3b", "dit-7b", "vae"])
def test_files_of_full_size_are_known_by_their_header(tmp_path: Path, part: str) -> None:
    layout = public_layouts()[part]
    path = write_sparse(tmp_path / "x", {**layout.shapes, **layout.unread})
    assert identify(path) == Identity(part=part, format="safetensors", dtypes=("F16",))
    if part == "vae":
        assert path.stat().st_size == 501_324_814  # the published file's
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"truncated: 1 of .* 1 of .* tensors: \w+"):
        identify(path)


def test_full_size_3b_is_not_opened_as_7b(tmp_path: Path) -> None:
    layout = public_layouts()["dit-3b"]
    path = write_sparse(tmp_path / "seedvr2_ema_7b_fp16.safetensors", dict(layout.shapes))
    with pytest.raises(CheckpointError, match="holds dit-3b, not dit-7b") as caught:
        open_checkpoint(path, "dit-7b")
    assert "blocks.10.ada.all.attn_gate" in str(caught.value)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("dtype", "tag"),
    [
        (torch.float32, "F32"),
        (torch.float16, "F16"),
        (torch.bfloat16, "BF16"),
        (torch.float8_e4m3fn, "F8_E4M3"),
    ],
    ids=["fp32", "fp16", "bf16", "fp8"],
)
def test_known_and_read_exactly_in_every_dtype(tmp_path, part, dtype, tag) -> None:
    state = tensors(part, dtype)
    path = write_safetensors(tmp_path / "any.name", state)
    assert look(path) == Identity(part=part, format="safetensors", dtypes=(tag,))
    with open_checkpoint(path, part, layouts=tiny_layouts) as found:
        assert set(found) == {name for name in state if not name.endswith(ROPE)}
        for name, tensor in found.items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor.float(), state[name].float())
    with open_checkpoint(path, part, layouts=tiny_layouts, dtype=torch.bfloat16) as found:
        name = next(iter(found))
        assert torch.equal(found[name], state[name].to(torch.bfloat16))


def test_prefix_in_safetensors_and_old_attention_names(tmp_path: Path) -> None:
    vae = tensors("vae")
    renamed = {f"model.{name}": t for name, t in old_names(vae).items()}
    path = write_safetensors(tmp_path / "x", renamed)
    with open_checkpoint(path, "vae", layouts=tiny_layouts) as found:
        assert found.keys() == vae.keys()
        assert all(torch.equal(tensor, vae[name]) for name, tensor in found.items())


@pytest.mark.parametrize("name", ["pos_emb", "a.b.c"])
def test_text_embedding(tmp_path: Path, name: str) -> None:
    value = tensors("pos_emb", torch.bfloat16)["pos_emb"]
    path = write_safetensors(tmp_path / "x", {name: value})
    assert torch.equal(load_text_embedding(path, layouts=tiny_layouts), value)
    path = write_torch(tmp_path / "x.pt", value)
    assert torch.equal(load_text_embedding(path, layouts=tiny_layouts), value)


def test_public_text_embedding(shared: Path) -> None:
    path = shared / "seedvr2" / "pos_emb.safetensors"
    assert identify(path).part == "pos_emb"
    assert load_text_embedding(path).shape == (58, 5120)
    with pytest.raises(CheckpointError, match=r"\[64, 5120\], expected \[58, 5120\]"):
        load_text_embedding(path.with_name("neg_emb.safetensors"))
    assert identify(path.with_name("neg_emb.safetensors")).part == "neg_emb"


def test_models_load_from_an_open_file(tmp_path: Path) -> None:
    dit, text = tensors("dit-3b", torch.bfloat16), tensors("pos_emb")["pos_emb"]
    path = write_safetensors(tmp_path / "dit", dit)
    with open_checkpoint(path, "dit-3b", layouts=tiny_layouts) as found:
        plain = load_plain(DIT_TINY_3B, found)
        folded = load_folded(DIT_TINY_3B, found, text, dtype=torch.float32)
    vid_THWC = torch.randn(2, 4, 6, 33, generator=torch.Generator().manual_seed(0))
    expected = load_plain(DIT_TINY_3B, dit)(vid_THWC, text)
    assert torch.equal(plain(vid_THWC, text), expected)
    assert (folded(vid_THWC) - expected).abs().max() < 1e-3 * expected.abs().max()
    path = write_safetensors(tmp_path / "vae", tensors("vae"))
    with open_checkpoint(path, "vae", layouts=tiny_layouts) as found:
        vae = build_vae(VAE_TINY, found, dtype=torch.float32, fold=False)
    assert torch.equal(
        vae.state_dict()["encoder.conv_in.weight"], tensors("vae")["encoder.conv_in.weight"].float()
    )


def _without(state: State, name: str) -> State:
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: _without(s, QKV), f"1 missing: {QKV}"),
        (
            lambda s: {**_without(s, QKV), "blocks.1.attn.qkv": s[QKV]},
            f"1 missing: {QKV}; 1 unexpected: blocks.1.attn.qkv",
        ),
        (lambda s: {**s, "blocks.9.x": s[QKV]}, "1 unexpected: blocks.9.x"),
        (lambda s: {**s, QKV: s[QKV].T}, f"{QKV} ([64, 192], expected [192, 64])"),
        (lambda s: {**s, QKV: s[QKV].int()}, f"1 of a dtype that is not read: {QKV} (I32)"),
        (
            lambda s: {**s, QKV: s[QKV].to(torch.float8_e5m2)},
            f"1 of a dtype that is not read: {QKV} (F8_E5M2)",
        ),
        (lambda s: _without(s, f"blocks.2.{ROPE}"), f"1 missing: blocks.2.{ROPE}"),
        (
            lambda s: {**s, f"blocks.2.{ROPE}": torch.ones(3)},
            f"blocks.2.{ROPE} ([3], expected",
        ),
        (
            lambda s: {n: t for n, t in s.items() if n.startswith("blocks.0.")},
            "missing: blocks.1.ada.txt.attn_gate, ",
        ),
    ],
    ids=[
        *("missing", "renamed", "extra", "transposed", "integers", "e5m2"),
        *("one rope buffer missing", "rope buffer of another size", "one block only"),
    ],
)
def test_refused_by_tensor_name(tmp_path: Path, change: Callable[[State], State], told: str):
    path = write_safetensors(tmp_path / "x", change(tensors("dit-7b")))
    with pytest.raises(CheckpointError) as caught:
        look(path)
    assert told in str(caught.value)
    assert "nearest is dit-7b" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, "dit-7b", layouts=tiny_layouts)
    assert told in str(caught.value)


def test_rope_buffers_may_all_be_absent(tmp_path: Path) -> None:
    state = {n: t for n, t in tensors("dit-3b").items() if not n.endswith(ROPE)}
    assert look(write_safetensors(tmp_path / "x", state)).part == "dit-3b"


def test_rope_buffers_are_never_read(tmp_path: Path) -> None:
    state = tensors("dit-3b")
    state[f"blocks.0.{ROPE}"].fill_(float("nan"))
    path = write_safetensors(tmp_path / "x", state)
    with open_checkpoint(path, "dit-3b", layouts=tiny_layouts) as found:
        found.check_values()
        with pytest.raises(KeyError):
            found[f"blocks.0.{ROPE}"]


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    state = {name: t for name, t in tensors("vae").items() if name.startswith("encoder.")}
    with pytest.raises(CheckpointError, match=r"missing: .*, and \d+ more") as caught:
        look(write_safetensors(tmp_path / "x", state))
    assert str(caught.value).count("decoder.") == 5


@pytest.mark.parametrize("given", ["dit-3b", "dit-7b", "vae", "pos_emb"])
@pytest.mark.parametrize("wanted", ["dit-3b", "dit-7b", "dit-7b-sharp", "vae", "pos_emb"])
def test_mixed_up(tmp_path: Path, given: str, wanted: str) -> None:
    path = write_safetensors(tmp_path / f"{wanted}.safetensors", tensors(given))
    if given == wanted.removesuffix("-sharp"):
        open_checkpoint(path, wanted, layouts=tiny_layouts).close()
        return
    with pytest.raises(CheckpointError, match=f"holds {given}, not {wanted}.*missing: [a-z_.]+"):
        open_checkpoint(path, wanted, layouts=tiny_layouts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    state = tensors("dit-7b", dtype)
    wide = state[QKV].float()
    wide[5, 7] = value
    state[QKV] = wide.to(dtype)  # e4m3 has no infinity: the cast saturates or gives NaN
    bad = not torch.isfinite(state[QKV].float()).all()
    path = write_safetensors(tmp_path / "x", state)
    with open_checkpoint(path, "dit-7b", layouts=tiny_layouts) as found:
        assert torch.isfinite(found["vid_in.proj.weight"].float()).all()
        if bad:
            with pytest.raises(CheckpointError, match=f"{QKV} has 1 of 12288 values that are NaN"):
                found[QKV]
            with pytest.raises(CheckpointError, match=QKV):
                found.check_values()
        else:
            assert dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_names_of_one_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {**tensors("vae", dtype), **old_names(tensors("vae", dtype))}
    with pytest.raises(CheckpointError, match=r"there twice: \S+to_k.bias \(as \S+.key.bias"):
        open_checkpoint(write_safetensors(tmp_path / "x", state), "vae", layouts=tiny_layouts)


@pytest.mark.parametrize("at_once", [3, 1000])
def test_values_are_checked_by_the_time_the_file_is_left(tmp_path: Path, at_once: int) -> None:
    """As on a GPU, which is not waited for after each tensor."""
    state = tensors("dit-7b")
    bad = sorted(state)[5]
    state[bad].view(-1)[0] = torch.nan
    path = write_safetensors(tmp_path / "weights.safetensors", state)
    seen: list[str] = []
    wanted = len(state) - sum(name.endswith(ROPE) for name in state)

    def read_all() -> None:
        with open_checkpoint(path, "dit-7b", layouts=tiny_layouts) as checkpoint:
            checkpoint._at_once = at_once
            for name in sorted(checkpoint):
                seen.append(name)
                checkpoint[name]

    with pytest.raises(CheckpointError, match=f"{bad} has 1 of"):
        read_all()
    assert bad in seen
    assert (len(seen) < wanted) == (at_once == 3)
