"""The longest time until a killed run is scheduled again, summed up from what decides it."""

import yaml

from deployments.deploy.apply import PREFECT_FILE
from flows.recover import SWEEP_LOOK_SECONDS, SWEEP_LOOKS
from tasks.recovery import watch
from tasks.run.record import ALIVE_SECONDS
from tasks.settings import Settings

BACK_SECONDS = 120.0
START_SECONDS = 10.0
"""Until a worker has taken a run of `recover` and its process has begun."""
KILL_SECONDS = 35.0
"""What Prefect's worker may need to end a process that hangs: half a minute until SIGKILL."""


def test_a_killed_run_is_back_within_two_minutes_wherever_its_worker_is() -> None:
    settings = Settings()
    watched = watch._SIGNS * ALIVE_SECONDS
    longest = (
        settings.recover_silent_seconds
        + SWEEP_LOOK_SECONDS
        + max(START_SECONDS, (1 - watch._WATCHED_SHARE) * watched)
        + watch._WATCHED_SHARE * watched
        + settings.recover_wait_seconds
    )
    assert longest <= BACK_SECONDS
    assert settings.recover_wait_seconds > KILL_SECONDS, "else the worker's Cancelled comes late"
    assert settings.recover_silent_seconds > 2 * ALIVE_SECONDS, "one sign may be late"


def test_one_sweep_follows_the_other_without_a_gap() -> None:
    deployments = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    (sweep,) = [one for one in deployments if one["name"] == "lost-runs"]
    assert sweep["schedules"][0]["interval"] == SWEEP_LOOKS * SWEEP_LOOK_SECONDS
