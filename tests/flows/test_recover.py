"""The `recover` flow in this process, against a real server and a real storage: what it does about
each kind of run. Runs whose processes are really killed and stopped: test_recover_real.py.
"""

import contextlib
import contextvars
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate, WorkPoolCreate
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import disable_run_logger
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
from prefect.utilities.callables import parameter_schema
from pydantic import SecretStr

from deployments.gateway.answers import status_word
from flows.recover import REPORT_KEY, recover
from flows.upscale import upscale
from seedvr2_core.errors import InvalidRequestError
from tasks.recovery import forgotten as unseen
from tasks.recovery import output as found_output
from tasks.recovery import watch as recovery
from tasks.recovery.end import move, move_ended
from tasks.recovery.report import MARK
from tasks.run.appointments import LABEL_RECOVERIES, LABEL_RECOVERING, Watch, appoint
from tasks.run.artifacts import PROGRESS_KEY, RESULT_KEY
from tasks.run.callback import call_back
from tasks.schemas import Prospect, UpscaleResult
from tasks.settings import Settings, use_settings
from tasks.storage.base import Stored
from tasks.storage.local import LocalStorage
from tasks.storage.open import open_storage
from tests.kits.server import Alerts

PROSPECT = Prospect(
    job_key="0123456789ab" + "c" * 52,
    output_name="clip_720p_0123456789ab.mp4",
    engine="lanczos",
    width=1280,
    height=720,
    frames=75,
    input_size_mb=0.5,
    eta_seconds=1000.0,
    job_limit_seconds=7200.0,
)


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    """Of the test server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(autouse=True)
def settings(tmp_path: Path) -> Settings:
    """A storage of the test's own, and little patience."""
    settings = Settings(
        work_dir=tmp_path,
        recover_margin_seconds=0.2,
        recover_wait_seconds=0.2,
        recover_look_seconds=0.1,
    )
    use_settings(settings)
    return settings


PATIENCE = ("recover_wait_seconds", "recover_margin_seconds", "recover_pending_seconds")


@pytest.fixture
def impatient(settings: Settings) -> None:
    """What was quiet for a moment was quiet for too long."""
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 0.01)))


@pytest.fixture
def deployed(client: SyncPrefectClient) -> Iterator[dict[str, UUID]]:
    """`upscale` and `recover`, deployed on a pool without workers, and gone afterwards."""
    pool = WorkPoolCreate(name="recover-pool", type="process", base_job_template={})
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
    ids = {
        flow.name: client.create_deployment(
            client.create_flow(flow),
            name,
            work_pool_name=pool.name,
            parameter_openapi_schema=parameter_schema(flow).model_dump(),
            enforce_parameter_schema=True,
        )
        for flow, name in ((upscale, "to-recover"), (recover, "auto"))
    }
    yield ids
    for deployment_id in ids.values():
        with contextlib.suppress(ObjectNotFound):  # a test removed it
            client.delete_deployment(deployment_id)


class Job:
    """A run of `upscale` whose process is this test."""

    def __init__(
        self, client: SyncPrefectClient, deployment_id: UUID, **parameters: object
    ) -> None:
        self.client = client
        asked = {"video_url": "https://example.org/clip.mp4"} | parameters
        made = client.create_flow_run_from_deployment(deployment_id, parameters=asked)
        self.id = made.id
        self.becomes(Pending(), Running())
        self.artifact_id: UUID | None = None

    def becomes(self, *states: State) -> "Job":
        """Set states, as its worker, process or an operator would."""
        for state in states:
            self.client.set_flow_run_state(self.id, state, force=True)
        return self

    @contextlib.contextmanager
    def when(
        self, name: str, *states: State, then: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """As soon as it is in that state, somebody else sets these."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.05):
                if self.run.state_name == name:
                    self.becomes(*states)
                    then()
                    return

        context = contextvars.copy_context()  # which server it is
        thread = threading.Thread(target=context.run, args=(watch,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def beat(self, *, age: float = 0.0, percent: float = 50.0, **more: str) -> "Job":
        """A sign of life, so old."""
        at = datetime.now(UTC) - timedelta(seconds=age)
        metadata = {
            "beat_at": at.isoformat(timespec="milliseconds"),
            "phase": "restore",
            "stall_limit": "0.2" if age else "3600",  # an old beat is a silent run's
            "job": PROSPECT.model_dump_json(),
        } | more
        if self.artifact_id is None:
            artifact = ArtifactCreate(
                key=PROGRESS_KEY,
                type="progress",
                data=percent,
                metadata_=metadata,
                flow_run_id=self.id,
            )
            self.artifact_id = self.client.create_artifact(artifact).id
        else:
            update = ArtifactUpdate(data=percent, metadata_=metadata)
            self.client.update_artifact(self.artifact_id, update)
        return self

    @property
    def run(self) -> FlowRun:
        return self.client.read_flow_run(self.id)

    @property
    def state(self) -> str:
        """Name and message."""
        state = self.run.state
        assert state is not None
        return f"{state.name}: {state.message}"

    def results(self) -> list[UpscaleResult]:
        """What its result artifacts say."""
        return [
            UpscaleResult.model_validate(row)
            for data in artifacts(self.client, self.id, RESULT_KEY)
            for row in json.loads(data)
        ]

    def looks(self) -> list[FlowRun]:
        """The appointments with `recover` that were made for it, by number."""
        runs = self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [f"look at {self.id}"]}})
        )
        made = [run for run in runs if run.idempotency_key]
        return sorted(made, key=lambda run: str(run.idempotency_key))


def artifacts(client: SyncPrefectClient, run_id: UUID, key: str) -> list[str]:
    """Data of a run's artifacts of that key."""
    of_run = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [key]}}
    found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(of_run))
    return [str(artifact.data) for artifact in found]


