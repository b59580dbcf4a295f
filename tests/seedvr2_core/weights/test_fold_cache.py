"""Folded weights kept beside the checkpoint: read once, checked, and made again if in doubt."""

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seedvr2_core.dit.model import FoldedDiT
from seedvr2_core.engines.seedvr2 import load
from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights import fold_cache, scan_weights
from seedvr2_core.weights.stream import StreamedFile, write_stream
from tests.kits.selfcheck import MODEL, files_of, small_world, wait_until_kept, write_weights
from tests.kits.weights import tiny_catalog

STATE = {
    "a.weight": torch.randn(7, 5).to(torch.bfloat16),
    "b": torch.randn(3),
    "empty": torch.zeros(0, 4),
    "c.weight": torch.randn(2, 3, 4).half(),
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights")


def load_dit(
    weights: Path, dtype: torch.dtype = torch.bfloat16, **options: Any
) -> dict[str, Tensor]:
    """Load as a session does, and wait for the thread that keeps what was folded."""
    models = load.load_models(
        small_world().catalog.models[MODEL],
        files_of(weights),
        dit_dtype=dtype,
        device="cpu",
        world=small_world(),
        keep_folded=True,
        **options,
    )
    wait_until_kept()
    assert isinstance(models.dit, FoldedDiT)
    return models.dit.state_dict()


def kept(weights: Path) -> list[Path]:
    return sorted((weights / fold_cache.FOLDER).iterdir())


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def refuse_to_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the checkpoint was folded again")

    monkeypatch.setattr(load, "load_folded", refuse)


def test_weights_that_wait_in_host_memory_are_read_but_not_kept(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their layers share places on the device, which a thread must not read."""
    first = load_dit(weights, in_host_memory=True)
    assert not (weights / fold_cache.FOLDER).exists()
    assert_same(load_dit(weights), first)
    refuse_to_fold(monkeypatch)
    assert_same(load_dit(weights, in_host_memory=True), first)


def test_the_second_load_reads_what_the_first_has_folded(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_dit(weights)
    (file,) = kept(weights)
    refuse_to_fold(monkeypatch)
    beats: list[tuple[int, int]] = []
    read: list[int] = []
    whole_read = os.preadv

    def preadv(handle: int, buffers: list[Any], offset: int) -> int:
        count = whole_read(handle, buffers, offset)
        if Path(f"/proc/self/fd/{handle}").resolve() == file:
            read.append(count)
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    assert_same(load_dit(weights, beat=lambda *beat: beats.append(beat[1:])), first)
    assert sum(read) == StreamedFile(file).num_bytes, "each byte once"
    assert kept(weights) == [file]
    done = [done for done, _ in beats]
    assert done == sorted(done)
    assert len(done) > 50
    assert 0.3 < done[-1] / beats[-1][1] <= 1  # the VAE is read later
    assert {path.name for path in weights.iterdir()} >= {"dit-7b.safetensors", fold_cache.FOLDER}
    assert not scan_weights(weights, catalog=tiny_catalog()).refused


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def _spoil_header(file: Path) -> None:
    file.write_bytes(b"\0" * 100)


def _swap(file: Path) -> None:
    """Weights of another key under this one's name."""
    state = dict(StreamedFile(file).tensors(pin_memory=False))
    write_stream(file, state, {"checkpoint": "another"})


@pytest.mark.parametrize("damage", [_flip, _cut, _spoil_header, _swap])
def test_a_damaged_file_is_made_again(
    weights: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    first = load_dit(weights)
    (file,) = kept(weights)
    good = file.read_bytes()
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert_same(load_dit(weights), first)
    assert "folded again" in caplog.text
    assert kept(weights) == [file]
    assert file.read_bytes() == good


def test_another_dtype_or_version_has_its_own_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_dit(weights)
    (bf16,) = kept(weights)
    load_dit(weights, torch.float16)
    assert len(kept(weights)) == 2
    assert bf16 in kept(weights)
    theirs = weights / fold_cache.FOLDER / "mine.safetensors"
    theirs.write_bytes(b"of the user")
    monkeypatch.setattr(load, "FOLD_VERSION", 2)
    load_dit(weights)
    assert bf16 not in kept(weights)
    assert len(kept(weights)) == 2  # the old versions are gone, what is not ours stays
    assert theirs.read_bytes() == b"of the user"


def test_where_it_cannot_be_kept_the_job_goes_on(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_dit(weights)
    shutil.rmtree(weights / fold_cache.FOLDER)
    usage = shutil.disk_usage(weights)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert_same(load_dit(weights), first)
    assert kept(weights) == []
    monkeypatch.undo()
    (weights / fold_cache.FOLDER).rmdir()
    (weights / fold_cache.FOLDER).touch()  # a file in the folder's place
    with caplog.at_level(logging.WARNING):
        assert_same(load_dit(weights), first)
    assert "cannot be kept" in caplog.text


def test_tensors_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_stream(path, STATE, {"of": "a test"})
    file = StreamedFile(path)
    assert file.about == {"of": "a test"}
    assert_same(dict(file.tensors(pin_memory=False)), STATE)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    from safetensors.torch import load_file

    assert_same(load_file(path), STATE)  # the format is the usual one


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_stream(tmp_path / "weights.safetensors", Broken(STATE), None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="no file of folded weights"):
        StreamedFile(tmp_path / "weights.safetensors")


def test_every_part_of_the_key_counts() -> None:
    key = fold_cache.FoldedKey(
        checkpoint="a" * 64, text="b", timestep=1.0, dtype="float16", version=1, device_kind="cpu"
    )
    changes: dict[str, Any] = {
        "checkpoint": "c" * 64,
        "text": "c",
        "timestep": 2.0,
        "dtype": "bfloat16",
        "version": 2,
        "device_kind": "NVIDIA H100",
    }
    assert changes.keys() == {field.name for field in dataclasses.fields(key)}
    others = {dataclasses.replace(key, **{name: value}).name for name, value in changes.items()}
    assert len(others | {key.name}) == 1 + len(changes)
