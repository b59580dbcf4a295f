"""What checks are made of: two windows with one join, and phases that agree with themselves."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from seedvr2_core.engines.seedvr2.tiny import make_models
from seedvr2_core.planning.windows import first_frame
from seedvr2_core.selfcheck.bench import Bench, Clip, make_plan
from seedvr2_core.selfcheck.report import Clock
from tests.kits.factories import make_info
from tests.kits.restorer import MEMORY, make_frames
from tests.kits.restorer import make_plan as make_source_plan

LATENTS = 12
SIZE = (24, 16)


@pytest.fixture(autouse=True, scope="module")
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def clip() -> Clip:
    frames = tuple(make_frames(make_source_plan(20)))
    return Clip(name="waves", sha256="", video=make_info(16, 16), frames=frames)


def make_bench(clip: Clip, num_latents: int) -> Bench:
    """A bench of the tiny networks in float32, which computes nothing yet."""
    num_frames = first_frame(num_latents)
    plan = make_plan(
        clip.video, model="seedvr2-7b", size=SIZE, device="cpu", threads=1, num_frames=num_frames
    )
    plan = replace(plan, memory=MEMORY)
    models = make_models(replace(plan, engine=replace(plan.engine, name="tiny")), device="cpu")
    frames = clip.stretched(num_frames)
    return Bench(models, plan, frames, clock=Clock(3600), save=lambda *_: "", long_frames=frames)


@pytest.fixture(scope="module")
def bench(clip: Clip) -> Bench:
    return make_bench(clip, LATENTS)


@pytest.mark.parametrize("num_frames", [1, 2, 19, 20, 21, 38, 39, 40, 100])
def test_a_clip_of_any_length_moves_by_one_frame_at_a_time(clip: Clip, num_frames: int) -> None:
    frames = clip.stretched(num_frames)
    place = {id(frame.rgb): i for i, frame in enumerate(clip.frames)}
    played = [place[id(frame.rgb)] for frame in frames]
    assert played[0] == 0
    assert all(abs(a - b) == 1 for a, b in itertools.pairwise(played))
    assert [frame.index for frame in frames] == list(range(num_frames))


@pytest.mark.parametrize("num_latents", [12, 17])
@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_there_are_two_windows_and_one_join(clip: Clip, num_latents: int, overlap: int) -> None:
    first, second = make_bench(clip, num_latents).windows(overlap)
    assert (first.start, second.stop) == (0, num_latents)
    assert first.stop - second.start == overlap
    assert abs(len(first) - len(second)) <= 1


def test_a_clips_beginning_does_not_depend_on_its_end(bench: Bench) -> None:
    """The encoder is causal, so each check may take as many frames as it needs."""
    whole = bench.encode(bench.frames)
    assert whole.mean_ZhwC.shape == whole.std_ZhwC.shape
    assert len(whole.mean_ZhwC) == LATENTS
    assert (whole.std_ZhwC > 0).all()
    for latents in (3, 7):
        part = bench.encode(bench.frames[: first_frame(latents)])
        torch.testing.assert_close(part.mean_ZhwC, whole.mean_ZhwC[:latents])
        torch.testing.assert_close(part.std_ZhwC, whole.std_ZhwC[:latents])


def test_one_window_is_what_no_windows_means(bench: Bench) -> None:
    encoded_ZhwC = bench.baseline().encoded.mean_ZhwC
    single = bench.restore(encoded_ZhwC, [range(LATENTS)])
    assert torch.equal(single, bench.baseline().latents_ZhwC)
    assert single.dtype == torch.float16
    assert not torch.equal(bench.restore(encoded_ZhwC, seed=7), single)
    assert torch.equal(bench.restore(encoded_ZhwC, seed=bench.plan.engine.seed), single)


def test_fresh_latents_act_on_the_last_window_alone(bench: Bench) -> None:
    """Given its own slice, the last window is what it was; given others, only it changes."""
    encoded_ZhwC, windows = bench.baseline().encoded.mean_ZhwC, bench.windows(2)
    joined = bench.restore(encoded_ZhwC, windows)
    last = windows[-1]
    own = encoded_ZhwC[last.start : last.stop]
    assert torch.equal(bench.restore(encoded_ZhwC, windows, fresh_ZhwC=own), joined)
    other = bench.restore(encoded_ZhwC, windows, fresh_ZhwC=own + 1)
    assert torch.equal(other[: last.start], joined[: last.start])
    assert not torch.equal(other[last.start :], joined[last.start :])


@pytest.mark.parametrize("latents", [1, 4])
def test_latents_become_their_frames(bench: Bench, latents: int) -> None:
    base = bench.baseline()
    rendered = bench.render(base.latents_ZhwC[:latents])
    assert len(rendered.raw) == len(rendered.colored) == first_frame(latents)
    for part, whole in zip(rendered.colored, base.rendered.colored, strict=False):
        assert part.shape == (*SIZE, 3)
        assert part.dtype == np.uint8
        assert np.abs(part.astype(int) - whole).max() <= 1


def test_sources_have_the_size_of_the_output(bench: Bench) -> None:
    assert {picture.shape for picture in bench.sources_rgb()} == {(*SIZE, 3)}
    assert bench.pictures(5).shape == (5, 3, *SIZE)