@pytest.fixture
def job(client: SyncPrefectClient, deployed: dict[str, UUID]) -> Job:
    return Job(client, deployed["upscale"])


def recovered(job: Job) -> str:
    """Let `recover` look at it here; what it said."""
    state = recover(job.id, return_state=True)
    assert state.is_completed(), state
    return str(state.message)


@pytest.fixture
def at_second_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let something happen between the first look at a run and the second."""

    def arrange(happen: Callable[[], object]) -> None:
        real, looks = recovery.read_report, itertools.count(1)

        def read_report(run_id: UUID) -> recovery.RunReport:
            if next(looks) == 2:
                happen()
            return real(run_id)

        monkeypatch.setattr(recovery, "read_report", read_report)

    return arrange


class SlowStorage(LocalStorage):
    """Shows a file at the third look."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.storage_dir)
        self._settings = settings
        self.looks = 0

    def stat(self, name: str) -> Stored | None:
        """Look, and see nothing at first."""
        self.looks += 1
        if self.looks == 3:
            store(self._settings)
        return super().stat(name)


def store(settings: Settings, name: str = PROSPECT.output_name) -> None:
    """An output in storage."""
    path = settings.work_dir / "made.mp4"
    path.write_bytes(os.urandom(100))
    open_storage(settings).put(path, name)


def eta(run: FlowRun) -> float:
    """In how many seconds an appointment is."""
    assert run.state is not None
    at = run.state.state_details.scheduled_time
    assert at is not None
    return (at - datetime.now(UTC)).total_seconds()


def test_a_watched_run_has_a_label_and_one_appointment_at_its_eta(job: Job) -> None:
    watch = Watch(job.id)
    watch.keep(None)
    assert job.run.labels[LABEL_RECOVERIES] == 0
    assert not job.looks()
    watch.keep(1000.0)
    watch.keep(1000.0)
    (look,) = job.looks()
    assert 900 < eta(look) < 1001
    assert look.parameters == {"run_id": str(job.id)}
    assert look.idempotency_key == f"recover:{job.id}:{job.run.run_count}:0"


def test_who_asks_twice_has_one_appointment_and_a_later_one_does_not_count(
    client: SyncPrefectClient, job: Job
) -> None:
    first = appoint(client, job.run, 1000)
    assert first is not None
    for asked, expected in ((1000, 1), (2000, 1), (100, 2), (1000, 2)):
        appoint(client, job.run, asked)
        assert len(job.looks()) == expected, asked
    for look in job.looks():
        client.set_flow_run_state(look.id, Completed(), force=True)
    appoint(client, job.run, 1000)
    assert [str(look.idempotency_key)[-1] for look in job.looks()] == ["0", "1", "2"]


def test_nobody_watches_where_no_recover_is_deployed(
    client: SyncPrefectClient, deployed: dict[str, UUID], job: Job
) -> None:
    client.delete_deployment(deployed["recover"])
    Watch(job.id).keep(1000.0)
    assert LABEL_RECOVERIES not in job.run.labels
    assert recovered(job.beat()) == "alive: Running"


