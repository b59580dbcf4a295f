"""Values that are not finite: found, named, and redone with a bfloat16 VAE.

All in real float16 and bfloat16 arithmetic of the CPU, on tiny networks.
"""

from collections.abc import Iterator

import pytest
import torch

from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.shot import LatentState
from seedvr2_core.errors import NumericalError, SegmentError
from seedvr2_core.planning.plan import Plan
from tests.kits.restorer import (
    BuildVAE,
    Result,
    faulty,
    latents,
    make_frames,
    make_pieces,
    make_plan,
    open_tiny,
    pictures,
    run_piece,
    run_shot,
    scaled,
    whole,
)

HALF: dict[str, object] = {"vae_dtype": "float16"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def restore_whole(session: SeedVR2Session, plan: Plan, shot: int = 0) -> Result:
    return run_shot(session, plan, make_frames(plan), [whole(plan, shot)])[0]


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("encoder.conv_in.weight", r"vae-encode: .* shot 1 .* latent 0 \(frame 5\)"),
        ("decoder.conv_in.weight", r"vae-decode: .* shot 1 .* frame 5;"),
    ],
)
def test_overflow_in_float16_is_redone_in_bfloat16(name: str, where: str) -> None:
    plan = make_plan(5, 6, 5, memory=HALF)
    session = open_tiny(plan, build_vae=scaled(name, 1e6))
    assert session.precision == "float16 vae, float32 dit"
    with pytest.raises(NumericalError, match=where):
        restore_whole(session, plan, 1)
    assert session.fall_back()
    assert session.precision == "bfloat16 vae, float32 dit"
    redone = restore_whole(session, plan, 1)
    assert [frame.index for frame in redone.frames] == list(range(5, 11))
    wanted = open_tiny(
        make_plan(5, 6, 5, memory={"vae_dtype": "bfloat16"}), build_vae=scaled(name, 1e6)
    )
    assert (pictures([redone]) == pictures([restore_whole(wanted, plan, 1)])).all()
    with pytest.raises(NumericalError, match="shot 2"):
        restore_whole(session, plan, 2)
    assert session.precision == "float16 vae, float32 dit"


def test_when_bfloat16_fails_too_there_is_no_further_rung() -> None:
    plan = make_plan(6, memory=HALF)
    session = open_tiny(plan, build_vae=scaled("decoder.conv_in.weight", 1e39))
    for falls in (True, False):
        with pytest.raises(NumericalError, match=r"vae-decode: .* shot 0 .* at frame 0;"):
            restore_whole(session, plan)
        assert session.fall_back() == falls


def test_a_latent_beyond_float16_counts_as_not_finite() -> None:
    plan = make_plan(9, memory=HALF)
    session = open_tiny(plan, dit_scale=1e6)
    for falls in (True, False):
        with pytest.raises(NumericalError, match=r"dit: .* shot 0 .* latent 0 \(frame 0\)"):
            restore_whole(session, plan)
        assert session.fall_back() == falls


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_plans_have_one_rung(dtype: str) -> None:
    plan = make_plan(6, memory={"vae_dtype": dtype})
    session = open_tiny(plan, dit_scale=1e39)
    assert not session.fall_back()
    with pytest.raises(NumericalError, match="dit"):
        restore_whole(session, plan)
    assert not session.fall_back()
    assert session.precision == f"{dtype} vae, float32 dit"


def take_up(session: SeedVR2Session, plan: Plan, results: list[Result]) -> LatentState:
    """The state behind the results, from what they committed, as restore.py does it."""
    source, shot = make_frames(plan), plan.shots[0]
    piece = make_pieces(plan)[len(results)]
    needed = session.plan_warm_up(shot, piece)
    return session.warm_up(
        iter(source[needed.first_frame :]),
        latents(results)[needed.first_latent :],
        results[-1].commit.tail,
        shot=shot,
        piece=piece,
    )


@pytest.mark.soak
@pytest.mark.parametrize(
    ("build", "where"),
    [
        pytest.param(faulty(encode=16), r"vae-encode: .* latent 16 \(frame 61\)", id="encode"),
        pytest.param(faulty(decode=15), "vae-decode: .* frame 60", id="decode"),
    ],
)
def test_the_rest_of_a_shot_is_redone_from_its_commits(build: BuildVAE, where: str) -> None:
    """Windows start at latents 0, 6, 12; float16 fails in the second piece or the third."""
    plan = make_plan(77, memory=HALF, window=8, overlap=2)
    source, shot, pieces = make_frames(plan), plan.shots[0], make_pieces(plan)
    assert [piece.start for piece in pieces] == [0, 21, 45]
    session = open_tiny(plan, build_vae=build)
    stale = session.start(shot)
    frames, state, done = iter(source), session.start(shot), list[Result]()

    def run_all() -> None:
        for piece in pieces:
            done.append(run_piece(session, plan, piece, frames, state))

    with pytest.raises(NumericalError, match=where):
        run_all()
    assert len(done) == 2
    assert session.fall_back()
    with pytest.raises(SegmentError, match="float16 cannot go on"):
        session.restore(frames, shot=shot, piece=pieces[0], state=stale)
    state = take_up(session, plan, done)
    assert state.dtype == torch.bfloat16
    rest = run_piece(session, plan, pieces[2], iter(source[state.next_frame :]), state)
    assert [frame.index for frame in rest.frames] == list(range(45, 77))
    assert session.precision.startswith("bfloat16")

    resumed = open_tiny(plan, build_vae=build)
    resumed.adopt_precision(shot, session.precision)
    state = take_up(resumed, plan, done)
    again = run_piece(resumed, plan, pieces[2], iter(source[state.next_frame :]), state)
    assert (pictures([again]) == pictures([rest])).all()


@pytest.mark.soak
def test_what_a_warm_up_drops_is_not_checked() -> None:
    plan = make_plan(77, memory=HALF, window=8, overlap=2)
    source, pieces = make_frames(plan), make_pieces(plan)
    wanted = run_shot(open_tiny(plan), plan, source, pieces)
    session = open_tiny(plan, build_vae=faulty(encode=3, decode=3))
    state = take_up(session, plan, wanted[:2])
    rest = run_piece(session, plan, pieces[2], iter(source[state.next_frame :]), state)
    assert (pictures([rest]) == pictures(wanted[2:])).all()
    with pytest.raises(NumericalError, match="latent 13"):
        take_up(open_tiny(plan, build_vae=faulty(encode=13)), plan, wanted[:2])
