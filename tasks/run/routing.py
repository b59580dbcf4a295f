"""Choose the deployment that runs a request, and find the job for an id that a caller holds.

The setting SEEDVR2_DEPLOYMENTS is the table of deployments; the `route` flow, the gateway and
`make deploy` all ask here. A run cannot change its work pool later, so its deployment is chosen
when it is created.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as this_run
from prefect.states import Scheduled

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.planning.sizes import BUDGET_NAMES, BUDGETS_PX, NAMED, budget_for, size_for
from tasks.request.delivery import split_list
from tasks.run.clock import server_now
from tasks.settings import get_settings
from tasks.step import step

Size = tuple[int | Fraction, int | Fraction]
"""Width and height of a source as displayed."""
LABEL_RESOLUTION = "seedvr2.resolution"
ROUTE = "route/auto"
"""The deployment that looks at a request and creates its job where it belongs."""
OWN_SIZE_LABELS = ("[0-9.]*[xX]", "[0-9]*[xX][0-9]*")
"""What a factor and a box look like, in the patterns of Prefect's triggers (fnmatch)."""
LABEL_ROUTED_FROM = "seedvr2.routed_from"
"""Id of the run that created the job: a `route` run, or one that has moved it."""
MOVED = "Moved"
"""Name of the state of a run that has created its job elsewhere."""


def deployment_for(resolution: str, size: Size | None = None) -> str:
    """Name of the deployment for the pixels that come out, such as "upscale/h100".

    Args:
        resolution: as the request has it.
        size: (width, height) of the source as displayed; None: not known. Then a factor or a box
            goes where the most that it can make goes.

    Raises:
        InvalidRequestError: this site has no deployment for it.
        PlanError: the source cannot have this resolution.
    """
    table = get_settings().deployments
    resolution = resolution.lower()
    budget = budget_for(resolution, size)
    if budget in table:
        return table[budget]
    if size is None and resolution not in NAMED:
        return table[max(table, key=lambda name: BUDGETS_PX[name])]
    raise InvalidRequestError(
        f"resolution {resolution!r}{_made(resolution, size, budget)} has no deployment here; there "
        f"is one for {', '.join(table)} (setting SEEDVR2_DEPLOYMENTS)"
    )


def wants_size(resolution: str) -> bool:
    """Whether the source's size decides which deployment runs the request."""
    table = get_settings().deployments
    return resolution not in BUDGETS_PX and not (
        len(set(table.values())) == 1 and table.keys() == BUDGETS_PX.keys()
    )


def _made(resolution: str, size: Size | None, budget: str) -> str:
    """What a resolution makes of a source, in words; "" where that is not known or says nothing."""
    if size is None or resolution in BUDGETS_PX:
        return ""
    width, height = size_for(*size, resolution)
    return f", which makes this picture {width}x{height} (pixels as for {budget}),"


def resolutions_of(deployment: str) -> tuple[str, ...]:
    """The resolutions that the table sends to this deployment; may be empty."""
    return tuple(key for key, name in get_settings().deployments.items() if name == deployment)


def labels_for(deployment: str) -> list[str]:
    """The labels `resolution` of the events that begin a run of this deployment.

    Factors and boxes, which are patterns here, go to `route`, or to the one deployment that makes
    every resolution. Where masters are coded again without a GPU, all events go to `route`: a
    trigger cannot see whether there is a master.
    """
    settings = get_settings()
    makers = set(settings.deployments.values())
    budgets = resolutions_of(deployment)
    if settings.coding_deployment is not None:
        budgets = tuple(settings.deployments) if deployment == ROUTE else ()
        makers.add(ROUTE)
    names = [*budgets, *(short for short, budget in BUDGET_NAMES.items() if budget in budgets)]
    labels = [*names, *(name.upper() for name in names)]
    if deployment in (makers if len(makers) == 1 else {ROUTE}):
        labels += OWN_SIZE_LABELS
    return labels


def check_pool(resolution: str, size: Size | None = None) -> None:
    """Refuse a run whose resolution this worker pool does not make.

    Args:
        resolution: as the request has it.
        size: (width, height) of the source as displayed. Until that is known, only an area can be
            refused.

    Raises:
        InvalidRequestError: which resolutions the pool makes.
        PlanError: the source cannot have this resolution.
    """
    allowed = get_settings().resolutions
    if size is None and resolution not in BUDGETS_PX:
        return
    budget = budget_for(resolution, size)
    # A door that did not know the source's size has sent it by the resolution alone.
    if not {budget, budget_for(resolution)}.intersection(allowed):
        made = _made(resolution, size, budget)
        raise InvalidRequestError(
            f"this pool takes {', '.join(allowed)}, got {resolution}{made or ';'} start the run on "
            "the deployment for that resolution"
        )


