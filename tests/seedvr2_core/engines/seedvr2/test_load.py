"""Loading a model: signs of life by the bytes that are read."""

import dataclasses
import itertools
from pathlib import Path

from seedvr2_core.engines.seedvr2.load import LOAD, open_session
from tests.kits.restorer import make_plan
from tests.kits.selfcheck import MODEL, small_world, write_weights


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
