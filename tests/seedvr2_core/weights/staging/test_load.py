"""Loading a model: signs of life by the bytes that are read."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seedvr2_core.dit.fold import load_folded, order_of_reads
from seedvr2_core.engines.seedvr2.load import LOAD, load_models, open_session
from seedvr2_core.vae.model import build_vae
from seedvr2_core.weights.quantized import QuantizedLinear
from seedvr2_core.weights.staging import ring
from seedvr2_core.weights.table import MODEL_PARTS
from tests.kits import quantized as kit
from tests.kits.restorer import make_plan
from tests.kits.selfcheck import MODEL, SMALL_RING, files_of, small_world, write_weights
from tests.kits.weights import tensors, write_safetensors


def test_every_tensor_that_is_read_beats_by_its_bytes(tmp_path: Path) -> None:
    beats: list[tuple[str, int, int]] = []
    folder = write_weights(tmp_path)
    plan = make_plan(9, name=MODEL)
    assert plan.memory is not None
    plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, dit_dtype="float16"))
    session = open_session(
        plan,
        device="cpu",
        beat=lambda *beat: beats.append(beat),
        weights_dir=folder,
        world=small_world(),
    )
    session.close()
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert {phase for phase, _, _ in beats} == {LOAD}
    assert {total for _, _, total in beats} == {size}
    done = [done for _, done, _ in beats]
    assert done == sorted(done)
    assert 0.5 * size < done[-1] <= size
    steps = [after - before for before, after in itertools.pairwise([0, *done])]
    assert len(beats) > 50, "one for each tensor"
    assert max(steps) < size / 4


def test_a_named_bundle_of_quantised_weights_is_loaded_as_it_is(tmp_path: Path) -> None:
    """The file that the plan names, its own text, nothing folded is kept beside it."""
    folder = write_weights(tmp_path)
    (folder / "pos_emb.safetensors").unlink()
    text = tensors("pos_emb", torch.float32)["pos_emb"]
    stored, _ = kit.scaled_fp8(tensors("dit-7b", torch.float32))
    bundle = {**stored, "positive_conditioning": text[None]}
    write_safetensors(folder / "mine.safetensors", bundle)
    plan = dataclasses.replace(make_plan(9, name=MODEL), weights_file="mine.safetensors")
    world = small_world()
    open_session(plan, device="cpu", beat=lambda *_: None, weights_dir=folder, world=world).close()
    models = load_models(
        MODEL_PARTS[MODEL],
        [folder / name for name in ("mine.safetensors", "vae.safetensors", "mine.safetensors")],
        dit_dtype=torch.bfloat16,
        device="cpu",
        world=world,
        keep_folded=True,
    )
    assert sum(isinstance(module, QuantizedLinear) for module in models.dit.modules()) > 20
    assert not (folder / "folded").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_through_the_ring_are_those_that_a_plain_reader_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """In pieces of 4 KB; the transformer also in the order in which it is told to read ahead."""
    monkeypatch.setattr(ring.StagedFile.__init__, "__kwdefaults__", SMALL_RING)
    read: list[str] = []
    whole = ring.StagedFile.expect

    def expect(self: ring.StagedFile, names: Sequence[str]) -> None:
        read.append(f"{len(names)} tensors")
        whole(self, names)

    monkeypatch.setattr(ring.StagedFile, "expect", expect)
    folder = write_weights(tmp_path)
    world, files = small_world(), files_of(folder)
    models = load_models(MODEL_PARTS[MODEL], files, dit_dtype=dtype, device="cpu", world=world)
    config = world.dit_configs[MODEL_PARTS[MODEL][0]]
    text_LX = load_file(files[2])["pos_emb"]
    wanted = load_folded(config, load_file(files[0]), text_LX, dtype=dtype).state_dict()
    got = models.dit.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    vae = models.build_vae(dtype)
    weights = {name: t.float() for name, t in load_file(files[1]).items()}
    plain = build_vae(world.vae_config, weights, dtype=dtype, device="cpu")
    for (name, mine), (_, theirs) in zip(_named(vae), _named(plain), strict=True):
        assert torch.equal(mine, theirs), name
    order = order_of_reads(config, tuple(text_LX.shape))
    # The text (asked for without a word before), transformer and VAE: never another one came.
    assert read == ["1 tensors", f"{len(order)} tensors", f"{len(weights)} tensors"]


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
