"""The engine that takes its time: pictures of the right size, 50 ms asked for each."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest

from seedvr2_core.config import find_engine
from seedvr2_core.engines import sleep
from seedvr2_core.frames import Frame
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Piece
from seedvr2_core.planning.timing import frame_seconds
from tests.kits.factories import make_info, make_options


def test_frames_are_enlarged_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    # The engine's own name, not the module's function: other threads of this process sleep too.
    clock = SimpleNamespace(sleep=asked.append, monotonic=time.monotonic)
    monkeypatch.setattr(sleep, "time", clock)
    plan = build_plan(make_info(4, 2, pts=(0, 1, 2)), "a", make_options())
    session = sleep.open_session(plan, device="cpu", beat=lambda *_: None)
    source = [Frame(np.full((2, 4, 3), 40 * i, np.uint8), i, i) for i in range(3)]
    source[1].rgb[1, 3] = 7
    shot, piece = plan.shots[0], Piece(shot=0, start=0, stop=3)
    frames = iter(source)
    state = session.begin(frames, shot=shot, piece=piece)
    made = list(session.restore(frames, shot=shot, piece=piece, state=state))
    assert {frame.rgb.shape for frame in made} == {(plan.height, plan.width, 3)}
    assert (made[1].rgb[-1, -1] == 7).all()
    assert (made[1].rgb[0, 0] == 40).all()
    assert len(asked) == 3
    assert all(0 <= seconds <= sleep.FRAME_SECONDS for seconds in asked)


def test_it_is_for_tests_and_its_time_is_planned() -> None:
    spec = find_engine("sleep")
    assert spec.test_only
    assert not spec.has_latents
    options = make_options()
    engine = dataclasses.replace(options.engine, name="sleep")
    info = make_info()
    planned = frame_seconds(info, 320, 180, make_options(engine=engine, preset="ultrafast")).seconds
    assert planned == sleep.FRAME_SECONDS
