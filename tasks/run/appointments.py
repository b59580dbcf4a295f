"""Appointments with `recover`: who looks at a job again, when, and how often it may be re-queued.

A run that a deployment started is watched: it carries the label `recoveries`, and at its ETA the
deployment `recover/auto` looks at it. The command's own runs are not, and nothing is where that
deployment does not exist: nobody could re-queue them.
"""

import itertools
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from tasks.settings import get_settings

RECOVER = "recover/auto"
LABEL_RECOVERIES = "recoveries"
"""How often `recover` has re-queued a run; present on runs that it watches."""
MAX_RECOVERIES = 2
LABEL_RECOVERING = "recovering"
"""True while `recover` brings a run back: that it is cancelled for it is not its end."""

_SAME_TIME = timedelta(seconds=60)


def recoveries_of(run: FlowRun) -> int:
    """How often a run has been re-queued."""
    return int(run.labels.get(LABEL_RECOVERIES, 0))


def is_brought_back(run_id: UUID) -> bool:
    """Whether `recover` has it cancelled, so that it can go on: which is no end of it."""
    with get_client(sync_client=True) as client:
        return bool(client.read_flow_run(run_id).labels.get(LABEL_RECOVERING))


class Watch:
    """Lets `recover` look after one attempt of a run.

    Each step is done once, as soon as it can be: whoever keeps the record calls `keep` until it
    does not raise. It costs four requests in all.
    """

    def __init__(self, run_id: UUID) -> None:
        """Watch this run."""
        self._run_id = run_id
        self._run: FlowRun | None = None
        self._ended = False

    def keep(self, eta_seconds: float | None) -> None:
        """Label the run; once its ETA is known, make the appointment.

        Raises:
            PrefectException, httpx.HTTPError: the server did not take it; call again.
        """
        if self._ended or (self._run is not None and eta_seconds is None):
            return
        with get_client(sync_client=True) as client:
            if self._run is None:
                run = client.read_flow_run(self._run_id)
                if run.deployment_id is None or _recover_id(client) is None:
                    self._ended = True
                    return
                client.update_flow_run_labels(self._run_id, {LABEL_RECOVERIES: recoveries_of(run)})
                self._run = run
            if eta_seconds is not None:
                margin = get_settings().recover_margin_seconds
                appoint(client, self._run, eta_seconds + margin)
                self._ended = True


def appoint(client: SyncPrefectClient, run: FlowRun, seconds: float) -> FlowRun | None:
    """Let `recover` look at a run in so many seconds, unless it comes by then anyway.

    The idempotency key lets two that ask at once make one appointment.

    Returns:
        The run of `recover`; None where there is no such deployment.
    """
    recover_id = _recover_id(client)
    if recover_id is None:
        return None
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    made = (
        client.create_flow_run_from_deployment(
            recover_id,
            name=f"look at {run.id}",
            parameters={"run_id": str(run.id)},
            state=Scheduled(scheduled_time=at),
            idempotency_key=f"recover:{run.id}:{run.run_count}:{number}",
        )
        for number in itertools.count()
    )
    # A key whose look is over, or comes too late, gives that look back: the next key is tried.
    return next(look for look in made if _comes_by(look, at))


def _comes_by(appointment: FlowRun, at: datetime) -> bool:
    """Whether an appointment is still ahead, and not much later than asked for."""
    state = appointment.state
    if state is None or not state.is_scheduled():
        return False
    planned = state.state_details.scheduled_time
    return planned is not None and planned <= at + _SAME_TIME


def _recover_id(client: SyncPrefectClient) -> UUID | None:
    """Id of the deployment that looks; None where there is none."""
    try:
        return client.read_deployment_by_name(RECOVER).id
    except ObjectNotFound:
        return None
