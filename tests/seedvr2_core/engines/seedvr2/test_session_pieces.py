"""Pieces that do not begin and end at windows are refused before anything is restored."""

import dataclasses
from collections.abc import Callable

import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.planning.plan import Piece, Plan
from tests.kits.restorer import make_plan, open_tiny, whole

pytestmark = pytest.mark.usefixtures("either_path")


def _other_shot(plan: Plan) -> Piece:
    return dataclasses.replace(whole(plan), shot=3)


def _inside(plan: Plan) -> Piece:
    return Piece(shot=0, start=0, stop=30)


def _cut_end(plan: Plan) -> Piece:
    return Piece(shot=0, start=0, stop=60)


@pytest.mark.parametrize("piece", [_other_shot, _inside, _cut_end])
def test_pieces_that_are_no_windows_are_refused(piece: Callable[[Plan], Piece]) -> None:
    plan = make_plan(61)
    session, shot = open_tiny(plan), plan.shots[0]
    state = session.begin(iter(()), shot=shot, piece=whole(plan))
    with pytest.raises(PlanError):
        session.reads(shot, [piece(plan)])
    with pytest.raises(PlanError):
        session.begin(iter(()), shot=shot, piece=piece(plan))
    with pytest.raises(PlanError):
        session.restore(iter(()), shot=shot, piece=piece(plan), state=state)
