"""Weights on their way to a pretended GPU: the same numbers, and nothing is read too early."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seedvr2_core.engines.seedvr2 import load
from seedvr2_core.weights import fold_cache
from seedvr2_core.weights.staging import ring
from tests.kits.gpu.ledger import Ledger
from tests.kits.gpu.pretended import pretended
from tests.kits.selfcheck import (
    MODEL,
    SMALL_RING,
    files_of,
    small_world,
    wait_until_kept,
    write_weights,
)

OWN_STREAM = "weights/fold_cache.py _own_stream wait_stream"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ring.StagedFile.__init__, "__kwdefaults__", SMALL_RING)
    return write_weights(tmp_path / "weights")


def _load(weights: Path, device: str, *, in_host_memory: bool = False) -> dict[str, Tensor]:
    """All weights of transformer and VAE, on the host."""
    models = load.load_models(
        small_world().catalog.models[MODEL],
        files_of(weights),
        dit_dtype=torch.bfloat16,
        device=device,
        world=small_world(),
        keep_folded=True,
        in_host_memory=in_host_memory,
    )
    # What an engine does meanwhile.
    state = {f"dit.{name}": x for name, x in models.dit.state_dict().items()}
    state |= {f"vae.{name}": x for name, x in models.build_vae(torch.float16).state_dict().items()}
    assert {x.device.type for x in state.values()} <= {torch.device(device).type, "cpu"}
    wait_until_kept()
    return {name: x.cpu() for name, x in state.items()}


def _loaded_there(
    weights: Path, without: str = "", *, in_host_memory: bool = False
) -> tuple[dict[str, Tensor], Ledger]:
    with pretended(without=without) as ledger:
        state = _load(weights, "cuda:0", in_host_memory=in_host_memory)
    return state, ledger


def test_what_is_loaded_is_there_in_time(weights: Path) -> None:
    folded, ledger = _loaded_there(weights)
    assert ledger.faults == []
    assert len(list((weights / fold_cache.FOLDER).iterdir())) == 1
    kept, ledger = _loaded_there(weights)
    assert ledger.faults == []
    on_host, ledger = _loaded_there(weights, in_host_memory=True)
    assert ledger.faults == []
    wanted = _load(weights, "cpu")
    for state in (folded, kept, on_host):
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.long
def test_every_wait_is_missed_when_it_is_left_out(weights: Path) -> None:
    _, whole = _loaded_there(weights)
    unneeded: set[str] = set()
    for wait in whole.waits:
        for file in (weights / fold_cache.FOLDER).iterdir():
            file.unlink()
        if not _loaded_there(weights, without=wait)[1].faults:
            unneeded.add(wait)
    assert len(whole.waits) == 4
    # Building the VAE, in one of the host's threads, lets the ledger take all of it for done.
    assert unneeded <= {OWN_STREAM}


@pytest.mark.parametrize("without", ["", OWN_STREAM])
def test_what_is_kept_is_calculated_first(tmp_path: Path, without: str) -> None:
    key = fold_cache.FoldedKey(
        checkpoint="0" * 64, text="", timestep=1.0, dtype="", version=1, device_kind=""
    )
    with pretended(without=without) as ledger:
        module = nn.Linear(3, 4, device="cuda:0").requires_grad_(False)
        module.weight.add_(1)
        assert fold_cache.keep_folded(tmp_path, key, module) is not None
    assert bool(ledger.faults) == bool(without)
