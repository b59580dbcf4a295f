"""Deployments on a real server: what they are like, and runs of them in this process."""

import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectAlreadyExists, Pause
from prefect.flow_engine import run_flow
from prefect.states import Pending
from prefect.utilities.callables import parameter_schema

from flows.upscale import upscale
from tests.kits.server import eventually


def everything(api: httpx.Client) -> dict[str, dict[str, Any]]:
    """All pools, deployments and automations by name."""
    return {
        kind: {item["name"]: item for item in post(api, f"/{kind}/filter")}
        for kind in ("work_pools", "automations")
    } | {"deployments": deployments(api)}


def deployments(api: httpx.Client) -> dict[str, Any]:
    """All deployments by full name."""
    flows = {flow["id"]: flow["name"] for flow in post(api, "/flows/filter")}
    found = post(api, "/deployments/filter")
    by_name = {f"{flows[item['flow_id']]}/{item['name']}": item for item in found}
    assert len(by_name) == len(found)
    return by_name


def post(api: httpx.Client, path: str, body: object = None) -> Any:
    """POST and read, again while the server is busy, which has done nothing then."""

    def answer() -> httpx.Response | None:
        told = api.post(path, json={} if body is None else body)
        return None if told.status_code == httpx.codes.SERVICE_UNAVAILABLE else told

    response = eventually(answer, f"POST {path}", seconds=60)
    assert response.is_success, response.text
    return response.json() if response.content else None


def patch(api: httpx.Client, path: str, json: object) -> None:
    """PATCH, again while the server is busy."""
    eventually(lambda: api.patch(path, json=json).is_success, f"PATCH {path}", seconds=60)


def runs_of(api: httpx.Client, deployment: str) -> list[dict[str, Any]]:
    """Runs of a deployment."""
    wanted = {"any_": [deployments(api)[deployment]["id"]]}
    return post(api, "/flow_runs/filter", {"flow_runs": {"deployment_id": wanted}})


OPERATORS = ("job_variables", "paused", "concurrency_limit", "work_queue_name", "work_pool_name")


H100_QUEUE = {"work_pool_name": "h100", "work_queue_name": "urgent"}


def set_by_an_operator(api: httpx.Client) -> None:
    """What an operator sets in the UI, on a pool and on deployments."""
    template = api.get("/work_pools/h100").json()["base_job_template"]
    variables = template["variables"]["properties"]
    variables["mem_limit"]["default"] = "200g"
    variables["env"]["default"]["TZ"] = "Europe/Berlin"
    patch(api, "/work_pools/h100", json={"base_job_template": template})
    post(api, "/work_pools/h100/queues", {"name": "urgent"})
    h100, recover = (deployments(api)[name] for name in ("upscale/h100", "recover/lost-runs"))
    reference = {"OUR_KEY": "{{ prefect.blocks.secret.seedvr2-callback-secret }}"}
    job_variables = h100["job_variables"] | {"env": reference, "shm_size": "16g"}
    changes = {"job_variables": job_variables, "concurrency_limit": 2} | H100_QUEUE
    patch(api, f"/deployments/{h100['id']}", json=changes)
    patch(api, f"/deployments/{recover['id']}", json={"paused": True})
    schedule = f"/deployments/{recover['id']}/schedules/{recover['schedules'][0]['id']}"
    patch(api, schedule, json={"active": False})


def resume(api: httpx.Client) -> None:
    """For the tests that follow: deployments that are stopped start nothing."""
    recover = deployments(api)["recover/lost-runs"]
    patch(api, f"/deployments/{recover['id']}", json={"paused": False})
    schedule = f"/deployments/{recover['id']}/schedules/{recover['schedules'][0]['id']}"
    patch(api, schedule, json={"active": True})
    h100 = deployments(api)["upscale/h100"]
    patch(api, f"/deployments/{h100['id']}", json=H100_QUEUE | {"work_queue_name": "default"})


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
