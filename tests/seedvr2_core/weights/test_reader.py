"""Both formats, whole and broken: nothing in a file is run, nothing half is taken for whole."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights.checkpoint import Identity, identify, open_checkpoint
from seedvr2_core.weights.reader import read_safetensors_header
from tests.kits.weights import tensors, tiny_layouts, write_safetensors

State = dict[str, Tensor]


def look(path: Path) -> Identity:
    return identify(path, layouts=tiny_layouts)


def write_torch(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "step": 5},
        lambda state: {"ema": {"state_dict": state}, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.model.{name}": t for name, t in state.items()},
        lambda state: {name: torch.nn.Parameter(t) for name, t in state.items()},
    ],
    ids=["flat", "nested", "twice", "prefix", "parameters"],
)
@pytest.mark.parametrize("part", ["dit-7b", "vae"])
def test_torch_files(tmp_path: Path, part: str, wrap: Callable[[State], object]) -> None:
    state = tensors(part, torch.float32)
    path = write_torch(tmp_path / "x.pth", wrap(state))
    assert look(path) == Identity(part=part, format="torch", dtypes=("F32",))
    with open_checkpoint(path, part, layouts=tiny_layouts) as found:
        assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
        assert not any(tensor.requires_grad for tensor in found.values())


def test_torch_file_by_another_name(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "x.safetensors", tensors("vae"))
    assert look(path).format == "torch"


def test_torch_files_of_the_old_format(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(tensors("vae"), path, _use_new_zipfile_serialization=False)
    assert look(path).part == "vae"


@pytest.mark.parametrize("share", [0.999, 0.5, 0.02])
def test_truncated_safetensors_names_what_is_gone(tmp_path: Path, share: float) -> None:
    path = write_safetensors(tmp_path / "x", tensors("vae"))
    whole = path.stat().st_size
    os.truncate(path, int(whole * share))
    with pytest.raises(CheckpointError, match="is truncated") as caught:
        look(path)
    if share > 0.1:
        assert ".weight" in str(caught.value)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.02])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_torch_files(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(tensors("vae"), path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match="truncated" if zipped else "damaged"):
        look(path)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return os.mkdir, (self._mark,)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_with_code_are_not_run(tmp_path: Path, legacy: bool) -> None:
    path, mark = tmp_path / "x.pth", tmp_path / "mark"
    if legacy:
        path.write_bytes(pickle.dumps(Evil(mark), protocol=2))
    else:
        torch.save({"state_dict": tensors("vae"), "x": Evil(mark)}, path)
    with pytest.raises(CheckpointError, match="could run foreign code; it was not loaded"):
        look(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": 1, "b": "x"}, "2 entries that are no tensors: a, b"),
        ([1, 2], "holds a list"),
        ({}, "holds a dict"),
        ({"state_dict": {"a": torch.ones(1), "b": 3}, "c": 1}, "1 entries that are no tensors: b"),
    ],
)
def test_torch_files_without_weights(tmp_path: Path, value: object, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        look(write_torch(tmp_path / "x.pth", value))


def _header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def _entry(dtype: str = "F16", shape: object = (2,), offsets: object = (0, 4)) -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return _header(json.dumps({"a.weight": entry}).encode(), bytes(4))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no weights file"),
        (b"This is a text.", "no weights file"),
        (b"GGUF\x03\x00\x00\x00", "truncated: its header goes on"),
        (struct.pack("<Q", 10**15) + b"{", "header claims"),
        (struct.pack("<Q", 999) + b"{}", "truncated: its header alone"),
        (_header(b"{]"), "no JSON"),
        (_header(b"{}"), "nearest"),
        (_header(b'{"a": 1, "a": 2}'), "named twice: a"),
        (
            _header(b'{"a": 1,' + b",".join(b'"%d": 1' % n for n in range(300_000)) + b',"a": 2}'),
            "named twice: a",
        ),
        (_header(b'{"a": ' + b"[" * 300_000), "no JSON"),
        (_header(b'{"a": ' + b"9" * 5000 + b"}"), "no JSON"),
        (_entry(shape=(1,) * 300_000), "a.weight"),
        (_entry(shape=(2**63, 2**63)), "a.weight is F16"),
        (_entry(offsets=(0, 10**300)), "a.weight lies outside"),
        (_entry(offsets=(-(10**4299) * 9, 10**4299 * 9)), "a.weight lies outside"),
        (_entry(offsets=(0, 1e999)), "entry of a.weight"),
        (_entry(dtype="F16" * 100_000), "unknown dtype"),
        (_header(b'{"a.weight": {"dtype": "F16"}}'), "entry of a.weight"),
        (
            _header(b'{"a.weight": {"dtype": "F16", "shape": [1e999], "data_offsets": [0, 1]}}'),
            "entry",
        ),
        (_entry("F4"), "a.weight has the unknown dtype F4"),
        (_entry(shape=(3,)), r"a.weight is F16 \[3\] but has 4 bytes"),
        (_entry(shape=(-1, -2)), "a.weight is F16"),
        (_entry(offsets=(2, 6)), "a.weight begins at byte 2 of the data, expected 0"),
        (_entry() + b"more", "4 bytes follow"),
        (b"PK\x03\x04" + bytes(100), "truncated"),
        (b"\x80\x02" + bytes(100), "damaged"),
        (b"\x80", "damaged"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as refused:
        look(path)
    assert len(str(refused.value)) < 1000, "a message is a sentence"


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            look(path)


def test_header_agrees_with_the_library(tmp_path: Path) -> None:
    state = tensors("dit-3b", torch.bfloat16)
    header = read_safetensors_header(write_safetensors(tmp_path / "x", state))
    assert {name: info.shape for name, info in header.items()} == {
        name: tuple(t.shape) for name, t in state.items()
    }
