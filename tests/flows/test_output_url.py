"""A run whose caller gave an address for the video, on a real Prefect server and a real S3 server.

The address holds a secret. Whoever takes the run up must have it, and nobody else may see it.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)

from flows.upscale import upscale
from seedvr2_core.files import file_sha256
from tasks.net.bucket import Bucket
from tasks.run.artifacts import RESULT_KEY, newest_artifact, read_result
from tasks.settings import Settings
from tests.kits.deployed import QUICK, attempt, deploy
from tests.kits.http.s3 import S3

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_api")]


def presigned(bucket: Bucket) -> str:
    from obstore import sign

    store = bucket._small
    return sign(store, "PUT", "theirs.mp4", timedelta(hours=1))  # type: ignore[arg-type]


def everything_told(client: SyncPrefectClient, run_id: Any) -> str:
    """All that Prefect has of a run, but for its parameters."""
    run = client.read_flow_run(run_id)
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
    return "\n".join(
        [
            run.model_copy(update={"parameters": {}}).model_dump_json(),
            *(one.model_dump_json() for one in client.read_artifacts(artifact_filter=mine)),
            *(one.model_dump_json() for one in logs),
        ]
    )


@pytest.mark.long
def test_a_video_is_sent_by_whichever_machine_ends_the_run(
    s3: S3,
    settings_with: Callable[..., Settings],
    demo_clip: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def become(name: str) -> Settings:
        return settings_with(
            **s3.settings(),
            work_dir=tmp_path / name,
            fetch_allow=(urlsplit(s3.line.url).netloc,),
            allow_local_files=True,
            report=True,
        )

    first = become("first")
    bucket = Bucket(s3.address, first)
    url = presigned(bucket)
    with get_client(sync_client=True) as client:
        deployment = deploy(client, upscale, "sent")
        asked = {**QUICK, "video_path": str(demo_clip), "output_url": url, "end": "1"}
        run = client.create_flow_run_from_deployment(deployment, parameters=asked)
        s3.line.fail("busy", "^PUT .*theirs.mp4", times=1000)
        upload: Any = _without_waits()
        with upload:
            assert attempt(client, run.id).is_failed()
        s3.line.mend()
        second = become("second")
        assert attempt(client, run.id).is_completed()
        result = read_result(newest_artifact(client, run.id, RESULT_KEY))
        told = everything_told(client, run.id)

    found = bucket.read("theirs.mp4")
    assert found is not None
    (tmp_path / "theirs.mp4").write_bytes(found.content)
    assert file_sha256(tmp_path / "theirs.mp4") == result["sha256"]
    assert (result["cdn_url"], result["output_path"]) == (None, None)
    shown = url.partition("?")[0]
    assert f"the video is sent to {shown}" in result["notes"]
    assert Path(result["preview_path"]).is_file()
    assert not list(second.storage_dir.glob("*.mp4")), "it is in no storage of ours"

    on_disk = [path for path in tmp_path.glob("*/**/*") if path.is_file()]
    told += caplog.text + "".join(path.read_bytes().decode("latin-1") for path in on_disk)
    fields = [field.partition("=")[2] for field in urlsplit(url).query.split("&")]
    secrets = [value for value in fields if len(value) > 30]
    assert secrets
    assert not [value for value in secrets if value in told]
    assert shown in told


def _without_waits() -> Any:
    """The retries of the upload without their pauses."""
    from unittest.mock import patch

    from tasks.upload import upload

    return patch.object(upload, "retry_delay_seconds", 0)
