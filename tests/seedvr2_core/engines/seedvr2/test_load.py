"""Loading a model: signs of life by the bytes that are read."""

import dataclasses
import itertools
from pathlib import Path

import torch

from seedvr2_core.engines.seedvr2.load import LOAD, load_models, open_session
from seedvr2_core.weights.quantized import QuantizedLinear
from seedvr2_core.weights.table import MODEL_PARTS
from tests.kits import quantized as kit
from tests.kits.restorer import make_plan
from tests.kits.selfcheck import MODEL, small_world, write_weights
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