def test_the_commands_own_runs_are_not_watched(
    client: SyncPrefectClient, deployed: dict[str, UUID]
) -> None:
    run = client.create_flow_run(upscale, state=Running())
    Watch(run.id).keep(1000.0)
    assert LABEL_RECOVERIES not in client.read_flow_run(run.id).labels
    client.set_flow_run_state(run.id, Crashed(), force=True)
    state = recover(run.id, return_state=True)
    assert "no deployment started it" in str(state.message)
    assert client.read_flow_run(run.id).state_name == "Crashed"


def test_a_hung_run_whose_file_is_stored_is_completed(settings: Settings, job: Job) -> None:
    store(settings)
    assert recovered(job.beat(age=10)) == f"silent: Running; completed: {PROSPECT.output_name}"
    assert job.state.startswith(f"Completed: {MARK}it gave no sign of life, but its output")
    (result,) = job.results()
    assert (result.job_id, result.filename) == (str(job.id), PROSPECT.output_name)
    assert Path(str(result.output_path)).is_file()


@pytest.fixture
def caller(settings: Settings) -> Iterator[Alerts]:
    """Somebody who wants to be told."""
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
    """The run's own hooks run in its process, which is gone, and in its worker, which cancels."""
    store(settings)
    job = Job(client, deployed["upscale"], callback_url=caller.url).beat(age=10)

    def hook() -> None:
        call_back(None, job.run, Cancelling())

    with job.when("Cancelling", then=hook):
        assert "completed" in recovered(job)
    assert [(body["status"], body["job_id"]) for body in caller.bodies] == [
        ("completed", str(job.id))
    ]
    assert caller.bodies[0]["filename"] == PROSPECT.output_name


@pytest.mark.soak
def test_a_result_that_was_published_is_not_published_again(settings: Settings, job: Job) -> None:
    store(settings)
    recovered(job.beat().becomes(Crashed()))
    job.becomes(Crashed())
    assert "completed" in recovered(job)
    assert len(job.results()) == 1


@pytest.mark.parametrize(
    "before", [pytest.param(0, marks=pytest.mark.soak), 1], ids=["from none", "from one"]
)
def test_a_lost_run_is_re_queued_twice_and_then_fails(job: Job, before: int) -> None:
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


