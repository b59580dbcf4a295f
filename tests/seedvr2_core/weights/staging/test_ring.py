"""Tensors come through the ring as they are in the file, and the host never holds more of it."""

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights.reader import open_reader
from seedvr2_core.weights.staging.ring import StagedFile
from seedvr2_core.weights.staging.spans import safetensors_spans
from tests.kits.weights import tensors, write_safetensors, write_sparse

STATE = {
    "a.weight": torch.randn(37, 51).to(torch.bfloat16),
    "b": torch.randn(3),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "c.weight": torch.randn(2, 3, 4, 5).half(),
    "fp8": torch.randn(129, 7).to(torch.float8_e4m3fn),
    "text": torch.arange(200, dtype=torch.uint8),
    "count": torch.arange(9),
}


class LateTransfer:
    """Stands in for a stream: a copy happens as late as it may, from what the buffer has then."""

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.waits = 0
        self._under_way: list[tuple[int, Tensor, Tensor]] = []
        self._numbers = itertools.count()

    def buffer(self, num_bytes: int) -> Tensor:
        self.buffers.append(torch.empty(num_bytes, dtype=torch.uint8))
        return self.buffers[-1]

    def place(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def copy(self, place: Tensor, piece: Tensor) -> int:
        number = next(self._numbers)
        self._under_way.append((number, place, piece))
        return number

    def wait(self, copied: int) -> None:
        self.waits += 1
        while self._under_way and self._under_way[0][0] <= copied:
            _, place, piece = self._under_way.pop(0)
            place.copy_(piece)

    def hand_over(self, place: Tensor) -> None:
        if self._under_way:
            self.wait(self._under_way[-1][0])


def same(got: Tensor, wanted: Tensor) -> bool:
    raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (got, wanted)]
    return got.dtype == wanted.dtype and got.shape == wanted.shape and torch.equal(*raw)


def staged(path: Path, **options: Any) -> StagedFile:
    return StagedFile(path, safetensors_spans(path), device="cpu", **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "weights.safetensors", STATE)


@pytest.mark.parametrize(("piece_bytes", "buffers"), [(64, 1), (100, 3), (1000, 2), (1 << 20, 16)])
@pytest.mark.parametrize("told", ["in order", "not at all", "another order"])
def test_every_tensor_is_as_in_the_file(
    path: Path, piece_bytes: int, buffers: int, told: str
) -> None:
    transfer = LateTransfer()
    file = staged(path, transfer=transfer, piece_bytes=piece_bytes, buffers=buffers)
    names = [*STATE, "a.weight", "b", "a.weight"]
    if told != "not at all":
        file.expect(names if told == "in order" else names[::-1])
    for name in names:
        assert same(file.read(name), STATE[name]), name
    file.close()
    assert len(transfer.buffers) <= buffers
    assert all(len(buffer) == piece_bytes for buffer in transfer.buffers)


def test_a_buffer_is_not_written_before_its_copy_is_done(path: Path) -> None:
    """With copies that happen only when they are waited for, one buffer serves all pieces."""
    transfer = LateTransfer()
    transfer.hand_over = lambda place: None  # type: ignore[method-assign]
    file = staged(path, transfer=transfer, piece_bytes=100, buffers=2)
    file.expect(list(STATE))
    made = {name: file.read(name) for name in STATE}
    file.close()  # waits for what is under way
    assert transfer.waits > 30
    assert all(same(made[name], STATE[name]) for name in STATE)


def test_any_order_of_reading(path: Path) -> None:
    order = random.Random(3)
    for _ in range(20):
        file = staged(path, piece_bytes=256, buffers=3)
        names = order.choices(list(STATE), k=12)
        file.expect(order.sample(names, k=8))
        assert all(same(file.read(name), STATE[name]) for name in names)
        file.close()


def test_what_is_told_is_read_once_and_ahead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    whole = os.preadv

    def preadv(handle: int, buffers: list[Any], offset: int) -> int:
        count = whole(handle, buffers, offset)
        read.append((offset, count))
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    file = staged(path, piece_bytes=500, buffers=4)
    file.expect(list(STATE))
    file.read("a.weight")
    file.close()
    assert max(offset for offset, _ in read) > safetensors_spans(path)["a.weight"].start
    read.clear()
    file = staged(path, piece_bytes=500, buffers=4)
    file.expect(list(STATE))
    for name in STATE:
        file.read(name)
    file.close()
    assert sum(count for _, count in read) == sum(t.nbytes for t in STATE.values())


def test_a_file_that_has_become_shorter_is_told(path: Path) -> None:
    file = staged(path, piece_bytes=100, buffers=2)
    last = max(STATE, key=lambda name: safetensors_spans(path)[name].start)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=f"truncated in {last}"):
        file.read(last)
    assert same(file.read("scalar"), STATE["scalar"])  # what is there can still be read
    file.close()


def test_a_disk_that_fails_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def preadv(*_: object) -> int:
        raise OSError(5, "Input/output error")

    file = staged(path)
    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(CheckpointError, match=r"b cannot be read: Input/output error"):
        file.read("b")
    file.close()
    with pytest.raises(CheckpointError, match="No such file"):
        StagedFile(path.with_name("none"), {}, device="cpu")


@pytest.mark.long
def test_the_host_holds_no_more_than_the_ring(tmp_path: Path) -> None:
    """400 MB to a device that takes no memory, measured by the process itself."""
    path = write_sparse(tmp_path / "large.safetensors", {f"t{k}": (1 << 20, 25) for k in range(8)})
    code = """
import sys
from pathlib import Path
from seedvr2_core.weights.staging.ring import StagedFile
from seedvr2_core.weights.staging.spans import safetensors_spans
from tests.kits.hosts.memory import forget_peak, peak_kib
path = Path(sys.argv[1])
spans = safetensors_spans(path)
file = StagedFile(path, spans, device="meta", piece_bytes=1 << 20, buffers=8)
file.expect(list(spans))
file.read("t0")
forget_peak()
before = peak_kib()
total = sum(file.read(name).nbytes for name in list(spans)[1:])
print(total, 1024 * (peak_kib() - before))
file.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    total, more = map(int, done.stdout.split())
    assert total == 7 * 50 * (1 << 20)
    assert more < 16 << 20


def _torch_file(path: Path, state: Mapping[str, Tensor]) -> Path:
    torch.save({"state_dict": dict(state)}, path)
    return path


def _old_torch_file(path: Path, state: Mapping[str, Tensor]) -> Path:
    torch.save(dict(state), path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("write", [write_safetensors, _torch_file, _old_torch_file])
def test_a_staged_reader_gives_what_it_gave_before(
    tmp_path: Path, write: Callable[[Path, Mapping[str, Tensor]], Path]
) -> None:
    wide = torch.randn(40, 30)
    state = {**tensors("dit-7b"), "part": wide[3:9], "turned": wide.t()}
    path = write(tmp_path / "weights", state)
    plain, reader = open_reader(path), open_reader(path)
    reader.stage("cpu")
    names = list(plain.tensors)
    reader.expect(names)
    assert all(same(reader.read(name), plain.read(name)) for name in names)  # type: ignore[arg-type]
    places = getattr(reader, "_places", {})
    if write is _torch_file:
        assert set(names) - set(places) == {"turned"}, "all others come through the ring"
    reader.close()
    plain.close()
