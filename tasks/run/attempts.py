"""The attempts of one run: what an attempt that was killed has left in Prefect is ended.

A process that is killed cannot say how its task runs ended, so they would count as running for
ever. Whoever takes the run up, or ends it, ends them.
"""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import flow_run as this_run
from prefect.states import Crashed

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

_OPEN = ["RUNNING", "PENDING", "SCHEDULED", "CANCELLING", "PAUSED"]
_PAGE = 200
_MOST_PAGES = 50


def end_task_runs(client: SyncPrefectClient, run_id: UUID, told: str) -> int:
    """Make every task run of a flow run Crashed that has not ended.

    Args:
        client: of the server.
        run_id: the flow run; none of its processes is at work.
        told: the message of their new state.

    Returns:
        How many there were.
    """
    ended = 0
    for _ in range(_MOST_PAGES):
        left = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run_id]}}),
            task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": _OPEN}}}),
            limit=_PAGE,
        )
        for task_run in left:
            client.set_task_run_state(task_run.id, Crashed(message=told), force=True)
        ended += len(left)
        if len(left) < _PAGE:
            break
    return ended


def end_earlier_attempts() -> None:
    """End what earlier attempts of the run that begins here have left; the first has none.

    Raises:
        PrefectException, httpx.HTTPError: the server did not take it.
    """
    if this_run.id is None or not this_run.run_count:  # counted before this attempt, or with it
        return
    with get_client(sync_client=True) as client:
        told = "its process was ended before it; a later attempt of the run goes on"
        end_task_runs(client, UUID(this_run.id), told)


def end_with_run(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """End the task runs of a run that was stopped: a hook of the flow."""
    with get_client(sync_client=True) as client:
        if ended := end_task_runs(client, flow_run.id, f"the run became {state.name}"):
            flow_run_logger(flow_run, flow).info("%d task runs were open and are ended", ended)
