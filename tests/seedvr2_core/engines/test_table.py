"""What a plan has to know of an engine's weights."""

from pathlib import Path

import pytest
import torch

from seedvr2_core.engines import known_weights
from seedvr2_core.engines.table import EngineWeights
from seedvr2_core.weights import folder as weights_folder
from seedvr2_core.weights.table import FIRST_3B, UNTRACED_3B
from tests.kits.weights import file_bytes, tensors, tiny_layouts, with_first_3b, write_safetensors


@pytest.fixture
def weights_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small weights, where the 3B's file is one that its publisher has replaced."""
    catalog = with_first_3b()
    for function in (
        weights_folder.find_model,
        weights_folder.find_weights,
        weights_folder.scan_weights,
        weights_folder.examine,
    ):
        monkeypatch.setitem(function.__kwdefaults__, "catalog", catalog)
    for part in ("dit-3b", "vae", "pos_emb"):
        (tmp_path / f"{part}.safetensors").write_bytes(file_bytes(part))
    return tmp_path


def test_engines_without_a_folder_have_a_digest_alone(tmp_path: Path) -> None:
    assert known_weights("lanczos", tmp_path) == EngineWeights()
    for packaged in ("span", "waifu2x"):
        found = known_weights(packaged)
        assert found.digest
        assert found.load_seconds == 0
        assert not found.notes
    assert known_weights("span").digest != known_weights("waifu2x").digest


def test_replaced_weights_are_named_to_the_user(weights_dir: Path) -> None:
    found = known_weights("seedvr2-3b", weights_dir, "dit-3b.safetensors")
    assert found.notes == (f"weights: dit-3b.safetensors, {FIRST_3B}",)
    assert found.quantized is None


def test_a_named_file_is_told(weights_dir: Path) -> None:
    """What the option does is seen in plan and result."""
    write_safetensors(weights_dir / "mine", tensors("dit-7b", torch.bfloat16))
    found = known_weights("seedvr2-7b", weights_dir, "mine")
    assert found.notes == ("weights: mine, which the request names",)
    assert known_weights("seedvr2-7b", weights_dir).notes == ()
    assert known_weights("seedvr2-7b", weights_dir).load_seconds > 0


def test_quantised_weights_are_counted_and_told(weights_dir: Path) -> None:
    state = tensors("dit-3b", torch.float8_e4m3fn)
    path = write_safetensors(weights_dir / "small.safetensors", state)
    found = known_weights("seedvr2-3b", weights_dir)
    assert found.quantized is not None
    values, num_bytes = (sum(column) for column in zip(*found.quantized.layers, strict=True))
    assert values < num_bytes < 1.2 * values
    assert found.notes == (
        f"weights: small.safetensors, {UNTRACED_3B}",
        "weights: small.safetensors stays F8_E4M3 in memory",
    )
    assert found.digest != known_weights("seedvr2-3b", weights_dir, "dit-3b.safetensors").digest
    assert path.is_file()
    assert tiny_layouts()
