"""Callbacks that their receivers have not taken yet. Prefect keeps them, so no restart loses them.

Each is an artifact of its run with the key `upscale-outbox`; its data is the event, its metadata
says when it is tried again. The sweep of `recover` sends them (`tasks/recovery/callbacks.py`), so
no worker with a GPU waits for a receiver. The address is not in it: it may hold a secret, and the
run has it.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from tasks.run.artifacts import artifact_filter
from tasks.run.callbacks.events import CallbackEvent

OUTBOX_KEY = "upscale-outbox"
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 15.0, 600.0
"""Wait before the second attempt, doubled with each one, and the longest wait between two."""
_PAGE, _MOST_PAGES = 200, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCallback:
    """A callback in the outbox."""

    id: UUID
    run_id: UUID
    event: CallbackEvent
    since: datetime
    """When it was put there."""
    attempts: int
    next_at: datetime
    trouble: str

    @property
    def is_passing(self) -> bool:
        """Whether a later event of the run says all that this one does."""
        return self.event.status == "progress"


def put(
    client: SyncPrefectClient, run_id: UUID, event: CallbackEvent, *, attempts: int, trouble: str
) -> None:
    """Keep an event that its receiver has not taken.

    Args:
        client: of the server.
        run_id: the run that it is about.
        event: the event.
        attempts: how often it was sent.
        trouble: why it was not taken; "" if it only waits for an earlier event.
    """
    artifact = ArtifactCreate(
        key=OUTBOX_KEY,
        type="table",
        data=_data(event),
        description=f"{event.event} waits for its receiver",
        metadata_=_metadata(attempts, trouble),
        flow_run_id=run_id,
    )
    client.create_artifact(artifact)


def postpone(client: SyncPrefectClient, waiting: WaitingCallback, trouble: str) -> None:
    """Note a failed attempt and when the next one is."""
    told = _metadata(waiting.attempts + 1, trouble)
    client.update_artifact(waiting.id, ArtifactUpdate(metadata_=told))


def replace(client: SyncPrefectClient, waiting: WaitingCallback, event: CallbackEvent) -> None:
    """Put a later event in the place of one that it makes needless.

    Raises:
        ObjectNotFound: it is not there any more.
    """
    client.update_artifact(waiting.id, ArtifactUpdate(data=_data(event)))


def remove(client: SyncPrefectClient, waiting: WaitingCallback) -> None:
    """Forget an event."""
    try:
        client.delete_artifact(waiting.id)
    except ObjectNotFound:  # another sweep was faster
        return


def waiting_of(client: SyncPrefectClient, run_id: UUID) -> list[WaitingCallback]:
    """What waits for the receiver of one run, the oldest first."""
    return _in_order(_read(client, artifact_filter([run_id], OUTBOX_KEY)))


def all_waiting(client: SyncPrefectClient) -> list[WaitingCallback]:
    """What waits for the receivers of all runs, the oldest first."""
    wanted = ArtifactFilter.model_validate({"key": {"any_": [OUTBOX_KEY]}})
    return _in_order(_read(client, wanted))


def _read(client: SyncPrefectClient, wanted: ArtifactFilter) -> Iterator[Artifact]:
    for page in range(_MOST_PAGES):
        found = client.read_artifacts(
            artifact_filter=wanted,
            sort=ArtifactSort.CREATED_DESC,
            limit=_PAGE,
            offset=page * _PAGE,
        )
        yield from found
        if len(found) < _PAGE:
            return


def _in_order(artifacts: Iterable[Artifact]) -> list[WaitingCallback]:
    """The events of artifacts that can be read; others are of a newer version, and stay."""
    found = []
    for artifact in artifacts:
        try:
            (told,) = json.loads(str(artifact.data))
            event = CallbackEvent.model_validate(told)
        except (ValueError, ValidationError):
            continue
        metadata, now = artifact.metadata_ or {}, datetime.now(UTC)
        if artifact.flow_run_id is None:
            continue
        found.append(
            WaitingCallback(
                id=artifact.id,
                run_id=artifact.flow_run_id,
                event=event,
                since=artifact.created or now,
                attempts=int(metadata.get("attempts", 1)),
                next_at=datetime.fromisoformat(metadata.get("next_at", now.isoformat())),
                trouble=metadata.get("trouble", ""),
            )
        )
    return sorted(found, key=lambda one: one.since)


def _data(event: CallbackEvent) -> str:
    return json.dumps([event.model_dump(mode="json")])


def _metadata(attempts: int, trouble: str) -> dict[str, str]:
    """Prefect's metadata is text; one value has at most 500 characters."""
    wait = min(FIRST_WAIT_SECONDS * 2 ** max(attempts - 1, 0), LONGEST_WAIT_SECONDS)
    next_at = datetime.now(UTC)
    if attempts:
        next_at += timedelta(seconds=wait * random.uniform(0.75, 1.25))
    return {
        "attempts": str(attempts),
        "next_at": next_at.isoformat(timespec="milliseconds"),
        "trouble": trouble[:400],
    }
