"""The tiny engines: the production graph with few channels, for tests."""

import pytest

from seedvr2_core.engines.seedvr2.tiny import open_session
from seedvr2_core.errors import PlanError
from tests.kits.restorer import latents, make_frames, make_plan, pictures, run_shot, whole


@pytest.mark.parametrize("name", ["tiny", "tiny-3b"])
def test_the_tiny_engines(name: str) -> None:
    plan = make_plan(9, name=name)
    session = open_session(plan, device="cpu", beat=lambda *_: None)
    result = run_shot(session, plan, make_frames(plan), [whole(plan)])[0]
    assert latents([result]).abs().max() < 100
    assert 10 < pictures([result]).std() < 80
    assert result.commit.precision == "float32 vae, float32 dit"
    session.close()
    with pytest.raises(AssertionError, match="closed"):
        session.begin(iter(()), shot=plan.shots[0], piece=whole(plan))


def test_the_tiny_opener_refuses_other_engines() -> None:
    with pytest.raises(PlanError, match="seedvr2-7b"):
        open_session(make_plan(9, name="seedvr2-7b"), device="cpu", beat=lambda *_: None)
