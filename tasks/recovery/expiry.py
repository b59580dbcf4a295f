"""Remove the output of a job when it has expired: `recover` comes to it by an appointment."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger
from prefect.client.orchestration import get_client

from tasks.job.removal import remove_output
from tasks.recovery.report import RunReport
from tasks.request.shared import key_in
from tasks.run import RESULT_KEY, read_result
from tasks.run.artifacts import newest_artifact
from tasks.run.retention import (
    LABEL_DELETED,
    LABEL_EXPIRES,
    is_shared,
    now_deleted,
    others_of,
)
from tasks.settings import get_settings
from tasks.step import step


@step(name="remove-expired", retries=5, retry_delay_seconds=[5, 30, 120, 600, 1800])
def remove_expired(report: RunReport) -> str:
    """Remove what a completed run has made, if its time is over.

    Args:
        report: the run, which has ended.

    Returns:
        What was done, in words; "" if there was nothing to do.

    Side effects: the output in storage and the job's work files are removed, unless another job has
        the same output; the run has a label that says when.
    Raises: StorageError, DeadlineError (retried): the storage is away, or a run works on the job.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(report.run_id)
        until = run.labels.get(LABEL_EXPIRES)
        if until is None or LABEL_DELETED in run.labels:
            return ""
        if datetime.fromisoformat(str(until)) > datetime.now(UTC):
            return ""
        result: Mapping[str, Any] = read_result(newest_artifact(client, run.id, RESULT_KEY))
        job_key = str(result.get("job_key") or "")
        if not job_key:
            return ""
        shared = is_shared(others_of(client, key_in(result), run))
        removal = remove_output(get_settings(), job_key=job_key, result=result, shared=shared)
        client.update_flow_run_labels(run.id, {LABEL_DELETED: now_deleted()})
    told = "; ".join(filter(None, (", ".join(removal.removed), *removal.kept)))
    get_run_logger().info("expired: %s", told or "nothing was left")
    return f"expired: removed {told or 'nothing, all was gone'}"
