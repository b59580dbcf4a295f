"""What takes too much time or money is refused with numbers; what was accepted once goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from pydantic import ValidationError

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tasks.estimate import _write_or_obey
from tasks.job.cost import excess, price_of, refuse_excess
from tasks.settings import Settings
from tests.kits.factories import make_info, make_options

DAY = 86400.0


def test_a_month_is_the_most_that_is_accepted_unless_said_otherwise() -> None:
    assert excess(30 * DAY, 10**6, Settings()) == ""
    told = excess(169 * DAY, 50 * 10**6, Settings())
    assert "50000000 frames is expected to take 14601600 s (4056.0 hours)" in told
    assert "at most 2.592e+06 s" not in told
    assert "at most 2592000 s are accepted here (SEEDVR2_MAX_ETA_SECONDS)" in told
    assert excess(169 * DAY, 50 * 10**6, Settings(max_eta_seconds=200 * DAY)) == ""


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (2.5, ""),
        (2.6, "expected to cost 10.40 (2.6 hours at 4); at most 10 is accepted"),
        (0.0, ""),
    ],
)
def test_the_price_is_time_by_what_an_hour_costs(hours: float, told: str) -> None:
    settings = Settings(hour_price=4.0, max_price=10.0)
    assert price_of(hours * 3600, settings) == pytest.approx(4 * hours)
    found = excess(hours * 3600, 75, settings)
    assert told in found
    assert bool(found) == bool(told)
    if told:
        with pytest.raises(InvalidRequestError, match="SEEDVR2_MAX_PRICE"):
            refuse_excess(hours * 3600, 75, settings)


def test_no_price_of_an_hour_no_price_of_a_job() -> None:
    assert price_of(3600.0, Settings()) is None
    with pytest.raises(ValidationError, match="needs SEEDVR2_HOUR_PRICE"):
        Settings(max_price=10.0)


def test_a_new_job_is_refused_before_its_folder_says_anything_and_an_old_one_goes_on(
    tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    job_dir = JobDir(tmp_path / "job")
    plan = build_plan(make_info(), "ab" * 32, make_options(), cuts=())
    made = tmp_path / "plan.json"

    def planned(*, fresh: bool) -> PlanOutline:
        return _write_or_obey(made, write_plan(made, plan), job_dir, fresh=fresh)

    with disable_run_logger():
        settings_with(max_eta_seconds=plan.eta_seconds / 2)
        with pytest.raises(InvalidRequestError, match="SEEDVR2_MAX_ETA_SECONDS"):
            planned(fresh=False)
        assert not job_dir.plan_path.exists()
        settings_with(max_eta_seconds=plan.eta_seconds)
        planned(fresh=False)
        settings_with(max_eta_seconds=plan.eta_seconds / 2)
        for fresh in (False, True):
            assert planned(fresh=fresh) == outline_of(plan)
