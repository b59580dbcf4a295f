"""The attempts of one run: which of its starts count, and what a killed attempt has left.

A process that is killed cannot say how its task runs ended, so they would count as running for
ever. Whoever takes the run up, or ends it, ends them. A start after which the run has only left its
worker's slot to wait is no attempt.
"""

from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import flow_run as this_run
from prefect.states import Crashed

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

LABEL_WAITS = "waits"
"""How often a run has left its worker's slot to wait."""
_OPEN = ["RUNNING", "PENDING", "SCHEDULED", "CANCELLING", "PAUSED"]
_PAGE = 200
_MOST_PAGES = 50


def attempts_of(run: "FlowRun") -> int:
    """How often a run has begun its work: its starts without those that ended in waiting."""
    return max(run.run_count - int(run.labels.get(LABEL_WAITS, 0)), 0)


def own_labels() -> dict[str, Any]:
    """The labels of this run as they were when its process began; {} outside of a run."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return dict(run.labels) if run else {}


def note_wait(**labels: str) -> int:
    """Count that this run leaves its slot to wait; returns how often it had before.

    Args:
        labels: more labels for the run.
    """
    waits = int(own_labels().get(LABEL_WAITS, 0))
    with get_client(sync_client=True) as client:
        counted: dict[str, bool | int | float | str] = {LABEL_WAITS: waits + 1, **labels}
        client.update_flow_run_labels(UUID(str(this_run.id)), counted)
    return waits


def leave_slot(state: "State[Any]") -> NoReturn:
    """End this process without ending the run: a worker takes it up again later.

    A flow cannot return such a state: Prefect's engine would then end its process as failed, and
    the worker would call the run crashed. A pause it takes for what it is.

    Args:
        state: AwaitingRetry, with the time of the next start.

    Raises:
        Pause: always; the engine ends the process for it, with exit code 0.
    """
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(str(this_run.id)), state, force=True)
    raise Pause(state=state)


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
