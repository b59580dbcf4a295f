"""The longest time until a killed run is scheduled again, summed up from what decides it."""

import yaml

from deployments.deploy.apply import PREFECT_FILE
from tasks.recovery import watch
from tasks.recovery.callbacks import SEND_SECONDS
from tasks.recovery.sweep import _MOST_SECONDS, LOOK_SECONDS, STAND_IN_SECONDS
from tasks.run.record import ALIVE_SECONDS
from tasks.settings import Settings

BACK_SECONDS = 120.0
START_SECONDS = 10.0
"""Until a worker has taken a run of `recover` and its process has begun."""
KILL_SECONDS = 35.0
"""What Prefect's worker may need to end a process that hangs: half a minute until SIGKILL."""


PREFETCH_SECONDS = 10.0
"""How long before its time a worker of Prefect takes a run."""


def test_a_killed_run_is_back_within_two_minutes_wherever_its_worker_is() -> None:
    settings = Settings()
    watched = watch._SIGNS * ALIVE_SECONDS
    longest = (
        settings.recover_silent_seconds
        + LOOK_SECONDS
        + max(START_SECONDS, (1 - watch._WATCHED_SHARE) * watched)
        + watch._WATCHED_SHARE * watched
        + settings.recover_wait_seconds
    )
    assert longest <= BACK_SECONDS
    assert settings.recover_wait_seconds > KILL_SECONDS, "else the worker's Cancelled comes late"
    assert settings.recover_silent_seconds > 2 * ALIVE_SECONDS, "one sign may be late"


def test_a_sweep_lives_until_the_next_begins_and_puts_its_stand_in_off_in_time() -> None:
    deployments = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    (lost_runs,) = [one for one in deployments if one["name"] == "lost-runs"]
    interval = lost_runs["schedules"][0]["interval"]
    assert interval + STAND_IN_SECONDS < _MOST_SECONDS
    longest = STAND_IN_SECONDS / 3 + LOOK_SECONDS + SEND_SECONDS
    assert STAND_IN_SECONDS - longest > PREFETCH_SECONDS, "a worker takes what is due soon"
    assert STAND_IN_SECONDS <= 60, "as soon as when one began every minute"