def test_without_an_attempt_left_storage_is_looked_at_three_times(
    settings: Settings, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SlowStorage(settings)
    monkeypatch.setattr(found_output, "open_storage", lambda _: storage)
    job.client.update_flow_run_labels(job.id, {LABEL_RECOVERIES: 2})
    assert "completed" in recovered(job.beat().becomes(Crashed()))
    assert storage.looks == 3


def test_a_slow_run_that_beats_is_left_alone_and_seen_again_at_its_new_eta(
    settings: Settings, job: Job
) -> None:
    use_settings(settings.model_copy(update={"recover_margin_seconds": 50.0}))
    states = len(job.client.read_flow_run_states(job.id))
    assert recovered(job.beat(percent=1)) == "alive: Running"
    (look,) = job.looks()
    assert 40 < eta(look) < 60 + 99 * 30
    assert len(job.client.read_flow_run_states(job.id)) == states


@pytest.mark.soak
def test_a_silent_run_that_beats_while_it_is_watched_is_alive(
    job: Job, at_second_look: Callable[[Callable[[], object]], None]
) -> None:
    job.beat(age=10)
    at_second_look(lambda: job.beat(age=9))
    assert recovered(job) == "alive: Running; it beats"
    assert job.state.startswith("Running")
    assert job.looks()


def test_a_crashed_run_that_beats_is_running_again(
    job: Job, at_second_look: Callable[[Callable[[], object]], None]
) -> None:
    """Its machine lives: a server that was away had not heard it."""
    job.beat(age=10).becomes(Crashed(message="no heartbeat"))
    at_second_look(job.beat)
    assert recovered(job) == "alive: Crashed; it beats"
    assert job.state.startswith(f"Running: {MARK}it beats")
    assert "no heartbeat" in job.state
    assert LABEL_RECOVERIES not in job.run.labels
    assert str(job.looks()[-1].idempotency_key).startswith(f"recover:{job.id}:2:")


@pytest.mark.soak
def test_the_beat_of_an_earlier_attempt_is_none_of_this_one(job: Job) -> None:
    job.beat(age=1000).becomes(Crashed(), Scheduled(), Pending(), Running())
    assert recovered(job) == "alive: Running"


@pytest.mark.soak
@pytest.mark.parametrize("end", [Completed(), Failed(name="TimedOut"), Cancelled()], ids=str)
def test_a_run_that_has_ended_is_left_as_it_is(job: Job, end: State) -> None:
    job.beat(age=1000).becomes(end)
    assert recovered(job) == f"ended: {end.name}"
    assert job.run.state_name == end.name
    assert not job.looks()


@pytest.mark.soak
def test_what_somebody_cancels_is_not_brought_back(settings: Settings, job: Job) -> None:
    use_settings(settings.model_copy(update={"recover_margin_seconds": 3600.0}))
    job.beat(age=1000).becomes(Cancelling(message="I changed my mind"))
    assert recovered(job) == "waiting: Cancelling"
    assert job.state == "Cancelling: I changed my mind"


@pytest.mark.parametrize("end", [(), (Crashed(message="no heartbeat"),)], ids=["silent", "crashed"])
def test_what_somebody_cancels_ends_though_its_worker_is_gone(
    impatient: None, job: Job, end: tuple[State, ...]
) -> None:
    job.beat(age=10).becomes(Cancelling(), *end)
    assert recovered(job).endswith("; cancelled")
    assert job.state.startswith(f"Cancelled: {MARK}it was cancelled, and its worker was gone")


def test_a_cancel_of_an_earlier_attempt_ends_no_later_one(job: Job) -> None:
    job.becomes(Cancelling(), Cancelled(), Pending(), Running(), Crashed(message="died"))
    assert recovered(job) == "crashed: Crashed; re-queued, 1"


def test_a_run_that_its_worker_does_not_start_at_once_is_waited_for(job: Job) -> None:
    job.becomes(AwaitingRetry(scheduled_time=datetime.now(UTC)), Pending())
    assert recovered(job) == "waiting: Pending"


def test_a_run_that_its_worker_never_started_is_re_queued(impatient: None, job: Job) -> None:
    job.becomes(AwaitingRetry(scheduled_time=datetime.now(UTC)), Pending())
    assert recovered(job) == "stuck: Pending; re-queued, 1"
    assert "its worker took it and never started it" in job.state


@pytest.mark.parametrize("name", ["CRASHED", "PENDING", "CANCELLING"])
def test_a_lost_run_that_nobody_looks_at_is_found(
    impatient: None, client: SyncPrefectClient, job: Job, name: str
) -> None:
    job.becomes(State(type=StateType[name]))
    recover()
    recover()
    (look,) = job.looks()
    assert eta(look) < 1
    client.set_flow_run_state(look.id, Running(), force=True)
    recover()
    assert len(job.looks()) == 1, "a recover is at work on it"


def test_runs_that_are_well_or_not_quiet_for_long_or_for_too_long_are_not_found(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = {kind: Job(client, deployed["upscale"]) for kind in StateType if kind.name != "PAUSED"}
    for kind, job in jobs.items():
        job.becomes(State(type=kind))
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 3600.0)))
    recover()
    assert not any(job.looks() for job in jobs.values())
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 0.01)))
    monkeypatch.setattr(unseen, "_OLDEST", timedelta(seconds=0.02))
    recover()
    assert not any(job.looks() for job in jobs.values())
    monkeypatch.undo()
    recover()
    found = {kind.name for kind, job in jobs.items() if job.looks()}
    assert found == {"CRASHED", "PENDING", "CANCELLING"}


def test_nobody_can_look_where_no_recover_is_deployed(
    impatient: None, client: SyncPrefectClient, deployed: dict[str, UUID], job: Job
) -> None:
    client.delete_deployment(deployed["recover"])
    job.becomes(Crashed())
    assert "not deployed" in str(recover(return_state=True).message)


@pytest.mark.soak
def test_who_cancels_while_recover_is_at_work_is_heard(settings: Settings, job: Job) -> None:
    """Between our cancel and the re-queue."""
    use_settings(settings.model_copy(update={"recover_wait_seconds": 30.0}))
    job.beat(age=10)
    with job.when("Cancelling", Cancelling(message="I changed my mind"), Cancelled()):
        assert recovered(job) == "silent: Running; it went on by itself"
    assert job.run.state_name == "Cancelled"
    assert job.run.labels[LABEL_RECOVERING] is False


@pytest.mark.soak
def test_a_run_that_its_worker_cancels_for_recover_is_at_work(settings: Settings, job: Job) -> None:
    use_settings(settings.model_copy(update={"recover_wait_seconds": 30.0}))
    job.beat(age=10)
    words: list[str] = []
    with job.when("Cancelling", Cancelled(), then=lambda: words.append(status_word(job.run))):
        assert recovered(job) == "silent: Running; re-queued, 1"
    assert words == ["processing"]
    assert status_word(job.run) == "pending"