def route_key(run_id: UUID | str) -> str:
    """Idempotency key of the job that a `route` run creates; with it a retry finds the same job."""
    return f"route:{run_id}"


def create_job(
    parameters: Mapping[str, Any],
    resolution: str,
    *,
    size: Size | None = None,
    deployment: str = "",
    routed_from: UUID | None = None,
    tags: Sequence[str] = (),
) -> tuple[str, FlowRun]:
    """Create the run of a checked request on the deployment for its resolution.

    Args:
        parameters: of the flow `upscale`; the deployment has defaults for those left out.
        resolution: decides which deployment runs the request.
        size: (width, height) of the source as displayed; None: not known.
        deployment: which one it is, where that is known; "": the table's.
        routed_from: the run that creates the job; `find_job` then finds the job by its id.
        tags: of the job, beside its deployment's and those of the parameters.

    Returns:
        The deployment's name and the job. The same `routed_from` gives the same job.

    Raises:
        InvalidRequestError: the table has no deployment for the resolution, or names one that is
            not on the Prefect server.
    """
    name = deployment or deployment_for(resolution, size)
    labels: dict[str, bool | int | float | str] = {LABEL_RESOLUTION: resolution}
    if routed_from:
        labels[LABEL_ROUTED_FROM] = str(routed_from)
    with get_client(sync_client=True) as client:
        job = client.create_flow_run_from_deployment(
            _deployment_id(client, name),
            parameters=dict(parameters),
            state=Scheduled(scheduled_time=server_now(client)),
            idempotency_key=route_key(routed_from) if routed_from else None,
            labels=labels,
            tags=sorted({*tags, *split_list(str(parameters.get("tags") or ""))}),
        )
    return name, job


@step(name="dispatch", retries=3, retry_delay_seconds=[1, 5, 15])
def dispatch(
    parameters: Mapping[str, Any], resolution: str, *, deployment: str, routed_from: UUID
) -> tuple[str, FlowRun]:
    """`create_job` as a task of a `route` run. Its idempotency key makes retries safe."""
    return create_job(parameters, resolution, deployment=deployment, routed_from=routed_from)


@step(name="move-job", retries=5, retry_delay_seconds=[1, 5, 15, 30, 60])
def move_job(resolution: str, why: str) -> str:
    """Create this run's job where it can be made; this run is to end as `Moved`.

    Whoever holds this run's id finds that job by it, as with a `route` run.

    Args:
        resolution: of the job.
        why: it cannot be made here, in words.

    Returns:
        The message of that state.
    """
    run_id = UUID(str(this_run.id))
    given = {k: v for k, v in this_run.parameters.items() if v not in (None, "")}
    deployment, job = create_job(given, resolution, routed_from=run_id, tags=this_run.tags or ())
    return f"job {job.id} on {deployment}: {why}"


def _deployment_id(client: SyncPrefectClient, name: str) -> UUID:
    try:
        return client.read_deployment_by_name(name).id
    except ObjectNotFound as error:
        raise InvalidRequestError(
            f"the deployment {name!r} is not on the Prefect server at {client.api_url}; run "
            "make deploy, or change SEEDVR2_DEPLOYMENTS"
        ) from error


def job_filter(run_id: UUID) -> FlowRunFilter:
    """Filter for a run and, if it is a `route` run, the job that it created: one query for both."""
    return FlowRunFilter.model_validate(
        {
            "operator": "or_",
            "id": {"any_": [run_id]},
            "idempotency_key": {"any_": [route_key(run_id)]},
        }
    )


def job_among(runs: Sequence[FlowRun], run_id: UUID) -> FlowRun | None:
    """The job among the runs that `job_filter` found: the created job, else the run itself."""
    return next((r for r in runs if r.id != run_id), next(iter(runs), None))


def find_job(run_id: UUID) -> FlowRun | None:
    """Find the job for an id that a caller holds.

    Returns:
        The run with this id. If that is a `route` run, the job it created; while there is no job,
        or if the request was refused, the `route` run itself, whose state says so. None if no run
        has this id.
    """
    with get_client(sync_client=True) as client:
        return job_among(client.read_flow_runs(flow_run_filter=job_filter(run_id)), run_id)
