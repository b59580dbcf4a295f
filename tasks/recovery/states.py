"""Read the states that a run has been in, and set one without overwriting what came in between.

Prefect cannot set a state on the condition that the run is still in a certain other one. So we look
at the run's state right before we set ours, and at its history right after: whatever state came in
between is put back. A run's own result wins this way.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType

MARK = "recover: "
"""The message of every state that `recover` sets begins with this."""
RECOVERING = "Recovering"
"""Name of the state in which a run is whose process is gone already (see `cancelling`)."""
HEARD_SECONDS = 70.0
"""For how long a worker may hear that a run became Cancelling: whenever it connects to the server,
Prefect sends it the events of the last minute once more. Our servers see to it that it is a minute
by their own clock (`HEARD_AGAIN` in `deployments/host/prefect_server.py`)."""
_CHANGES = 5
"""How often we try to set a state: more often than a worker changes that of a run it ends."""


def read_states(client: SyncPrefectClient, run_id: UUID) -> list[State]:
    """Every state that a run has been in, the oldest first."""
    return sorted(client.read_flow_run_states(run_id), key=lambda state: state.timestamp)


def attempt_began(states: Sequence[State]) -> datetime:
    """When a worker took the run for its present attempt; what is older belongs to another."""
    taken = [state.timestamp for state in states if state.is_pending()]
    return taken[-1] if taken else datetime.min.replace(tzinfo=UTC)


def cancelling(told: str, *, heard_by_workers: bool) -> State:
    """The state of a run that `recover` ends.

    A worker that hears of a state of the name Cancelling kills the run's process, and does not ask
    in which state the run is by then. It may hear of it late, and would kill the next attempt. So
    where no process is left, the state has a name that no worker listens for.

    Args:
        told: the state's message.
        heard_by_workers: a process may be left that a worker has to end.
    """
    name = "Cancelling" if heard_by_workers else RECOVERING
    return State(type=StateType.CANCELLING, name=name, message=told)


def earliest_start(states: Sequence[State]) -> datetime | None:
    """From when on no worker kills a new attempt of a run any more because of a state that was
    Cancelling; None: it may start at once.

    By the clock of the server, which has written the states.
    """
    heard = [one.timestamp for one in states if one.is_cancelling() and one.name != RECOVERING]
    return heard[-1] + timedelta(seconds=HEARD_SECONDS) if heard else None


def we_cancelled(states: Sequence[State]) -> bool:
    """Whether the last one to cancel the run was a `recover`."""
    cancelling = [state for state in states if state.is_cancelling()]
    return bool(cancelling) and (cancelling[-1].message or "").startswith(MARK)


def somebody_cancelled(states: Sequence[State]) -> bool:
    """Whether somebody other than a `recover` cancelled the present attempt."""
    since = attempt_began(states)
    cancelled = any(state.is_cancelling() and state.timestamp >= since for state in states)
    return cancelled and not we_cancelled(states)


def ended_by_us(client: SyncPrefectClient, run_id: UUID) -> UUID | None:
    """The id of a run's state if a `recover` has cancelled the run, else None.

    Cancelling, Cancelled and Crashed all count: its worker may change one into another at any time.
    """
    states = read_states(client, run_id)
    last = states[-1]
    ended = last.is_cancelling() or last.is_cancelled() or last.is_crashed()
    cancelled = next((state for state in reversed(states) if not state.is_crashed()), last)
    ours = (cancelled.is_cancelling() or cancelled.is_cancelled()) and we_cancelled(states)
    return last.id if ended and ours else None


def move(client: SyncPrefectClient, run_id: UUID, judged: UUID | None, state: State) -> bool:
    """Set a run's state if the run is still in the state in which it was judged.

    Args:
        client: sets the state.
        run_id: the run.
        judged: id of the state in which we saw the run.
        state: the new one.

    Returns:
        False if the run had changed its state; it then keeps that state.
    """
    now = client.read_flow_run(run_id).state
    if now is None or now.id != judged:
        return False
    ours = client.set_flow_run_state(run_id, state, force=True).state
    if ours is None:
        return False
    states = read_states(client, run_id)
    place = next((k for k, one in enumerate(states) if one.id == ours.id), 0)
    overtaken = states[place - 1] if place else None
    if overtaken is None or overtaken.id == judged:
        return True
    get_run_logger().warning("it became %s at the same moment: put back", overtaken.name)
    client.set_flow_run_state(run_id, overtaken, force=True)
    return False


def move_ended(client: SyncPrefectClient, run_id: UUID, state: State) -> bool:
    """Set the state of a run that `recover` has cancelled, in whatever state its worker put it.

    Returns:
        False if the run is not as `recover` has left it; it then keeps its own state.
    """
    for _ in range(_CHANGES):
        ended = ended_by_us(client, run_id)
        if ended is None:
            return False
        if move(client, run_id, ended, state):
            return True
    return False
