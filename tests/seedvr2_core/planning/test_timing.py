"""Predicted seconds and limits: they grow with the work and never cut off what is only slow."""

import dataclasses
import itertools
import random

import pytest

from seedvr2_core.config import ENGINES
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.planning.plan import Options, Piece, Segment
from seedvr2_core.planning.sizes import BUDGETS_PX, target_size
from seedvr2_core.planning.timing import (
    ENCODE_SECONDS_PER_MPX,
    ENGINE_SECONDS_PER_FRAME,
    ENGINE_SECONDS_PER_MPX,
    LOOKAHEAD,
    WINDOW_SECONDS,
    frame_seconds,
    make_limits,
    progress_limit,
    stall_limit,
)
from tests.kits.factories import make_info, make_options

PRESETS = [*ENCODE_SECONDS_PER_MPX]
"""From the fastest to the slowest."""
EACH_ENGINE = pytest.mark.parametrize("engine", ENGINES)


def options_of(engine: str, **changes: object) -> Options:
    options = make_options(**changes)
    return dataclasses.replace(options, engine=dataclasses.replace(options.engine, name=engine))


def predicted(options: Options, *, width: int = 640, height: int = 360) -> float:
    info = make_info(width, height)
    return frame_seconds(info, *target_size(info, options.resolution), options).seconds


def test_every_engine_and_resolution_has_figures() -> None:
    assert {*ENGINE_SECONDS_PER_MPX, *ENGINE_SECONDS_PER_FRAME} == {*ENGINES}
    assert {*LOOKAHEAD} == {*PRESETS}
    assert WINDOW_SECONDS.keys() == BUDGETS_PX.keys()


@EACH_ENGINE
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_more_work_never_takes_less_time(engine: str, device: str) -> None:
    def seconds(**changes: object) -> float:
        return predicted(options_of(engine, device=device, **changes))

    assert seconds() > 0
    for fast, slow in itertools.pairwise(PRESETS):
        assert seconds(preset=fast) <= seconds(preset=slow)
    for small, large in itertools.pairwise(BUDGETS_PX):
        assert seconds(resolution=small) <= seconds(resolution=large)
    for few, many in itertools.pairwise((1, 2, 8, 64)):
        assert seconds(cpu_count=few) >= seconds(cpu_count=many)
    options = options_of(engine, device=device)
    assert predicted(options, width=320, height=180) <= predicted(options, width=1280, height=720)


@EACH_ENGINE
def test_nothing_is_faster_than_its_encoder(engine: str) -> None:
    for device, preset in itertools.product(("cpu", "cuda:0"), PRESETS):
        options = options_of(engine, device=device, preset=preset, cpu_count=2)
        encode = ENCODE_SECONDS_PER_MPX[preset] * 1280 * 720 / 1e6
        assert predicted(options) >= encode * (1 - 1e-9)


def test_a_job_has_no_limit_but_its_operators() -> None:
    limits = make_limits(make_options(), 1280, 720)
    assert limits.job is None
    assert limits.load >= 600
    assert limits.stall >= 180
    own = make_limits(make_options(stall_seconds=5.0, job_seconds=6.0), 1280, 720)
    assert (own.stall, own.job) == (5.0, 6.0)


@pytest.mark.parametrize("seed", range(10))
def test_work_may_stand_still_for_longer_where_it_is_slow(seed: int) -> None:
    rng = random.Random(seed)
    bounds = [0, *sorted(rng.sample(range(1, 300), rng.randrange(1, 8))), 300]
    pieces = [Piece(shot=0, start=a, stop=b) for a, b in itertools.pairwise(bounds)]
    segments = tuple(
        Segment(index=k, start=p.start, stop=p.stop, pieces=(p,)) for k, p in enumerate(pieces)
    )
    made = build_plan(make_info(), "a", make_options())
    plan = outline_of(dataclasses.replace(made, segments=segments))
    longest = max(piece.stop - piece.start for piece in pieces)
    stall, per_frame = rng.uniform(1, 900), rng.uniform(0.001, 20)
    limit = progress_limit(plan, stall_seconds=stall, per_frame=per_frame)
    assert limit >= 3 * stall
    assert limit >= 5 * longest * per_frame, "a piece that is done once more takes so long"
    assert progress_limit(plan, stall_seconds=stall, per_frame=10 * per_frame) >= limit


@pytest.mark.parametrize("resolution", BUDGETS_PX)
def test_a_longer_window_may_be_silent_for_longer(resolution: str) -> None:
    limits = [stall_limit(resolution, batch_size) for batch_size in range(1, 400)]
    assert limits == sorted(limits)
    assert limits[-1] > limits[0]
    assert all(limit == int(limit) for limit in limits)
