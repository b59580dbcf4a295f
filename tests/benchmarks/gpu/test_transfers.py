"""What moves between host and device: the check that a GPU session runs, on a CPU as far as it
goes."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import transfers
from benchmarks.gpu.report import LineReport
from seedvr2_core.vae import store


def _run(path: Path, device: str) -> tuple[int, list[dict[str, object]]]:
    with LineReport(path, began=time.perf_counter(), seconds=60) as report:
        with report.part("transfers"):
            transfers.run(report, torch.device(device))
        code = report.exit_code
    return code, [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_everything_arrives_as_it_left(tmp_path: Path, device: str) -> None:
    code, lines = _run(tmp_path / "out.jsonl", device)
    names = [line["name"] for line in lines]
    assert code == 0, lines
    assert all(line["same_bits"] for line in lines if line["name"] != "done")
    assert [names.count(name) for name in ("caches, encode", "caches, decode")] == [6, 6]
    assert [names.count(name) for name in ("parked", "layers", "pictures")] == [2, 2, 2]
    if device != "cpu":
        rounded = [line["rounded"] for line in lines if line["name"] == "parked"]
        assert all(isinstance(share, float) and 1 <= share < 1.05 for share in rounded)


@pytest.mark.long
@pytest.mark.slow
def test_a_cache_that_comes_too_late_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a layer gets is then what the block held before."""

    def forget(self: store._Lane, host: torch.Tensor, *, after: object) -> None:
        self._view = self._like(host).zero_()

    monkeypatch.setattr(store._Lane, "move_to_device", forget)
    code, lines = _run(tmp_path / "out.jsonl", "cpu")
    assert code == 1
    caches = [line for line in lines if str(line["name"]).startswith("caches")]
    # Those that go straight pass through no block.
    assert all(line["same_bits"] == (line["block_bytes"] == 0) for line in caches)
