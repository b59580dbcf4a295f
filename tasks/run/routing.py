"""Which deployment runs a request, and which run is the job of an id that a caller holds.

One table decides (the setting DEPLOYMENTS); the `route` flow, the gateway and `make deploy` ask
here. A run cannot change its work pool later, so the deployment is chosen when it is created.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from seedvr2_core.errors import InvalidRequestError
from tasks.settings import get_settings
from tasks.step import step

LABEL_RESOLUTION = "seedvr2.resolution"
LABEL_ROUTED_FROM = "seedvr2.routed_from"


def deployment_for(resolution: str) -> str:
    """Name of the deployment that takes this resolution: "upscale/h100".

    Raises:
        InvalidRequestError: no deployment of this site takes it.
    """
    table = get_settings().deployments
    try:
        return table[resolution.lower()]
    except KeyError:
        raise InvalidRequestError(
            f"resolution {resolution!r} has no deployment here; there is one for "
            f"{', '.join(table)} (setting SEEDVR2_DEPLOYMENTS)"
        ) from None


def resolutions_of(deployment: str) -> tuple[str, ...]:
    """What the table sends to that deployment; empty where it sends nothing."""
    return tuple(key for key, name in get_settings().deployments.items() if name == deployment)


def route_key(run_id: UUID | str) -> str:
    """Idempotency key of the job that a `route` run creates: a retried route finds the same job."""
    return f"route:{run_id}"


def create_job(
    parameters: Mapping[str, Any], resolution: str, *, routed_from: UUID | None = None
) -> tuple[str, FlowRun]:
    """Create the run of a checked request on the deployment for its resolution.

    Args:
        parameters: of the flow `upscale`; those left out take the deployment's defaults.
        resolution: decides the deployment.
        routed_from: the `route` run that asks; its id then resolves to the job.

    Returns:
        The deployment's name and the job; the same job for the same `routed_from`.

    Raises:
        InvalidRequestError: no deployment takes it, or it was never deployed.
    """
    name = deployment_for(resolution)
    labels: dict[str, bool | int | float | str] = {LABEL_RESOLUTION: resolution}
    if routed_from:
        labels[LABEL_ROUTED_FROM] = str(routed_from)
    with get_client(sync_client=True) as client:
        job = client.create_flow_run_from_deployment(
            _deployment_id(client, name),
            parameters=dict(parameters),
            idempotency_key=route_key(routed_from) if routed_from else None,
            labels=labels,
        )
    return name, job


@step(name="dispatch", retries=3, retry_delay_seconds=[1, 5, 15])
def dispatch(
    parameters: Mapping[str, Any], resolution: str, *, routed_from: UUID
) -> tuple[str, FlowRun]:
    """`create_job` as a task of a `route` run; its key makes trying again safe."""
    return create_job(parameters, resolution, routed_from=routed_from)


def _deployment_id(client: SyncPrefectClient, name: str) -> UUID:
    try:
        return client.read_deployment_by_name(name).id
    except ObjectNotFound as error:
        raise InvalidRequestError(
            f"the deployment {name!r} is not on the Prefect server at {client.api_url}; run "
            "make deploy, or change SEEDVR2_DEPLOYMENTS"
        ) from error


def job_filter(run_id: UUID) -> FlowRunFilter:
    """One query for a run and for the job that it routed, if it is a `route` run."""
    return FlowRunFilter.model_validate(
        {
            "operator": "or_",
            "id": {"any_": [run_id]},
            "idempotency_key": {"any_": [route_key(run_id)]},
        }
    )


def job_among(runs: Sequence[FlowRun], run_id: UUID) -> FlowRun | None:
    """The job among what `job_filter` found: the routed run before the run itself."""
    return next((r for r in runs if r.id != run_id), next(iter(runs), None))


def find_job(run_id: UUID) -> FlowRun | None:
    """The job of an id that somebody holds.

    The id of a `route` run gives the run it created; until then, and where it was refused, the
    `route` run itself, whose state says so. Any other id gives its own run; None: there is none.
    """
    with get_client(sync_client=True) as client:
        return job_among(client.read_flow_runs(flow_run_filter=job_filter(run_id)), run_id)
