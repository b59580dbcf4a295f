"""Deployed runs that a test carries out in its own process, as their worker would."""

import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectAlreadyExists, Pause
from prefect.flow_engine import run_flow
from prefect.states import Pending
from prefect.utilities.callables import parameter_schema

from flows.upscale import upscale

QUICK: dict[str, Any] = {"model": "lanczos", "resolution": "720p", "preset": "ultrafast"}
"""Options of a job that takes a few seconds."""


def deploy(client: SyncPrefectClient, flow: Flow[..., Any], name: str) -> UUID:
    """Deploy a flow on a pool without workers; returns the deployment's id."""
    pool = WorkPoolCreate(name="no-workers", type="process", base_job_template={})
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
    return client.create_deployment(
        client.create_flow(flow),
        name,
        work_pool_name=pool.name,
        parameter_openapi_schema=parameter_schema(flow).model_dump(),
    )


def attempt(client: SyncPrefectClient, run_id: UUID) -> State:
    """One attempt of a deployed run of `upscale`; returns the state that it ends in."""
    client.set_flow_run_state(run_id, Pending(), force=True)
    with contextlib.suppress(Pause):  # the engine of a worker's process ends it with 0
        run_flow(upscale, flow_run=client.read_flow_run(run_id), return_type="state")
    state = client.read_flow_run(run_id).state
    assert state is not None
    return state


def seconds_until(run: FlowRun) -> float:
    """Seconds until a scheduled run begins."""
    assert run.state is not None
    at = run.state.state_details.scheduled_time
    assert at is not None
    return (at - datetime.now(UTC)).total_seconds()
