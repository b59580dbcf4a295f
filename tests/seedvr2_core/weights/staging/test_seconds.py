"""Loading is predicted from bytes, and the plan's time contains it."""

from pathlib import Path

import pytest

from seedvr2_core.config import DIT_7B
from seedvr2_core.dit.memory import weight_bytes
from seedvr2_core.weights import examine
from seedvr2_core.weights.staging import seconds
from seedvr2_core.weights.staging.ring import THREADS
from tests.kits.weights import file_bytes, tiny_catalog


def test_the_7b_is_predicted_below_ten_seconds() -> None:
    size = weight_bytes(DIT_7B)
    assert 16e9 < size < 17e9
    assert seconds.folded_seconds(size, warm=False) < 10
    assert seconds.folded_seconds(size, warm=True) < 3
    assert seconds.read_seconds(size, warm=False) < 10
    # The first start of all: one thread hashes, since the job's key needs the digest.
    assert 10 < seconds.first_seconds(size) < 15
    assert seconds.PAGE_CACHE <= THREADS * 2e9


def test_folded_weights_that_are_kept_are_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seconds, "DISK", 1e6)
    files = [tmp_path / f"{part}.safetensors" for part in ("dit-7b", "vae", "pos_emb")]
    for path in files:
        path.write_bytes(file_bytes(path.stem))
    sizes = [path.stat().st_size for path in files]
    assert seconds.load_seconds(files) == pytest.approx(sum(sizes) / 1e6)
    digest = examine(files[0], catalog=tiny_catalog()).sha256
    assert digest is not None
    folded = tmp_path / "folded" / f"{digest[:16]}-v1-bfloat16-abc.safetensors"
    folded.parent.mkdir()
    folded.write_bytes(bytes(sizes[0] // 2))
    assert seconds.load_seconds(files) == pytest.approx((sizes[0] // 2 + sizes[1] + sizes[2]) / 1e6)
