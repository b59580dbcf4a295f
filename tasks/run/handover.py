"""Leave a slow source, and the cuts of a long one, to a run that needs no GPU.

A deployed job tries for a moment to fetch its source, and looks for the cuts of a short video. If
that is not enough, it creates a run of the flow `fetch-source` on the pool `cpu`, and ends its
process in the state AwaitingRetry, so that its worker can take another job. `fetch-source` labels
the job with what it has fetched and lets it begin again; the cuts lie beside the probe. Both must
see the same work directory or use the same store; where they do not, or where `fetch-source` is not
deployed, the job does the work itself.
"""

import os
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment
from prefect.runtime import flow_run as this_run
from prefect.states import AwaitingRetry, Failed, Scheduled

from tasks.run.attempts import note_wait, own_labels
from tasks.run.callbacks.hook import call_back
from tasks.run.clock import due_in, server_now
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.step import step

FETCHER = "fetch-source/cpu"
"""The deployment that fetches for jobs."""
PATIENCE_SECONDS = 20.0
"""How long a job tries by itself: most sources are here by then, and nobody has to wait twice."""
LOOK_AGAIN_SECONDS = 300.0
"""When a job looks again whether its source has come, if nobody has told it."""
LABEL_FETCHER, LABEL_CUTTER = "fetched_by", "cuts_by"
"""Of a job: the run that fetches its source, and the one that looks for its cuts."""
LABEL_SHA256, LABEL_NAME = "fetched_sha256", "fetched_name"


class FetchedElsewhere(Exception):
    """Another run fetches the source, and this one is to wait outside of its worker's slot."""

    def leave(self) -> State[Any]:
        """The state in which this run's process ends; a worker takes the run up again later."""
        note_wait()
        return AwaitingRetry(scheduled_time=due_in(LOOK_AGAIN_SECONDS), message=str(self))


def fetched_before(settings: Settings) -> FetchedSource | None:
    """The source that `fetch-source` has brought for this run; None if it has not, or not here."""
    sha256, name = noted_source()
    path = settings.sources_dir / sha256
    if not sha256 or not path.is_file():
        return None
    os.utime(path)
    num_bytes = path.stat().st_size
    return FetchedSource(path=path, sha256=sha256, num_bytes=num_bytes, name=name)


def patience_for(request: UpscaleRequest) -> float | None:
    """How long this run may try by itself to fetch its source; None: as long as the limit allows.

    Raises:
        FetchedElsewhere: another run is at work on it.
    """
    if not (request.video_url or "").startswith(("http://", "https://")):
        return None
    return PATIENCE_SECONDS if _may_hand_over(LABEL_FETCHER) else None


def may_leave_cuts() -> bool:
    """Whether another run may look for the cuts of this run's video.

    Raises:
        FetchedElsewhere: another run is at work on it.
    """
    return _may_hand_over(LABEL_CUTTER)


def _may_hand_over(label: str) -> bool:
    """Whether there is a run to be made that does a part of this run's work; once, and not again.

    Raises:
        FetchedElsewhere: it was made and is at work.
    """
    if deployment.id is None:
        return False
    with get_client(sync_client=True) as client:
        helper = own_labels().get(label)
        if helper is None:
            return _fetcher_id(client) is not None
        try:
            state = client.read_flow_run(UUID(str(helper))).state
        except ObjectNotFound:
            return False
        if state is not None and not state.is_final():
            raise FetchedElsewhere(_waits_for(label, helper))
    return False


def _waits_for(label: str, helper: object) -> str:
    if label == LABEL_CUTTER:
        return f"waiting for its cuts, which run {helper} is looking for"
    return f"waiting for its source, which run {helper} is fetching"


@step(name="hand-over", retries=3, retry_delay_seconds=[1, 5, 15])
def hand_over(source: FetchedSource | None = None) -> str:
    """Let another run fetch this run's source, or find the cuts of a source that is here.

    Returns:
        The message for this run's state.
    """
    run_id = UUID(str(this_run.id))
    if source is not None:
        note_source(source)
    label = LABEL_CUTTER if source else LABEL_FETCHER
    with get_client(sync_client=True) as client:
        fetcher_id = _fetcher_id(client)
        assert fetcher_id is not None
        made = client.create_flow_run_from_deployment(
            fetcher_id,
            name=f"{'cuts' if source else 'source'} of {this_run.name}",
            parameters={"run_id": str(run_id), "cuts": source is not None},
            state=Scheduled(scheduled_time=server_now(client)),
            idempotency_key=f"{'find-cuts' if source else 'fetch-source'}:{run_id}",
        )
        labels: dict[str, bool | int | float | str] = {label: str(made.id)}
        client.update_flow_run_labels(run_id, labels)
    return _waits_for(label, made.id)


@step(name="hand-back", retries=5, retry_delay_seconds=[1, 5, 15, 30, 60])
def hand_back(run_id: UUID, source: FetchedSource | None, told: str) -> None:
    """Let a job begin now, if it is waiting, and tell it what its source is.

    Without a source the job tries by itself: what is refused here may be allowed where it runs.
    """
    with get_client(sync_client=True) as client:
        if source is not None:
            client.update_flow_run_labels(run_id, _labels_of(source))
        now = server_now(client)
        _set_waiting(client, run_id, AwaitingRetry(scheduled_time=now, message=told))


def note_source(source: FetchedSource) -> None:
    """Label this run with its source, which is in the store: another machine finds it there."""
    if this_run.id is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(UUID(str(this_run.id)), _labels_of(source))


def noted_source(labels: dict[str, Any] | None = None) -> tuple[str, str]:
    """Digest and name of the source that this run, or the one with `labels`, was labelled with.

    They are "" where it was not.
    """
    labels = own_labels() if labels is None else labels
    return str(labels.get(LABEL_SHA256, "")), str(labels.get(LABEL_NAME, ""))


def _labels_of(source: FetchedSource) -> dict[str, bool | int | float | str]:
    return {LABEL_SHA256: source.sha256, LABEL_NAME: source.name}


@step(name="give-up", retries=5, retry_delay_seconds=[1, 5, 15, 30, 60])
def give_up(run_id: UUID, why: str) -> None:
    """Fail a job whose source cannot be had, and tell its caller."""
    with get_client(sync_client=True) as client:
        if _set_waiting(client, run_id, Failed(message=why)):
            run = client.read_flow_run(run_id)
            call_back(None, run, run.state or Failed(message=why))


def _set_waiting(client: SyncPrefectClient, run_id: UUID, state: State) -> bool:
    """Set the state of a run that waits; another is left as it is (somebody may have cancelled)."""
    now = client.read_flow_run(run_id).state
    if now is None or not now.is_scheduled():
        return False
    client.set_flow_run_state(run_id, state, force=True)
    return True


def _fetcher_id(client: SyncPrefectClient) -> UUID | None:
    """Id of the deployment that fetches for jobs; None if there is none."""
    try:
        return client.read_deployment_by_name(FETCHER).id
    except ObjectNotFound:
        return None
