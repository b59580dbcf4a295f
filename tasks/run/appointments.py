"""Appointments with `recover`: when it looks at a run, and how often a run may be re-queued.

`recover` watches the runs that a deployment started: they carry the label `recoveries`, and at a
run's ETA the deployment `recover/lost-runs` looks at it. It does not watch the command's own runs,
because they cannot be re-queued, and nothing is watched where `recover/lost-runs` does not exist.
"""

import contextlib
import itertools
from datetime import datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from tasks.run.clock import server_now
from tasks.settings import get_settings

RECOVER = "recover/lost-runs"
"""The deployment that looks at runs."""
LABEL_RECOVERIES = "recoveries"
"""How often `recover` has re-queued a run; only runs that it watches have this label."""
MAX_RECOVERIES = 2
LABEL_RECOVERING = "recovering"
"""True while `recover` brings a run back. It cancels the run then, which is not the run's end."""
LABEL_DRAINED = "worker_drained"
"""The number of a run's attempt for whose end a worker waits that takes no more runs."""

_SAME_TIME = 0.1
"""An appointment that is later by no more than this share of the wait is not made again ..."""
_SAME_SECONDS = (5.0, 60.0)
"""... and by no less and no more than so many seconds: who asks for it at once gets it at once."""


def recoveries_of(run: FlowRun) -> int:
    """How often `recover` has re-queued a run."""
    return int(run.labels.get(LABEL_RECOVERIES, 0))


def is_drained(run: FlowRun) -> bool:
    """Whether the worker of a run's present attempt takes no more runs and waits for its end.

    Only a run that is at work is asked about: the label of an earlier attempt stays.
    """
    return run.labels.get(LABEL_DRAINED) == run.run_count


def is_brought_back(run_id: UUID) -> bool:
    """Whether `recover` is bringing a run back, so that its being cancelled is not its end."""
    with get_client(sync_client=True) as client:
        return bool(client.read_flow_run(run_id).labels.get(LABEL_RECOVERING))


class Watch:
    """Lets `recover` watch one attempt of a run: labels the run, then makes the appointment.

    The record's thread calls `keep` again and again; each step is done once, as soon as it can be.
    That costs four requests in all. Two more take the appointment back when the job is done: a
    process of `recover` would begin to find that out, with more requests and seconds of a core.
    """

    def __init__(self, run_id: UUID) -> None:
        """Watch this run; nothing is sent yet."""
        self._run_id = run_id
        self._run: FlowRun | None = None
        self._recover_id: UUID | None = None
        self._look_id: UUID | None = None
        """The appointment."""
        self._ended = False

    def keep(self, eta_seconds: float | None) -> None:
        """Label the run; once its ETA is known, make the appointment.

        Args:
            eta_seconds: when the job should be finished, counted from now; None: not known yet.

        Raises:
            PrefectException, httpx.HTTPError: the server did not take it; call again.
        """
        if self._ended or (self._run is not None and eta_seconds is None):
            return
        with get_client(sync_client=True) as client:
            if self._run is None:
                run = client.read_flow_run(self._run_id)
                if run.deployment_id is not None:
                    self._recover_id = find_recover(client)
                if self._recover_id is None:
                    self._ended = True
                    return
                client.update_flow_run_labels(self._run_id, {LABEL_RECOVERIES: recoveries_of(run)})
                self._run = run
            if eta_seconds is not None:
                margin = get_settings().recover_margin_seconds
                look = appoint(client, self._run, eta_seconds + margin, recover_id=self._recover_id)
                self._look_id = look.id if look else None
                self._ended = True

    def take_back(self) -> None:
        """Remove the appointment, unless a worker has taken it: the job is done.

        Raises:
            PrefectException, httpx.HTTPError: the server did not take it; it finds nothing to do.
        """
        look_id, self._look_id, self._ended = self._look_id, None, True
        if look_id is None:
            return
        with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
            state = client.read_flow_run(look_id).state
            if state is not None and state.is_scheduled():
                client.delete_flow_run(look_id)


def appoint(
    client: SyncPrefectClient, run: FlowRun, seconds: float, *, recover_id: UUID | None = None
) -> FlowRun | None:
    """Let `recover` look at a run in `seconds`, unless it will have looked by then anyway.

    The idempotency key makes sure that two who ask at the same time make one appointment.

    Args:
        client: of the server.
        run: the run to look at.
        seconds: from now.
        recover_id: what `find_recover` returned, if the caller has asked it already.

    Returns:
        The run of `recover` that will look; None if it is not deployed.
    """
    recover_id = recover_id or find_recover(client)
    if recover_id is None:
        return None
    at = server_now(client) + timedelta(seconds=seconds)
    shortest, longest = _SAME_SECONDS
    latest = at + timedelta(seconds=min(max(_SAME_TIME * seconds, shortest), longest))
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
    # A key that was used gives the run that was made with it. If that run is over or too late, the
    # next key is tried.
    return next(look for look in made if _comes_by(look, latest))


def _comes_by(appointment: FlowRun, latest: datetime) -> bool:
    """Whether an appointment is still to come, and no later than `latest`."""
    state = appointment.state
    if state is None or not state.is_scheduled():
        return False
    planned = state.state_details.scheduled_time
    return planned is not None and planned <= latest


def find_recover(client: SyncPrefectClient) -> UUID | None:
    """Id of the deployment `recover/lost-runs`; None if there is none."""
    try:
        return client.read_deployment_by_name(RECOVER).id
    except ObjectNotFound:
        return None
