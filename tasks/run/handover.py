"""Leave the fetching of a slow source to a run that needs no GPU.

A deployed job tries for a moment to fetch its source. If that is not enough, it creates a run of
the flow `fetch-source` on the pool `cpu`, and ends its process in the state AwaitingRetry, so that
its worker can take another job. `fetch-source` labels the job with what it has fetched and lets it
begin again. Both must see the same work directory; where they do not, or where `fetch-source` is
not deployed, the job fetches its source itself.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment
from prefect.runtime import flow_run as this_run
from prefect.states import AwaitingRetry, Failed

from tasks.run.attempts import note_wait, own_labels
from tasks.run.callback import call_back
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.step import step

FETCHER = "fetch-source/cpu"
"""The deployment that fetches for jobs."""
PATIENCE_SECONDS = 20.0
"""How long a job tries by itself: most sources are here by then, and nobody has to wait twice."""
LOOK_AGAIN_SECONDS = 300.0
"""When a job looks again whether its source has come, if nobody has told it."""
LABEL_FETCHER = "fetched_by"
LABEL_SHA256, LABEL_NAME = "fetched_sha256", "fetched_name"


class FetchedElsewhere(Exception):
    """Another run fetches the source, and this one is to wait outside of its worker's slot."""

    def leave(self) -> State[Any]:
        """The state in which this run's process ends; a worker takes the run up again later."""
        note_wait()
        again = datetime.now(UTC) + timedelta(seconds=LOOK_AGAIN_SECONDS)
        return AwaitingRetry(scheduled_time=again, message=str(self))


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
    url = request.video_url or ""
    if deployment.id is None or not url.startswith(("http://", "https://")):
        return None
    with get_client(sync_client=True) as client:
        fetcher = own_labels().get(LABEL_FETCHER)
        if fetcher is None:
            return None if _fetcher_id(client) is None else PATIENCE_SECONDS
        try:
            state = client.read_flow_run(UUID(str(fetcher))).state
        except ObjectNotFound:
            return None
        if state is not None and not state.is_final():
            raise FetchedElsewhere(f"waiting for its source, which run {fetcher} is fetching")
    return None


@step(name="hand-over", retries=3, retry_delay_seconds=[1, 5, 15])
def hand_over() -> str:
    """Let another run fetch this run's source.

    Returns:
        The message for this run's state.
    """
    run_id = UUID(str(this_run.id))
    with get_client(sync_client=True) as client:
        fetcher_id = _fetcher_id(client)
        assert fetcher_id is not None
        made = client.create_flow_run_from_deployment(
            fetcher_id,
            name=f"source of {this_run.name}",
            parameters={"run_id": str(run_id)},
            idempotency_key=f"fetch-source:{run_id}",
        )
        labels: dict[str, bool | int | float | str] = {LABEL_FETCHER: str(made.id)}
        client.update_flow_run_labels(run_id, labels)
    return f"waiting for its source, which run {made.id} is fetching"


@step(name="hand-back", retries=5, retry_delay_seconds=[1, 5, 15, 30, 60])
def hand_back(run_id: UUID, source: FetchedSource | None) -> None:
    """Let a job begin now, if it is waiting, and tell it what its source is.

    Without a source the job tries by itself: what is refused here may be allowed where it runs.
    """
    with get_client(sync_client=True) as client:
        if source is None:
            told = AwaitingRetry(scheduled_time=datetime.now(UTC), message="it fetches by itself")
            _set_waiting(client, run_id, told)
            return
        client.update_flow_run_labels(run_id, _labels_of(source))
        told = AwaitingRetry(scheduled_time=datetime.now(UTC), message="its source has come")
        _set_waiting(client, run_id, told)


def note_source(source: FetchedSource) -> None:
    """Label this run with its source, which is in the store: another machine finds it there."""
    if this_run.id is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(UUID(str(this_run.id)), _labels_of(source))


def noted_source() -> tuple[str, str]:
    """Digest and name of the source that this run was labelled with; "" where it was not."""
    labels = own_labels()
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
