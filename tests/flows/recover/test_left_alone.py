"""Runs that `recover` leaves alone: they are alive, have ended, or only have to be waited for."""

import itertools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
    Scheduled,
)

from flows.recover import REPORT_KEY, recover
from seedvr2_core.errors import InvalidRequestError
from tasks.recovery import watch
from tasks.recovery.states import MARK
from tasks.run.appointments import LABEL_RECOVERIES
from tasks.settings import Settings, use_settings
from tests.kits.lost_runs import LostRun, artifact_data, eta, recovered


def test_a_slow_run_that_beats_is_left_alone_and_seen_again_at_its_new_eta(
    settings: Settings, job: LostRun
) -> None:
    use_settings(settings.model_copy(update={"recover_margin_seconds": 50.0}))
    states = len(job.client.read_flow_run_states(job.id))
    assert recovered(job.beat(percent=1)) == "alive: Running"
    (look,) = job.looks()
    assert 40 < eta(look) < 60 + 99 * 30
    assert len(job.client.read_flow_run_states(job.id)) == states


@pytest.mark.soak
def test_a_silent_run_that_beats_while_it_is_watched_is_alive(
    job: LostRun, at_second_look: Callable[[Callable[[], object]], None]
) -> None:
    job.beat(age=10)
    at_second_look(lambda: job.beat(age=9))
    assert recovered(job) == "alive: Running; it beats"
    assert job.state.startswith("Running")
    assert job.looks()


def test_a_crashed_run_that_beats_is_running_again(
    job: LostRun, at_second_look: Callable[[Callable[[], object]], None]
) -> None:
    """Its machine is well: the server was away and missed its heartbeats."""
    job.beat(age=10).becomes(Crashed(message="no heartbeat"))
    at_second_look(job.beat)
    assert recovered(job) == "alive: Crashed; it beats"
    assert job.state.startswith(f"Running: {MARK}it beats")
    assert "no heartbeat" in job.state
    assert LABEL_RECOVERIES not in job.run.labels
    assert str(job.looks()[-1].idempotency_key).startswith(f"recover:{job.id}:2:")


def test_a_run_whose_process_renews_its_record_while_it_is_watched_is_alive(
    settings: Settings, job: LostRun, at_second_look: Callable[[Callable[[], object]], None]
) -> None:
    use_settings(settings.model_copy(update={"recover_silent_seconds": 0.01}))
    job.beat(alive_every="10.0")
    time.sleep(0.1)
    at_second_look(lambda: job.beat(alive_every="10.0"))
    assert recovered(job) == "alive: Running; it beats"
    assert job.state.startswith("Running")


@pytest.mark.long
def test_a_server_that_is_slow_to_write_proves_nothing(
    settings: Settings,
    job: LostRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run's process could not write either; once the server is quick, it shows its sign."""
    use_settings(settings.model_copy(update={"recover_silent_seconds": 0.01}))
    monkeypatch.setattr(watch, "_SLOW_SECONDS", 0.5)
    monkeypatch.setattr(watch, "_WRITE_SECONDS", 0.0)
    job.beat(alive_every="10.0")
    time.sleep(0.1)
    real, writes = watch._say_until, itertools.count(1)

    def say_until(seconds: float) -> None:
        number = next(writes)
        if number < 3:
            time.sleep(0.6)
        if number == 3:
            job.beat(alive_every="10.0")
        real(seconds)

    monkeypatch.setattr(watch, "_say_until", say_until)
    assert recovered(job) == "alive: Running; it beats"
    assert next(writes) == 4


@pytest.mark.soak
def test_the_beat_of_an_earlier_attempt_is_none_of_this_one(job: LostRun) -> None:
    job.beat(age=1000).becomes(Crashed(), Scheduled(), Pending(), Running())
    assert recovered(job) == "alive: Running"


@pytest.mark.soak
@pytest.mark.parametrize("end", [Completed(), Failed(name="TimedOut"), Cancelled()], ids=str)
def test_a_run_that_has_ended_is_left_as_it_is(job: LostRun, end: State) -> None:
    job.beat(age=1000).becomes(end)
    assert recovered(job) == f"ended: {end.name}"
    assert job.run.state_name == end.name
    assert not job.looks()


@pytest.mark.soak
def test_what_somebody_cancels_is_not_brought_back(settings: Settings, job: LostRun) -> None:
    use_settings(settings.model_copy(update={"recover_margin_seconds": 3600.0}))
    job.beat(age=1000).becomes(Cancelling(message="I changed my mind"))
    assert recovered(job) == "waiting: Cancelling"
    assert job.state == "Cancelling: I changed my mind"


def test_a_run_that_its_worker_does_not_start_at_once_is_waited_for(job: LostRun) -> None:
    job.becomes(AwaitingRetry(scheduled_time=datetime.now(UTC)), Pending())
    assert recovered(job) == "waiting: Pending"


@pytest.mark.soak
def test_the_report_is_an_artifact(client: SyncPrefectClient, job: LostRun) -> None:
    state = recover(job.id, return_state=True)
    assert state.state_details.flow_run_id is not None
    (table,) = artifact_data(client, state.state_details.flow_run_id, REPORT_KEY)
    (row,) = json.loads(table)
    assert (row["run_id"], row["verdict"], row["state"]) == (str(job.id), "alive", "Running")


def test_recover_of_nothing_says_so(in_api: None) -> None:
    with pytest.raises(InvalidRequestError, match="no flow run has the id"):
        recover(uuid4())
