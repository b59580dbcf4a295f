"""A state inside a shot that is made from source frames alone has the bits of one that came there.

The shot has 96 latents in windows of at most 12 with 3 shared. The later windows lie so far behind
that the work begins inside the shot, with five windows that are made again.
"""

import itertools

import numpy as np
import pytest
import torch

from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import Piece, Plan
from tests.kits.restorer import (
    Result,
    differing,
    make_frames,
    make_pieces,
    make_plan,
    open_tiny,
    pictures,
    run_piece,
    state_bits,
)

pytestmark = pytest.mark.long

FRAMES = 381
BEHIND = (4, 9, 10)
"""Windows before which a state is made."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(FRAMES)


@pytest.fixture(scope="module")
def source(plan: Plan) -> list[Frame]:
    return make_frames(plan)


@pytest.fixture(scope="module")
def walk(
    plan: Plan, source: list[Frame]
) -> tuple[list[Piece], list[dict[str, torch.Tensor]], list[Result]]:
    """The shot window by window, the state before each, and what came of each."""
    session, pieces = open_tiny(plan), make_pieces(plan)
    frames = iter(source)
    state = session.begin(frames, shot=plan.shots[0], piece=pieces[0])
    states, results = [], []
    for piece in pieces:
        states.append(state_bits(state))
        results.append(run_piece(session, plan, piece, frames, state))
    return pieces, states, results


@pytest.mark.parametrize("k", BEHIND)
def test_no_bit_differs(
    plan: Plan,
    source: list[Frame],
    walk: tuple[list[Piece], list[dict[str, torch.Tensor]], list[Result]],
    k: int,
) -> None:
    pieces, states, results = walk
    session, shot = open_tiny(plan), plan.shots[0]
    reads = session.reads(shot, [pieces[k]], unaided=True)
    assert not reads.latents, "nothing that others may still be making is asked for"
    begun = session.reads(shot, [pieces[k]])
    assert reads.frames.start <= begun.frames.start
    assert (reads.frames.start > 0) == (k >= 9), "far behind, it begins inside the shot"
    frames = iter(source[reads.frames.start : reads.frames.stop])
    state = session.begin(frames, shot=shot, piece=pieces[k], unaided=True)
    assert state.frames[0].index >= pieces[k].start, "frames that are not given out are let go"
    assert not differing(state_bits(state), states[k])
    result = run_piece(session, plan, pieces[k], frames, state)
    assert np.array_equal(pictures([result]), pictures(results[k : k + 1]))
    wanted = results[k].commit
    assert torch.equal(result.commit.latents, wanted.latents)  # type: ignore[arg-type]
    assert (result.commit.tail is None) == (wanted.tail is None)
    assert wanted.tail is None or torch.equal(result.commit.tail, wanted.tail)  # type: ignore[arg-type]
    assert next(frames, None) is None


def test_one_window_less_shows(
    plan: Plan,
    source: list[Frame],
    walk: tuple[list[Piece], list[dict[str, torch.Tensor]], list[Result]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The work begins at the last window that it may begin at: with one less, bits are others.

    Before window 10 the decoder's first slice begins inside the overlap with the window before, of
    which nothing is left in the state.
    """
    pieces, states, _ = walk
    shown = []
    for k in (9, 10):
        session = open_tiny(plan)
        encode_from, windows = session._unaided_start(
            grid := session._grid(plan.shots[0]), grid.span(pieces[k])
        )
        later = (encode_from, range(windows.start + 1, windows.stop))
        monkeypatch.setattr(session, "_unaided_start", lambda *_, later=later: later)
        reads = session.reads(plan.shots[0], [pieces[k]], unaided=True)
        frames = itertools.islice(source, reads.frames.start, reads.frames.stop)
        try:
            state = session.begin(frames, shot=plan.shots[0], piece=pieces[k], unaided=True)
            shown.append(bool(differing(state_bits(state), states[k])))
        except (SegmentError, AssertionError):
            shown.append(True)
    assert shown == [True, True]
