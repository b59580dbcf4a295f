"""`recover` without a run finds lost runs that nothing else is checking."""

import importlib
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed, Running

from flows.recover import recover
from tasks.recovery import forgotten
from tasks.recovery.watch import LABEL_UNTIL
from tasks.settings import Settings, use_settings
from tests.kits.lost_runs import PATIENCE, LostRun, eta

pytestmark = pytest.mark.long
sweep = importlib.import_module("tasks.recovery.sweep")


@pytest.mark.parametrize("name", ["CRASHED", "PENDING", "CANCELLING"])
def test_a_lost_run_that_nobody_looks_at_is_found(
    impatient: None, client: SyncPrefectClient, job: LostRun, name: str
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
    jobs = {
        kind: LostRun(client, deployed["upscale"]) for kind in StateType if kind.name != "PAUSED"
    }
    for kind, job in jobs.items():
        job.beat(alive_every="10.0").becomes(State(type=kind))
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 3600.0)))
    recover()
    assert not any(job.looks() for job in jobs.values())
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 0.01)))
    monkeypatch.setattr(forgotten, "_OLDEST", timedelta(seconds=0.02))
    recover()
    assert not any(job.looks() for job in jobs.values())
    monkeypatch.undo()
    time.sleep(0.1)
    recover()
    found = {kind.name for kind, job in jobs.items() if job.looks()}
    assert found == {"CRASHED", "PENDING", "CANCELLING", "RUNNING"}


def test_running_jobs_are_judged_by_the_newest_record_of_each(
    client: SyncPrefectClient, deployed: dict[str, UUID], settings: Settings
) -> None:
    # Long enough for the looks of a sweep on a busy machine.
    use_settings(settings.model_copy(update={"recover_silent_seconds": 6.0}))
    gone, alive, old = (LostRun(client, deployed["upscale"]) for _ in range(3))
    gone.beat(alive_every="10.0")
    old.beat()
    alive.beat(alive_every="10.0")
    time.sleep(6.1)
    alive.artifact_id = None  # its second attempt has a record of its own
    alive.beat(alive_every="10.0")
    recover()
    assert [len(job.looks()) for job in (gone, alive, old)] == [1, 0, 0]


def test_a_recover_whose_time_is_over_is_ended_and_holds_nobody_up(
    impatient: None, client: SyncPrefectClient, deployed: dict[str, UUID], job: LostRun
) -> None:
    job.becomes(Crashed())
    lost = client.create_flow_run_from_deployment(
        deployed["recover"], parameters={"run_id": str(job.id)}
    )
    client.set_flow_run_state(lost.id, Running(), force=True)
    now = datetime.now(UTC)
    for until, looks in ((now + timedelta(hours=1), 0), (now - timedelta(seconds=5), 1)):
        client.update_flow_run_labels(lost.id, {LABEL_UNTIL: until.isoformat()})
        recover()
        assert len(job.looks()) == looks
    state = client.read_flow_run(lost.id).state
    assert state is not None
    assert state.is_crashed()


def test_old_sweeps_that_found_nothing_are_forgotten(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    job: LostRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job.becomes(Crashed())
    monkeypatch.setattr(forgotten, "_quiet_runs", lambda _: [])
    quiet = recover(return_state=True).state_details.flow_run_id
    monkeypatch.setattr(forgotten, "_quiet_runs", lambda _: [job.run])
    busy = recover(return_state=True).state_details.flow_run_id
    monkeypatch.setattr(forgotten, "_quiet_runs", lambda _: [])
    assert quiet is not None
    assert busy is not None
    assert client.read_flow_run(busy).name.startswith("found ")
    recover()
    assert client.read_flow_run(quiet).name == sweep.QUIET_SWEEP, "not old enough"
    monkeypatch.setattr(sweep, "_KEEP_SWEEPS", timedelta(0))
    recover()
    with pytest.raises(ObjectNotFound):
        client.read_flow_run(quiet)
    assert client.read_flow_run(busy)


def test_sweeps_that_are_late_are_dropped_but_no_appointment(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    job: LostRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forgotten, "_quiet_runs", lambda _: [])
    late = State(type=StateType.SCHEDULED, name="Late")
    sweep, by_hand, look = (
        client.create_flow_run_from_deployment(deployed["recover"], parameters=parameters)
        for parameters in ({}, {}, {"run_id": str(job.id)})
    )
    for run in (sweep, by_hand, look):
        client.set_flow_run_state(run.id, late, force=True)
    read = client.read_flow_runs

    def scheduled_by_prefect(**how: object) -> list[FlowRun]:
        runs = read(**how)  # type: ignore[arg-type]
        ours = (sweep.id, look.id)
        return [run.model_copy(update={"auto_scheduled": run.id in ours}) for run in runs]

    monkeypatch.setattr(
        SyncPrefectClient, "read_flow_runs", lambda _, **how: scheduled_by_prefect(**how)
    )
    recover()
    with pytest.raises(ObjectNotFound):
        client.read_flow_run(sweep.id)
    assert client.read_flow_run(by_hand.id)
    assert client.read_flow_run(look.id)


def test_nobody_can_look_where_no_recover_is_deployed(
    impatient: None, client: SyncPrefectClient, deployed: dict[str, UUID], job: LostRun
) -> None:
    client.delete_deployment(deployed["recover"])
    job.becomes(Crashed())
    assert "not deployed" in str(recover(return_state=True).message)
