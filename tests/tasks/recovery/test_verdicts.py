"""The table of verdicts: who is lost, why, for how long it is watched, who may be re-queued."""

from typing import get_args

import pytest

from tasks.recovery.verdicts import MEANINGS, Verdict


def test_every_verdict_has_a_meaning() -> None:
    assert set(MEANINGS) == set(get_args(Verdict))


@pytest.mark.parametrize("verdict", ["waiting", "alive", "ended"])
def test_these_runs_are_left_alone(verdict: Verdict) -> None:
    assert not MEANINGS[verdict].lost
    assert not MEANINGS[verdict].may_requeue


@pytest.mark.parametrize(
    ("verdict", "may_requeue", "watch", "beat_refutes"),
    [
        ("crashed", True, "sign", True),
        ("gone", True, "sign", False),
        ("silent", True, "stall limit", True),
        ("overdue", False, "wait", False),
        ("stuck", True, "wait", False),
        ("interrupted", True, "wait", False),
        ("abandoned", False, "wait", False),
    ],
)
def test_these_runs_are_lost(
    verdict: Verdict, may_requeue: bool, watch: str, beat_refutes: bool
) -> None:
    meaning = MEANINGS[verdict]
    assert meaning.lost
    assert meaning.why
    assert (meaning.may_requeue, meaning.watch, meaning.beat_refutes) == (
        may_requeue,
        watch,
        beat_refutes,
    )
