"""Lost runs: `recover` ends them, and then completes, re-queues or fails them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Crashed,
    Pending,
    Running,
)
from pydantic import SecretStr

from flows.recover import recover
from tasks.recovery import end, output, watch
from tasks.recovery.report import RunReport
from tasks.recovery.states import HEARD_SECONDS, MARK, RECOVERING
from tasks.run.appointments import LABEL_RECOVERIES, appoint
from tasks.run.callbacks.hook import call_back
from tasks.settings import Settings, use_settings
from tasks.stitch import stitch
from tasks.storage.base import Stored
from tasks.storage.local import LocalStorage
from tests.kits.lost_runs import PROSPECT, LostRun, eta, recovered, store
from tests.kits.server import Alerts

pytestmark = pytest.mark.long


def test_a_hung_run_whose_file_is_stored_is_completed(settings: Settings, job: LostRun) -> None:
    store(settings)
    left = job.client.create_task_run(stitch, flow_run_id=job.id, dynamic_key="left")
    job.client.set_task_run_state(left.id, Running(), force=True)
    assert recovered(job.beat(age=10)) == f"silent: Running; completed: {PROSPECT.output_name}"
    assert job.state.startswith(f"Completed: {MARK}it gave no sign of life, but its output")
    assert job.client.read_task_run(left.id).state_name == "Crashed"
    (result,) = job.results()
    assert (result.job_id, result.filename) == (str(job.id), PROSPECT.output_name)
    assert Path(str(result.output_path)).is_file()


@pytest.fixture
def caller(settings: Settings) -> Iterator[Alerts]:
    """A webhook that callbacks may be sent to."""
    caller = Alerts()
    host = caller.url.split("/")[2]
    use_settings(
        settings.model_copy(update={"callback_secret": SecretStr("s" * 32), "fetch_allow": (host,)})
    )
    yield caller
    caller.close()


def test_the_caller_is_told_of_the_end_and_not_of_our_cancel(
    client: SyncPrefectClient, deployed: dict[str, UUID], settings: Settings, caller: Alerts
) -> None:
    """A worker that cancels the run for `recover` also calls its hooks; they must stay silent."""
    store(settings)
    job = LostRun(client, deployed["upscale"], callback_url=caller.url).beat(age=10)

    def hook() -> None:
        call_back(None, job.run, Cancelling())

    with job.when("Cancelling", then=hook):
        assert "completed" in recovered(job)
    assert [(body["status"], body["job_id"]) for body in caller.bodies] == [
        ("completed", str(job.id))
    ]
    assert caller.bodies[0]["filename"] == PROSPECT.output_name


def test_a_crashed_run_is_ended_by_a_state_that_no_worker_listens_for(job: LostRun) -> None:
    """Why: tests/flows/test_recover_real.py."""
    job.beat().becomes(Crashed(message="killed"))
    assert recovered(job) == "crashed: Crashed; re-queued, 1"
    names = [state.name for state in job.client.read_flow_run_states(job.id)]
    assert RECOVERING in names
    assert "Cancelling" not in names
    planned = job.run.state.state_details.scheduled_time if job.run.state else None
    assert planned is not None
    assert planned < datetime.now(UTC), "the next attempt may begin at once"


def test_after_a_cancel_that_workers_hear_the_next_attempt_waits_until_none_hears_it(
    job: LostRun,
) -> None:
    assert recovered(job.beat(age=10)) == "silent: Running; re-queued, 1"
    cancelled = [s for s in job.client.read_flow_run_states(job.id) if s.name == "Cancelling"]
    planned = job.run.state.state_details.scheduled_time if job.run.state else None
    assert planned is not None
    waits = (planned - cancelled[-1].timestamp).total_seconds()
    assert waits == pytest.approx(HEARD_SECONDS, abs=1)
    job.becomes(Crashed())
    assert "re-queued, 2" in recovered(job)


@pytest.mark.soak
def test_a_result_that_was_published_is_not_published_again(
    settings: Settings, job: LostRun
) -> None:
    store(settings)
    recovered(job.beat().becomes(Crashed()))
    job.becomes(Crashed())
    assert "completed" in recovered(job)
    assert len(job.results()) == 1


@pytest.mark.parametrize(
    "before", [pytest.param(0, marks=pytest.mark.soak), 1], ids=["from none", "from one"]
)
def test_a_lost_run_is_re_queued_twice_and_then_fails(job: LostRun, before: int) -> None:
    job.client.update_flow_run_labels(job.id, {LABEL_RECOVERIES: before})
    job.beat().becomes(Crashed(message="killed"))
    for number in range(before + 1, 3):
        assert recovered(job) == f"crashed: Crashed; re-queued, {number}"
        assert job.state == f"AwaitingRetry: {MARK}it crashed; re-queued, {number} of 2"
        assert job.run.labels[LABEL_RECOVERIES] == number
        assert eta(job.run) < 1
        job.artifact_id = None
        job.becomes(Pending(), Running()).beat().becomes(Crashed(message="killed"))
    assert "failed: output file not found" in recovered(job)
    assert job.state == (
        "Failed: output file not found; it crashed and was re-queued 2 times; before that: "
        "Crashed: killed"
    )
    assert not job.results()
    assert all(look.state and look.state.is_scheduled() for look in job.looks())


class SlowStorage(LocalStorage):
    """A storage that shows the output at the third look only."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.storage_dir)
        self._settings = settings
        self.looks = 0

    def stat(self, name: str) -> Stored | None:
        """Look; the file is not there the first two times."""
        self.looks += 1
        if self.looks == 3:
            store(self._settings)
        return super().stat(name)


