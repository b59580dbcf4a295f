"""The selfcheck on a pretended GPU: it measures there, and its bits are those of a resumed run."""

from pathlib import Path

import pytest

from seedvr2_core.selfcheck.bench import Clip
from seedvr2_core.selfcheck.report import Clock
from seedvr2_core.selfcheck.run import MIN_LATENTS, CheckSetup, run_selfcheck
from tests.kits.factories import make_info
from tests.kits.gpu.pretended import DEVICE, pretended
from tests.kits.restorer import make_frames, make_plan
from tests.kits.selfcheck import MODEL, small_world, write_weights


@pytest.mark.long
def test_it_loads_restores_and_resumes(tmp_path: Path) -> None:
    frames = tuple(make_frames(make_plan(20)))
    setup = CheckSetup(
        model=MODEL,
        weights_dir=write_weights(tmp_path / "weights"),
        clip=Clip(name="waves", sha256="", video=make_info(16, 16), frames=frames),
        width=16,
        height=24,
        device=str(DEVICE),
        device_kind="H100",
        device_bytes=8_000_000_000,
        checks=("load", "restore", "resume"),
        vae_dtype="float16",
        num_latents=MIN_LATENTS,
        world=small_world(),
    )
    with pretended() as ledger:
        done = run_selfcheck(
            setup, clock=Clock(3600), save=lambda name, _: name, hear=lambda _: None
        )
    assert ledger.faults == []
    told = {check.name: check for check in done.checks}
    assert (told["load"].status, told["resume"].status) == ("ok", "ok")
    assert told["resume"].numbers["differing_frames"] == 0
    assert told["restore"].numbers["peak_allocated_bytes"]["decode"] > 0
