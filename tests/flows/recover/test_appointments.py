"""Which runs `recover` has an appointment to look at, and when."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Crashed, Running

from flows.recover import recover
from flows.upscale import upscale
from tasks.run import appointments
from tasks.run.appointments import LABEL_RECOVERIES, Watch, appoint
from tasks.settings import Settings, use_settings
from tests.kits.deployed import QUICK, attempt
from tests.kits.lost_runs import LostRun, eta, recovered


def test_a_watched_run_has_a_label_and_one_appointment_at_its_eta(job: LostRun) -> None:
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


@pytest.mark.parametrize("begun", [False, True], ids=["waits", "is at work"])
def test_a_job_that_is_done_takes_its_appointment_back(
    client: SyncPrefectClient, job: LostRun, begun: bool
) -> None:
    """Else a process would begin for each job, to find that there is nothing to do."""
    watch = Watch(job.id)
    watch.keep(1000.0)
    (look,) = job.looks()
    if begun:
        client.set_flow_run_state(look.id, Running(), force=True)
    watch.take_back()
    watch.take_back()
    assert [run.id for run in job.looks()] == ([look.id] if begun else [])
    watch.keep(1000.0)
    assert len(job.looks()) == begun, "none is made anew"


@pytest.mark.long
def test_a_deployed_job_has_an_appointment_until_it_is_done(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    settings: Settings,
    demo_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"allow_local_files": True, "allow_cpu_engine": True}
    use_settings(settings.model_copy(update=changes))
    made: list[FlowRun | None] = []

    def noted(*arguments: Any, **options: Any) -> FlowRun | None:
        made.append(appoint(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(appointments, "appoint", noted)
    parameters = {"video_path": str(demo_clip), **QUICK}
    job = client.create_flow_run_from_deployment(deployed["upscale"], parameters=parameters)
    assert attempt(client, job.id).is_completed()
    (look,) = made
    assert look is not None
    with pytest.raises(ObjectNotFound):
        client.read_flow_run(look.id)


def test_who_asks_twice_has_one_appointment_and_a_later_one_does_not_count(
    client: SyncPrefectClient, job: LostRun
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


def test_who_asks_for_a_look_at_once_does_not_wait_for_one_that_comes_soon(
    client: SyncPrefectClient, job: LostRun
) -> None:
    appoint(client, job.run, 50)
    for _ in range(2):
        look = appoint(client, job.run, 0)
        assert look is not None
        assert eta(look) < 1
    assert len(job.looks()) == 2


def test_nobody_watches_where_no_recover_is_deployed(
    client: SyncPrefectClient, deployed: dict[str, UUID], job: LostRun
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
