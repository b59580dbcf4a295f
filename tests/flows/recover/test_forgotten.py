"""`recover` without a run finds lost runs that nothing else is checking."""

from datetime import timedelta
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.states import (
    Crashed,
    Running,
)

from flows.recover import recover
from tasks.recovery import forgotten
from tasks.settings import Settings, use_settings
from tests.kits.lost_runs import PATIENCE, LostRun, eta


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
        job.becomes(State(type=kind))
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 3600.0)))
    recover()
    assert not any(job.looks() for job in jobs.values())
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 0.01)))
    monkeypatch.setattr(forgotten, "_OLDEST", timedelta(seconds=0.02))
    recover()
    assert not any(job.looks() for job in jobs.values())
    monkeypatch.undo()
    recover()
    found = {kind.name for kind, job in jobs.items() if job.looks()}
    assert found == {"CRASHED", "PENDING", "CANCELLING"}


def test_nobody_can_look_where_no_recover_is_deployed(
    impatient: None, client: SyncPrefectClient, deployed: dict[str, UUID], job: LostRun
) -> None:
    client.delete_deployment(deployed["recover"])
    job.becomes(Crashed())
    assert "not deployed" in str(recover(return_state=True).message)
