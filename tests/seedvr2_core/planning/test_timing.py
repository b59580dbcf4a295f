"""Predicted seconds and limits: they grow with the work and never cut off what is only slow."""

import dataclasses
import itertools
import random

import pytest

from seedvr2_core.config import ENGINES
from seedvr2_core.planning.plan import Options, Segment
from seedvr2_core.planning.sizes import BUDGETS_PX, target_size
from seedvr2_core.planning.timing import (
    ENCODE_SECONDS_PER_MPX,
    ENGINE_SECONDS_PER_FRAME,
    ENGINE_SECONDS_PER_MPX,
    WINDOW_SECONDS,
    make_limits,
    seconds_per_frame,
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
    return seconds_per_frame(info, *target_size(info, options.resolution), options)


def test_every_engine_and_resolution_has_figures() -> None:
    assert {*ENGINE_SECONDS_PER_MPX, *ENGINE_SECONDS_PER_FRAME} == {*ENGINES}
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


@pytest.mark.parametrize("seed", range(30))
def test_limits_leave_room_for_what_is_slow(seed: int) -> None:
    rng = random.Random(seed)
    bounds = [0, *sorted(rng.sample(range(1, 9000), rng.randrange(1, 20)))]
    segments = [
        Segment(index=k, start=a, stop=b, pieces=())
        for k, (a, b) in enumerate(itertools.pairwise(bounds))
    ]
    per_frame = rng.uniform(0.001, 20)
    eta = per_frame * bounds[-1]
    limits = make_limits(segments, per_frame, eta, make_options())
    assert len(limits.segment) == len(segments)
    for segment, limit in zip(segments, limits.segment, strict=True):
        assert limit >= 600
        assert limit > 4 * per_frame * segment.num_frames
    assert limits.job >= 7200
    assert limits.job > 2 * eta
    assert limits.load >= 600
    assert limits.stall >= 180
    own = make_limits(segments, per_frame, eta, make_options(stall_seconds=5.0, job_seconds=6.0))
    assert (own.stall, own.job) == (5.0, 6.0)
    assert (own.segment, own.load) == (limits.segment, limits.load)


@pytest.mark.parametrize("resolution", BUDGETS_PX)
def test_a_longer_window_may_be_silent_for_longer(resolution: str) -> None:
    limits = [stall_limit(resolution, batch_size) for batch_size in range(1, 400)]
    assert limits == sorted(limits)
    assert limits[-1] > limits[0]
    assert all(limit == int(limit) for limit in limits)