def test_without_an_attempt_left_storage_is_looked_at_three_times(
    settings: Settings, job: LostRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SlowStorage(settings)
    monkeypatch.setattr(output, "open_storage", lambda _: storage)
    job.client.update_flow_run_labels(job.id, {LABEL_RECOVERIES: 2})
    assert "completed" in recovered(job.beat().becomes(Crashed()))
    assert storage.looks == 3


def test_a_run_whose_process_is_gone_is_re_queued(settings: Settings, job: LostRun) -> None:
    use_settings(settings.model_copy(update={"recover_silent_seconds": 0.01}))
    job.beat(alive_every="10.0", stall_limit="7200")
    time.sleep(0.1)
    assert recovered(job) == "gone: Running; re-queued, 1"
    assert "its process or machine was gone" in job.state


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "there"])
def test_a_worker_that_is_gone_gets_no_time_to_end_its_process(
    settings: Settings, job: LostRun, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has missed its heartbeats for longer than it may."""
    monkeypatch.setattr(end, "_NO_WORKER_SECONDS", 0.1)
    monkeypatch.setattr(end, "_WORKER_MARGIN_SECONDS", -1.9 if gone else 60.0)
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr(end, "time", clock)
    changes = {"recover_silent_seconds": 0.01, "recover_wait_seconds": 30.0}
    use_settings(settings.model_copy(update=changes))
    job.client.send_worker_heartbeat("recover-pool", "the-worker", heartbeat_interval_seconds=1)
    job.client.update_flow_run_labels(job.id, {"prefect.worker.name": "the-worker"})
    job.beat(alive_every="0.1", stall_limit="7200")
    time.sleep(0.3)
    assert recovered(job) == "gone: Running; re-queued, 1"
    assert sum(waited) == pytest.approx(0.1 if gone else 30.0, abs=1.0)


def test_a_clock_that_is_ahead_makes_no_worker_gone(
    settings: Settings, job: LostRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr(end, "time", clock)
    ahead = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(minutes=10))
    monkeypatch.setattr(end, "datetime", ahead)
    changes = {"recover_silent_seconds": 0.01, "recover_wait_seconds": 30.0}
    use_settings(settings.model_copy(update=changes))
    job.client.send_worker_heartbeat("recover-pool", "another", heartbeat_interval_seconds=30)
    job.client.update_flow_run_labels(job.id, {"prefect.worker.name": "another"})
    job.beat(alive_every="0.1", stall_limit="7200")
    time.sleep(0.3)
    assert recovered(job) == "gone: Running; re-queued, 1"
    assert sum(waited) == pytest.approx(30.0, abs=1.0)


def test_a_worker_that_turns_out_to_be_gone_gets_no_more_time(
    settings: Settings, job: LostRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine died a moment ago: its worker has not missed enough heartbeats yet."""
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr(end, "time", clock)
    monkeypatch.setattr(end, "worker_is_gone", lambda *_: sum(waited) > 8)
    changes = {"recover_silent_seconds": 0.01, "recover_wait_seconds": 30.0}
    use_settings(settings.model_copy(update=changes))
    job.beat(alive_every="0.1", stall_limit="7200")
    time.sleep(0.3)
    assert recovered(job) == "gone: Running; re-queued, 1"
    assert sum(waited) == pytest.approx(9.0, abs=1.0)


def test_a_process_that_was_killed_before_its_first_sign_is_brought_back(
    settings: Settings, job: LostRun
) -> None:
    use_settings(settings.model_copy(update={"recover_silent_seconds": 0.01}))
    assert recovered(job) == "gone: Running; re-queued, 1"


@pytest.mark.parametrize("alive_every", ["3.0", "0.5"])
def test_the_way_to_the_run_counts_as_watching_it_but_not_all_of_it(
    settings: Settings,
    job: LostRun,
    monkeypatch: pytest.MonkeyPatch,
    alive_every: str,
) -> None:
    """Nothing came while the run of `recover` was taken by its worker and started."""
    changes = {"recover_silent_seconds": 0.01, "recover_wait_seconds": 30.0}
    use_settings(settings.model_copy(update=changes))
    watched: list[float] = []
    ways: list[float] = []

    def seen(report: RunReport, seconds: float) -> RunReport:
        watched.append(seconds)
        ways.append(time.monotonic() - began)
        return report.model_copy(update={"verdict": "alive"})

    monkeypatch.setattr(watch, "_watch", seen)
    job.beat(alive_every=alive_every)
    began = time.monotonic()
    look = appoint(job.client, job.run, 0)
    assert look is not None
    time.sleep(1.5)
    as_a_worker_does(job.client, look)
    if alive_every == "0.5":
        assert watched == [pytest.approx(1.0)], "two thirds of it, however long the way was"
    else:
        least = max(9.0 / 3, 9.0 - ways[0])
        assert least - 0.8 <= watched[0] <= 9.0 - 1.5 + 0.8


def as_a_worker_does(client: SyncPrefectClient, run: FlowRun) -> None:
    """Run a run of `recover` that was scheduled."""
    client.set_flow_run_state(run.id, Pending(), force=True)
    run_flow(recover, flow_run=client.read_flow_run(run.id))


def test_a_run_that_its_worker_never_started_is_re_queued(impatient: None, job: LostRun) -> None:
    job.becomes(AwaitingRetry(scheduled_time=datetime.now(UTC)), Pending())
    assert recovered(job) == "stuck: Pending; re-queued, 1"
    assert "its worker took it and never started it" in job.state


def test_a_cancel_of_an_earlier_attempt_ends_no_later_one(job: LostRun) -> None:
    job.becomes(Cancelling(), Cancelled(), Pending(), Running(), Crashed(message="died"))
    assert recovered(job) == "crashed: Crashed; re-queued, 1"


def test_what_a_recover_left_half_done_is_finished_by_the_next(job: LostRun) -> None:
    job.beat(age=10).becomes(Crashed(), Cancelling(message=f"{MARK}it crashed"))
    assert recovered(job) == "interrupted: Cancelling; re-queued, 1"
    assert job.run.state_name == "AwaitingRetry"


@pytest.mark.parametrize("end", [(), (Crashed(message="no heartbeat"),)], ids=["silent", "crashed"])
def test_what_somebody_cancels_ends_though_its_worker_is_gone(
    impatient: None, job: LostRun, end: tuple[State, ...]
) -> None:
    job.beat(age=10).becomes(Cancelling(), *end)
    assert recovered(job).endswith("; cancelled")
    assert job.state.startswith(f"Cancelled: {MARK}it was cancelled, and its worker was gone")


@pytest.mark.soak
def test_a_run_past_its_limit_is_final(job: LostRun) -> None:
    deadline = datetime.now(UTC) - timedelta(seconds=10)
    assert "overdue: Running; failed" in recovered(job.beat(deadline=deadline.isoformat()))
    assert job.run.state_name == "TimedOut"
    assert f"passed its time limit at {deadline:%Y-%m-%d %H:%M}" in job.state
