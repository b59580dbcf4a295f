"""Find lost runs that nothing else is checking.

`recover` comes to a run by an appointment or by an event. A run whose worker died before it made
the appointment, while the server was down and lost the event, would have neither and wait for ever.
"""

from datetime import UTC, datetime, timedelta

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

from tasks.recovery.watch import recovers_at_work
from tasks.run.appointments import RECOVER, appoint
from tasks.settings import get_settings
from tasks.step import step

_OLDEST = timedelta(days=1)
"""A run that has been lost for longer is known to somebody, and must not start by itself."""
_MOST = 200
"""Runs looked at in one go: the most that Prefect answers."""


@step(name="appoint-unseen", retries=3, retry_delay_seconds=[1, 5, 15])
def appoint_unseen() -> str:
    """Let `recover` look at every run that seems lost, unless one is already at work on it.

    Returns:
        What was found, in words.
    """
    with get_client(sync_client=True) as client:
        at_work = {str(recover.parameters.get("run_id")) for recover in recovers_at_work(client)}
        unseen = [run for run in _quiet_runs(client) if str(run.id) not in at_work]
        for run in unseen:
            name = run.state.name if run.state else "unknown"
            get_run_logger().warning("%s (%s): %s, and nobody looks at it", run.name, run.id, name)
            if appoint(client, run, 0) is None:
                return f"{RECOVER} is not deployed: nobody can look"
    return f"{len(unseen)} lost runs that nobody looked at"


def _quiet_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs of a deployed `upscale` whose worker should have done something by now."""
    settings, now = get_settings(), datetime.now(UTC)
    patience = {
        StateType.CRASHED: settings.recover_wait_seconds,
        StateType.CANCELLING: settings.recover_margin_seconds,
        StateType.PENDING: settings.recover_pending_seconds,
    }
    wanted = {
        "state": {"type": {"any_": list(patience)}},
        "deployment_id": {"is_null_": False},
    }
    runs = client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["upscale"]}}),
        flow_run_filter=FlowRunFilter.model_validate(wanted),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=_MOST,
    )
    return [
        run
        for run in runs
        if run.state is not None
        and timedelta(seconds=patience[run.state.type]) < now - run.state.timestamp < _OLDEST
    ]