def test_what_a_recover_left_half_done_is_finished_by_the_next(job: Job) -> None:
    job.beat(age=10).becomes(Crashed(), Cancelling(message=f"{MARK}it crashed"))
    assert recovered(job) == "interrupted: Cancelling; re-queued, 1"
    assert job.run.state_name == "AwaitingRetry"


@pytest.mark.soak
def test_a_run_past_its_limit_is_final(job: Job) -> None:
    deadline = datetime.now(UTC) - timedelta(seconds=10)
    assert "overdue: Running; failed" in recovered(job.beat(deadline=deadline.isoformat()))
    assert job.run.state_name == "TimedOut"
    assert "passed its limit of 7200 s" in job.state


@pytest.mark.soak
def test_a_run_that_completes_while_it_is_watched_wins(
    settings: Settings, job: Job, at_second_look: Callable[[Callable[[], object]], None]
) -> None:
    store(settings)
    job.beat(age=10)
    at_second_look(lambda: job.becomes(Completed(message="by itself")))
    assert recovered(job) == "ended: Completed; it went on by itself"
    assert job.state == "Completed: by itself"
    assert not job.results()


def test_a_run_that_completes_while_it_is_cancelled_wins(settings: Settings, job: Job) -> None:
    """Its process was about to end: Prefect takes its last word over a cancel."""
    store(settings)
    job.beat(age=10)
    patient = settings.model_copy(update={"recover_wait_seconds": 30.0})
    use_settings(patient)
    with job.when("Cancelling", Completed(message="by itself")):
        assert recovered(job) == "silent: Running; it went on by itself"
    assert job.state == "Completed: by itself"


class Late:
    """A client before whose first change of a state somebody else makes one."""

    def __init__(self, client: SyncPrefectClient, state: State) -> None:
        self._client = client
        self._state: State | None = state

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def set_flow_run_state(self, run_id: UUID, state: State, force: bool = False) -> object:
        """Let the other come first."""
        first, self._state = self._state, None
        if first is not None:
            self._client.set_flow_run_state(run_id, first, force=True)
        return self._client.set_flow_run_state(run_id, state, force=force)


def test_a_state_that_overtook_ours_is_put_back(job: Job) -> None:
    """Between the look and the change: the smallest of windows, and the run's own word wins."""
    job.becomes(Crashed())
    judged = job.run.state
    assert judged is not None
    late = Late(job.client, Completed(message="by itself"))
    with disable_run_logger():
        moved = move(late, job.id, judged.id, Failed(message="output file not found"))  # type: ignore[arg-type]
    assert not moved
    assert job.state == "Completed: by itself"
    assert not move(job.client, job.id, judged.id, Failed(message="too late"))
    assert job.state == "Completed: by itself"


def test_a_worker_that_is_slow_to_cancel_costs_no_attempt(job: Job) -> None:
    """It says so at the moment of the re-queue."""
    job.becomes(Crashed(), Cancelling(message=f"{MARK}it crashed"))
    late = Late(job.client, Cancelled(message="by its worker"))
    with disable_run_logger():
        assert move_ended(late, job.id, AwaitingRetry())  # type: ignore[arg-type]
        assert job.run.state_name == "AwaitingRetry"
        assert not move_ended(job.client, job.id, Failed())
    assert job.run.state_name == "AwaitingRetry"


@pytest.mark.soak
def test_a_second_recover_leaves_it_to_the_first(
    client: SyncPrefectClient, deployed: dict[str, UUID], job: Job
) -> None:
    job.beat().becomes(Crashed())
    first = client.create_flow_run_from_deployment(
        deployed["recover"], parameters={"run_id": str(job.id)}
    )
    client.set_flow_run_state(first.id, Running(), force=True)
    assert recovered(job) == "crashed: Crashed; another recover is at work on it"
    assert job.run.state_name == "Crashed"
    assert job.looks()
    client.set_flow_run_state(first.id, Crashed(), force=True)
    assert "re-queued, 1" in recovered(job)


@pytest.mark.soak
def test_the_report_is_an_artifact(client: SyncPrefectClient, job: Job) -> None:
    state = recover(job.id, return_state=True)
    assert state.state_details.flow_run_id is not None
    (table,) = artifacts(client, state.state_details.flow_run_id, REPORT_KEY)
    (row,) = json.loads(table)
    assert (row["run_id"], row["verdict"], row["state"]) == (str(job.id), "alive", "Running")


def test_recover_of_nothing_says_so(in_api: None) -> None:
    with pytest.raises(InvalidRequestError, match="no flow run has the id"):
        recover(uuid4())
