"""What a shared job spends is what its run and all of its helpers have held their devices for."""

from pathlib import Path

from tasks.run.spending import Purse
from tasks.settings import Settings
from tests.tasks.child.test_session import a_job


def test_each_keeps_its_own_and_the_job_has_the_sum(tmp_path: Path) -> None:
    job = a_job(tmp_path, device="cuda:0")
    settings, now = Settings(hour_price=36.0), [100.0]

    def purse(helper: int = 0) -> Purse:
        return Purse(job, settings, clock=lambda: now[0], helper=helper)

    mine, first, second = purse(), purse(1), purse(2)
    for one in (mine, first, second):
        one.hold()
    now[0] += 10
    first.rest()
    now[0] += 5
    second.save()
    assert (first.seconds, second.seconds) == (10, 15)
    mine.save()
    assert (mine.seconds, mine.gpu_seconds) == (40, 40.0)
    assert mine.cost == 0.4
    mine.rest()
    assert purse().seconds == 40, "a later run goes on counting"
    assert purse(1).seconds == 10
