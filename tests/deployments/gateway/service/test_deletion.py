"""DELETE /jobs/{job_id}: what goes, what stays, and who may ask."""

import hashlib
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from deployments.gateway.auth import digest
from seedvr2_core.files import hold_lock
from seedvr2_core.job import JobDir
from tasks.run.retention import job_tag
from tasks.settings import Settings
from tests.kits.http.gateway import (
    PLANNED,
    gateway,
    job_run,
    record_progress,
    record_result,
    set_state,
    submit,
)

pytestmark = pytest.mark.usefixtures("on_the_server")
NAME = "clip_1080p_abc.mp4"
BESIDE = ("clip_1080p_abc.preview.jpg", "clip_1080p_abc.report.html", "clip_1080p_abc.report.json")


@pytest.fixture
def job_key() -> str:
    """Of a job that no other test has."""
    return uuid4().hex * 2


def made(client: httpx.Client, settings: Settings, job_key: str, content: bytes = b"video") -> str:
    """A job that has completed: its output, what lies beside it, and its work files."""
    folder = settings.storage_dir
    folder.mkdir(exist_ok=True)
    for name in (NAME, *BESIDE):
        (folder / name).write_bytes(content)
    (folder / "another.mp4").write_bytes(b"of another job")
    job_dir = JobDir(settings.job_dir(job_key))
    job_dir.segments_path.mkdir(parents=True, exist_ok=True)
    (job_dir.segments_path / "00000.mp4").write_bytes(content)
    job_dir.result_path.write_text("{}")
    return completed(client, settings, job_key)


def completed(client: httpx.Client, settings: Settings, job_key: str) -> str:
    """A run that has the output, as a run of the same request has it as well."""
    folder = settings.storage_dir
    job = submit(client)
    record_result(
        job,
        job_key=job_key,
        cdn_url=None,
        sha256=hashlib.sha256(b"video").hexdigest(),
        output_path=str(folder / NAME),
        preview_path=str(folder / BESIDE[0]),
        report_path=str(folder / BESIDE[1]),
    )
    with get_client(sync_client=True) as prefect:
        run = prefect.read_flow_run(UUID(job))
        prefect.update_flow_run(run.id, tags=[*run.tags, job_tag(job_key)])
    set_state(job, StateType.COMPLETED)
    return job


def left(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.storage_dir.iterdir())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path)


def test_all_that_a_job_has_made_goes_and_nothing_else(
    settings: Settings, api_url: str, job_key: str
) -> None:
    with gateway(settings, api_url) as client:
        job = made(client, settings, job_key)
        assert client.get(f"/status/{job}").json()["output_path"]
        told = client.delete(f"/jobs/{job}")
        assert told.status_code == 200, told.text
        removed = told.json()
        assert removed["removed"] == [NAME, *BESIDE, "work files"]
        assert (removed["kept"], removed["removed_bytes"]) == ([], 5 + 5 + 2)
        assert left(settings) == ["another.mp4"]
        assert not settings.job_dir(job_key).exists()

        status = client.get(f"/status/{job}").json()
        assert (status["status"], status["output_path"]) == ("completed", None)
        assert status["deleted_at"] == removed["deleted_at"]
        again = client.delete(f"/jobs/{job}")
        assert again.status_code == 200
        assert (again.json()["removed"], again.json()["removed_bytes"]) == ([], 0)
        assert again.json()["deleted_at"] == removed["deleted_at"]


def test_a_job_that_waits_or_works_is_cancelled_first(
    settings: Settings, api_url: str, job_key: str
) -> None:
    with gateway(settings, api_url) as client:
        job = submit(client)
        assert client.delete(f"/jobs/{job}").status_code == 409
        set_state(job, StateType.RUNNING)
        refused = client.delete(f"/jobs/{job}")
        assert refused.status_code == 409
        assert "cancel it first" in refused.json()["detail"]
        set_state(job, StateType.CANCELLED)
        assert client.delete(f"/jobs/{job}").json()["removed"] == [], "it was never planned"

        planned = submit(client)
        record_progress(planned, 10.0, job=PLANNED.replace("0" * 64, job_key))
        set_state(planned, StateType.FAILED)
        settings.job_dir(job_key).mkdir(parents=True)
        assert client.delete(f"/jobs/{planned}").json()["removed"] == ["work files"]
        assert not settings.job_dir(job_key).exists()


def test_an_output_goes_with_the_last_of_the_jobs_that_have_it(
    settings: Settings, api_url: str, job_key: str
) -> None:
    """Two callers with the same request have one output; who deletes takes nothing of others."""
    closed = settings.model_copy(
        update={"gateway_tokens": tuple(digest(token) for token in ("one", "two"))}
    )
    with gateway(closed, api_url) as client:

        def as_caller(token: str) -> httpx.Client:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.Client(base_url=client.base_url, headers=headers, timeout=60)

        with as_caller("one") as one, as_caller("two") as two:
            first = made(one, closed, job_key)
            second = completed(two, closed, job_key)
            for path, who in ((first, two), (second, one), (str(uuid4()), one)):
                assert who.delete(f"/jobs/{path}").status_code == 404
            told = one.delete(f"/jobs/{first}").json()
            assert (told["removed"], told["kept"]) == (
                [], [f"{NAME}: another job has the same output"]
            )  # fmt: skip
            assert NAME in left(closed)
            assert settings.job_dir(job_key).exists()
            assert one.get(f"/status/{first}").json()["output_path"] is None
            assert two.get(f"/status/{second}").json()["output_path"]
            assert NAME in two.delete(f"/jobs/{second}").json()["removed"]
            assert NAME not in left(closed)


def test_a_file_that_is_not_the_jobs_own_stays(
    settings: Settings, api_url: str, job_key: str
) -> None:
    with gateway(settings, api_url) as client:
        job = made(client, settings, job_key)
        (settings.storage_dir / NAME).write_bytes(b"somebody has put this here")
        told = client.delete(f"/jobs/{job}").json()
        assert told["kept"] == [f"{NAME}: it is another file than the job has made"]
        assert {NAME, "another.mp4"} <= set(left(settings))


def test_a_run_at_work_on_the_same_video_keeps_its_files(
    settings: Settings, api_url: str, job_key: str
) -> None:
    with gateway(settings, api_url) as client:
        job = made(client, settings, job_key)
        lock = JobDir(settings.job_dir(job_key)).lock_path
        with hold_lock(lock, timeout=5, on_wait=lambda: None):
            refused = client.delete(f"/jobs/{job}")
        assert refused.status_code == 409
        assert NAME in left(settings)
        assert client.get(f"/status/{job}").json()["deleted_at"] is None
        assert NAME in client.delete(f"/jobs/{job}").json()["removed"]


def test_a_storage_that_is_away_loses_nothing(
    settings: Settings, api_url: str, job_key: str
) -> None:
    away = settings.model_copy(
        update={
            "storage": "s3",
            "s3_outputs": "s3://videos",
            "s3_endpoint": "http://127.0.0.1:1",
            "s3_access_key_id": "id",
            "s3_secret_access_key": "secret",
        }
    )
    away = Settings.model_validate(away.model_dump())
    with gateway(away, api_url) as client:
        job = made(client, settings, job_key)
        refused = client.delete(f"/jobs/{job}")
        assert refused.status_code == 503, refused.text
        assert settings.job_dir(job_key).exists()
        assert client.get(f"/status/{job}").json()["deleted_at"] is None
        assert "deleted_at" not in str(job_run(job).labels)
