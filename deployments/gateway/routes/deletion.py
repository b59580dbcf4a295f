"""DELETE /jobs/{job_id}: what a job has made is removed, and the answer says what that was."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from prefect.client.schemas.objects import FlowRun
from pydantic import BaseModel, ConfigDict, Field

from deployments.gateway.answers import status_word
from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.routes.jobs import JobId, find_run
from seedvr2_core.errors import DeadlineError
from tasks.job.removal import Removal, remove_output
from tasks.request.shared import key_in
from tasks.run import read_progress, read_result
from tasks.run.retention import LABEL_DELETED, is_shared, now_deleted, others_with_output
from tasks.settings import Settings


class Deleted(BaseModel):
    """Answer to DELETE /jobs/{job_id}."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job_id": "6a1fb6a8-2f0a-4d8e-9a53-0c9c5a7c9d11",
                    "removed": ["a_1080p_0123456789ab.mp4", "work files"],
                    "kept": [],
                    "removed_bytes": 12250000,
                    "deleted_at": "2026-11-28T10:00:00Z",
                }
            ]
        }
    )

    job_id: str = Field(description="The job whose files were removed.")
    removed: list[str] = Field(
        description="Names in storage, `work files`, and `master` if no other job has used that; "
        "empty if all was gone before."
    )
    kept: list[str] = Field(description="What stays, and why: another job has the same output.")
    removed_bytes: int = Field(description="Of the video and the work files.")
    deleted_at: datetime = Field(description="When the job was deleted for the first time.")


def add_deletion(
    app: FastAPI, settings: Settings, prefect: PrefectApi, authenticate: Authenticate
) -> None:
    """Add DELETE /jobs/{job_id}."""

    @app.delete("/jobs/{job_id}", responses=problems(*WITH_TOKEN, 404, 409, 503))
    async def delete(job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]) -> Deleted:
        """Remove what a job has made: its output, the picture and report beside it, work files.

        A job that waits or is at work is refused (409): cancel it first. The record of the job
        stays, without links. Asked again, it removes what may be left. A video that was sent stays
        as long as others may need it (SEEDVR2_KEEP_DAYS).
        """
        run = await find_run(prefect, caller, job_id)
        word = status_word(run)
        if word in ("pending", "processing"):
            raise HTTPException(409, f"job {run.id} is {word}; cancel it first, then delete it")
        removal = await _remove(prefect, settings, run)
        known = run.labels.get(LABEL_DELETED)
        deleted_at = str(known or now_deleted())
        if known is None:
            await prefect.label(run.id, {LABEL_DELETED: deleted_at})
        return Deleted(
            job_id=str(run.id),
            removed=list(removal.removed),
            kept=list(removal.kept),
            removed_bytes=removal.num_bytes,
            deleted_at=datetime.fromisoformat(deleted_at),
        )


async def _remove(prefect: PrefectApi, settings: Settings, run: FlowRun) -> Removal:
    """Remove the output of a run that has ended.

    Raises:
        HTTPException: 409, a run works on the same job at this moment.
    """
    artifacts = await prefect.artifacts_of(run.id)
    result: dict[str, Any] = dict(read_result(artifacts)) or _planned(artifacts)
    job_key = str(result.get("job_key") or "")
    if not job_key:
        return Removal()  # it ended before it was planned, and has made nothing
    filter_ = others_with_output(key_in(result), run)
    flows = {"name": {"any_": ["upscale"]}}
    others = await prefect.runs({"flows": flows, "flow_runs": filter_, "limit": 200})
    try:
        return await asyncio.to_thread(
            remove_output, settings, job_key=job_key, result=result, shared=is_shared(others)
        )
    except DeadlineError as error:
        told = f"another run works on the same video at this moment, and needs its files: {error}"
        raise HTTPException(409, told) from error


def _planned(artifacts: list[Any]) -> dict[str, Any]:
    """What is known of a job that was planned and has no result; empty if it was not planned."""
    prospect = read_progress(artifacts).prospect
    if prospect is None:
        return {}
    shown = prospect.preview
    return {"job_key": prospect.job_key, "preview": shown.model_dump() if shown else None}
