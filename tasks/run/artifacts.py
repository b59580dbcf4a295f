"""The artifacts of a run."""

import json
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter

from tasks.schemas import UpscaleResult

PROGRESS_KEY = "upscale-progress"
RESULT_KEY = "upscale-result"


def result_published(run_id: UUID) -> bool:
    """Whether a run's result artifact is there."""
    of_run = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [RESULT_KEY]}}
    with get_client(sync_client=True) as client:
        return bool(
            client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(of_run), limit=1)
        )


def publish_result(result: UpscaleResult) -> None:
    """Write the result artifact, a table of one row that people and programs read.

    Raises:
        PrefectException, httpx.HTTPError: the server did not take it.
    """
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                key=RESULT_KEY,
                type="table",
                data=json.dumps([result.model_dump(mode="json")]),
                description=_told(result),
                flow_run_id=UUID(result.job_id),
            )
        )


def _told(result: UpscaleResult) -> str:
    """What a person wants to know first."""
    return (
        f"{result.cdn_url or result.output_path}\n\n"
        f"{result.width}x{result.height}, {result.frames} frames, "
        f"{result.input_size_mb:g} MB -> {result.output_size_mb:g} MB, "
        f"engine {result.engine}, {result.seconds:g} s"
    )
