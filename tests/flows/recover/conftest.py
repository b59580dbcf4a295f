"""A server with `upscale` and `recover` deployed, a run on it, and settings with short waits.

Here `recover` runs in this process, against the real server and a real storage. In
test_recover_real.py processes are really killed and stopped.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows.recover import recover
from flows.upscale import upscale
from flows.upscale_part import upscale_part
from tasks.recovery import watch
from tasks.recovery.report import RunReport
from tasks.settings import Settings, use_settings
from tests.kits.lost_runs import PATIENCE, LostRun


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    """A client of the test server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(autouse=True)
def settings(tmp_path: Path) -> Settings:
    """A storage of the test's own, and short waits."""
    settings = Settings(
        work_dir=tmp_path,
        recover_margin_seconds=0.2,
        recover_wait_seconds=0.2,
        recover_look_seconds=0.1,
    )
    use_settings(settings)
    return settings


@pytest.fixture
def impatient(settings: Settings) -> None:
    """Settings with which every run has been quiet for too long."""
    use_settings(settings.model_copy(update=dict.fromkeys(PATIENCE, 0.01)))


@pytest.fixture
def deployed(client: SyncPrefectClient) -> Iterator[dict[str, UUID]]:
    """`upscale`, its helper and `recover`, on a pool without workers; gone afterwards."""
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
        for flow, name in (
            (upscale, "to-recover"),
            (upscale_part, "to-recover"),
            (recover, "lost-runs"),
        )
    }
    yield ids
    theirs = FlowRunFilter.model_validate({"deployment_id": {"any_": [*ids.values()]}})
    for run in client.read_flow_runs(flow_run_filter=theirs):  # later sweeps would look at each
        with contextlib.suppress(ObjectNotFound):
            client.delete_flow_run(run.id)
    for deployment_id in ids.values():
        with contextlib.suppress(ObjectNotFound):  # a test removed it
            client.delete_deployment(deployment_id)


@pytest.fixture
def job(client: SyncPrefectClient, deployed: dict[str, UUID]) -> LostRun:
    """A run of the deployed `upscale` whose state is Running."""
    return LostRun(client, deployed["upscale"])


@pytest.fixture
def at_second_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let something happen between the first look at a run and the second."""

    def arrange(happen: Callable[[], object]) -> None:
        real, looks = watch.read_report, itertools.count(1)

        def read_report(run_id: UUID) -> RunReport:
            if next(looks) == 2:
                happen()
            return real(run_id)

        monkeypatch.setattr(watch, "read_report", read_report)

    return arrange
