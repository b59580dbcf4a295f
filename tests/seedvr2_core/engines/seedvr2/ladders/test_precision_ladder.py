"""Values that are not finite: found, named, and redone with a bfloat16 VAE.

All in real float16 and bfloat16 arithmetic of the CPU, on tiny networks.
"""

import dataclasses

import pytest
import torch

from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.errors import NumericalError, SegmentError
from seedvr2_core.planning.plan import Plan
from tests.kits.restorer import (
    BuildVAE,
    Result,
    begin_behind,
    faulty,
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
LOWERED = "bfloat16 vae, float32 dit"


def restore_whole(session: SeedVR2Session, plan: Plan, shot: int = 0) -> Result:
    return run_shot(session, plan, make_frames(plan), [whole(plan, shot)])[0]


def vae_dtype(session: SeedVR2Session, plan: Plan, shot: int) -> torch.dtype:
    """What the VAE would compute a shot in that begins now."""
    piece = whole(plan, shot)
    return session.begin(iter(()), shot=plan.shots[shot], piece=piece).dtype


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("encoder.conv_in.weight", r"phase encode \(float16\): .* shot 1 .* latent 0 \(frame 5\)"),
        ("decoder.conv_in.weight", r"phase decode \(float16\): .* shot 1 .* frame 5;"),
    ],
)
def test_overflow_in_float16_is_redone_in_bfloat16(name: str, where: str) -> None:
    plan = make_plan(5, 6, 5, memory=HALF)
    session = open_tiny(plan, build_vae=scaled(name, 1e6))
    assert vae_dtype(session, plan, 1) == torch.float16
    with pytest.raises(NumericalError, match=where):
        restore_whole(session, plan, 1)
    assert session.step_down() == LOWERED
    redone = restore_whole(session, plan, 1)
    assert redone.commit.precision == LOWERED
    assert [frame.index for frame in redone.frames] == list(range(5, 11))
    wanted = open_tiny(
        make_plan(5, 6, 5, memory={"vae_dtype": "bfloat16"}), build_vae=scaled(name, 1e6)
    )
    assert (pictures([redone]) == pictures([restore_whole(wanted, plan, 1)])).all()
    with pytest.raises(NumericalError, match="shot 2"):
        restore_whole(session, plan, 2)
    assert vae_dtype(session, plan, 2) == torch.float16


def test_when_bfloat16_fails_too_there_is_no_further_rung() -> None:
    plan = make_plan(6, memory=HALF)
    session = open_tiny(plan, build_vae=scaled("decoder.conv_in.weight", 1e39))
    for words in (LOWERED, ""):
        with pytest.raises(NumericalError, match=r"phase decode .* shot 0 .* at frame 0;"):
            restore_whole(session, plan)
        assert session.step_down() == words


def test_a_latent_beyond_float16_counts_as_not_finite() -> None:
    plan = make_plan(9, memory=HALF)
    session = open_tiny(plan, dit_scale=1e6)
    for words in (LOWERED, ""):
        with pytest.raises(
            NumericalError, match=r"phase dit \(float32\): .* shot 0 .* latent 0 \(frame 0\)"
        ):
            restore_whole(session, plan)
        assert session.step_down() == words


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_plans_have_one_rung(dtype: str) -> None:
    plan = make_plan(6, memory={"vae_dtype": dtype})
    session = open_tiny(plan, dit_scale=1e39)
    assert session.step_down() == ""
    with pytest.raises(NumericalError, match="dit"):
        restore_whole(session, plan)
    assert session.step_down() == ""
    healthy = restore_whole(open_tiny(plan), plan)
    assert healthy.commit.precision == f"{dtype} vae, float32 dit"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("build", "where"),
    [
        pytest.param(
            faulty(encode=16), r"phase encode \(float16\): .* latent 16 \(frame 61\)", id="encode"
        ),
        pytest.param(faulty(decode=15), r"phase decode \(float16\): .* frame 60", id="decode"),
    ],
)
def test_the_rest_of_a_shot_is_redone_from_its_commits(build: BuildVAE, where: str) -> None:
    """Windows start at latents 0, 6, 12; float16 fails in the second piece or the third."""
    plan = make_plan(77, memory=HALF, window=8, overlap=2)
    source, shot, pieces = make_frames(plan), plan.shots[0], make_pieces(plan)
    assert [piece.start for piece in pieces] == [0, 21, 45]
    session = open_tiny(plan, build_vae=build)
    frames, done = iter(source), list[Result]()
    stale, state = (session.begin(frames, shot=shot, piece=pieces[0]) for _ in range(2))

    def run_all() -> None:
        for piece in pieces:
            done.append(run_piece(session, plan, piece, frames, state))

    with pytest.raises(NumericalError, match=where):
        run_all()
    assert len(done) == 2
    assert session.step_down() == LOWERED
    with pytest.raises(SegmentError, match="float16 cannot go on"):
        session.restore(frames, shot=shot, piece=pieces[0], state=stale)
    state, frames = begin_behind(session, plan, source, pieces[2], done)
    assert state.dtype == torch.bfloat16
    rest = run_piece(session, plan, pieces[2], frames, state)
    assert [frame.index for frame in rest.frames] == list(range(45, 77))
    assert rest.commit.precision == LOWERED

    resumed = open_tiny(plan, build_vae=build)
    lowered = dataclasses.replace(done[1].commit, precision=LOWERED)
    earlier = [done[0], dataclasses.replace(done[1], commit=lowered)]
    state, frames = begin_behind(resumed, plan, source, pieces[2], earlier)
    assert state.dtype == torch.bfloat16
    again = run_piece(resumed, plan, pieces[2], frames, state)
    assert (pictures([again]) == pictures([rest])).all()


@pytest.mark.soak
def test_what_a_warm_up_drops_is_not_checked() -> None:
    plan = make_plan(77, memory=HALF, window=8, overlap=2)
    source, pieces = make_frames(plan), make_pieces(plan)
    wanted = run_shot(open_tiny(plan), plan, source, pieces)
    session = open_tiny(plan, build_vae=faulty(encode=3, decode=3))
    state, frames = begin_behind(session, plan, source, pieces[2], wanted[:2])
    rest = run_piece(session, plan, pieces[2], frames, state)
    assert (pictures([rest]) == pictures(wanted[2:])).all()
    faulty_later = open_tiny(plan, build_vae=faulty(encode=13))
    with pytest.raises(NumericalError, match="latent 13"):
        begin_behind(faulty_later, plan, source, pieces[2], wanted[:2])
