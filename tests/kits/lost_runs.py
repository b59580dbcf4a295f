"""Runs of `upscale` on a real server that a test puts into any state, and reads of them."""

import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.states import Pending, Running

from flows.recover import recover
from tasks.run import PROGRESS_KEY, RESULT_KEY, read_result
from tasks.schemas import Prospect, UpscaleResult
from tasks.settings import Settings
from tasks.storage.open import open_storage

PROSPECT = Prospect(
    job_key="0123456789ab" + "c" * 52,
    output_name="clip_720p_0123456789ab.mp4",
    engine="lanczos",
    width=1280,
    height=720,
    frames=75,
    input_size_mb=0.5,
    eta_seconds=1000.0,
    job_limit_seconds=7200.0,
)
PATIENCE = (
    "recover_wait_seconds",
    "recover_margin_seconds",
    "recover_pending_seconds",
    "recover_silent_seconds",
)
"""The settings that say how long a run may be quiet."""


class LostRun:
    """A run of `upscale` without worker and process: the test does what they would do."""

    def __init__(
        self, client: SyncPrefectClient, deployment_id: UUID, **parameters: object
    ) -> None:
        self.client = client
        asked = {"video_url": "https://example.org/clip.mp4"} | parameters
        made = client.create_flow_run_from_deployment(deployment_id, parameters=asked)
        self.id = made.id
        self.becomes(Pending(), Running())
        self.artifact_id: UUID | None = None

    def becomes(self, *states: State) -> "LostRun":
        """Set these states one after another, as its worker, its process or a person would."""
        for state in states:
            self.client.set_flow_run_state(self.id, state, force=True)
        return self

    @contextlib.contextmanager
    def when(
        self, name: str, *states: State, then: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """Within the block, wait for the state `name`; then set `states` and call `then`.

        A thread does this, so the block can call what brings the run into that state.
        """
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.05):
                if self.run.state_name == name:
                    self.becomes(*states)
                    then()
                    return

        context = contextvars.copy_context()  # it knows the server
        thread = threading.Thread(target=context.run, args=(watch,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def beat(self, *, age: float = 0.0, percent: float = 50.0, **more: str) -> "LostRun":
        """Write a sign of life into the run's progress artifact.

        Args:
            age: how many seconds ago it was given.
            percent: the progress that it shows.
            more: metadata to add or to replace.
        """
        at = datetime.now(UTC) - timedelta(seconds=age)
        metadata = {
            "beat_at": at.isoformat(timespec="milliseconds"),
            "phase": "restore",
            "stall_limit": "0.2" if age else "3600",  # an old beat is a silent run's
            "job": PROSPECT.model_dump_json(),
        } | more
        if self.artifact_id is None:
            artifact = ArtifactCreate(
                key=PROGRESS_KEY,
                type="progress",
                data=percent,
                metadata_=metadata,
                flow_run_id=self.id,
            )
            self.artifact_id = self.client.create_artifact(artifact).id
        else:
            update = ArtifactUpdate(data=percent, metadata_=metadata)
            self.client.update_artifact(self.artifact_id, update)
        return self

    @property
    def run(self) -> FlowRun:
        """The run as the server has it now."""
        return self.client.read_flow_run(self.id)

    @property
    def state(self) -> str:
        """Name and message of the run's state."""
        state = self.run.state
        assert state is not None
        return f"{state.name}: {state.message}"

    def results(self) -> list[UpscaleResult]:
        """The results that were published for the run (its result artifacts)."""
        return [
            UpscaleResult.model_validate(read_result([artifact]))
            for artifact in artifacts_of(self.client, self.id, RESULT_KEY)
        ]

    def looks(self) -> list[FlowRun]:
        """The runs of `recover` that were scheduled to look at this run, in their order."""
        runs = self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [f"look at {self.id}"]}})
        )
        made = [run for run in runs if run.idempotency_key]
        return sorted(made, key=lambda run: str(run.idempotency_key))


def artifacts_of(client: SyncPrefectClient, run_id: UUID, key: str) -> list[Artifact]:
    """A run's artifacts of that key."""
    of_run = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [key]}}
    return client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(of_run))


def artifact_data(client: SyncPrefectClient, run_id: UUID, key: str) -> list[str]:
    """Data of a run's artifacts of that key."""
    return [str(artifact.data) for artifact in artifacts_of(client, run_id, key)]


def recovered(job: LostRun) -> str:
    """Run `recover` on the run in this process; returns the message of its final state."""
    state = recover(job.id, return_state=True)
    assert state.is_completed(), state
    return str(state.message)


def store(settings: Settings, name: str = PROSPECT.output_name) -> None:
    """Put a file into storage as if it were the run's output."""
    path = settings.work_dir / "made.mp4"
    path.write_bytes(os.urandom(100))
    open_storage(settings).put(path, name)


def eta(run: FlowRun) -> float:
    """Seconds until a scheduled run begins."""
    assert run.state is not None
    at = run.state.state_details.scheduled_time
    assert at is not None
    return (at - datetime.now(UTC)).total_seconds()
