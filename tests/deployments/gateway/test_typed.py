"""The typed client: its types are the OpenAPI document's, and it speaks to a real gateway."""

import re
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from deployments.gateway.answers import Job, Submitted
from deployments.gateway.app import create_app
from deployments.gateway.auth import digest
from deployments.gateway.given import GivenJob, GivenLine, GivenSubmission
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.routes.jobs import LogLine
from deployments.gateway.typed import (
    JobDeletion,
    JobStatus,
    JobTicket,
    LogEntry,
    TypedClient,
    UpscaleOptions,
)
from seedvr2_core.errors import InvalidRequestError, ServiceError
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tests.kits.factories import preview_part
from tests.kits.http.gateway import URL, gateway, record_result, set_state
from tests.kits.server import eventually

KINDS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": NoneType,
    "object": dict[str, Any],
}


def kinds_of(schema: dict[str, Any]) -> set[Any]:
    """The Python types of a property."""
    if "anyOf" in schema:
        return {kind for one in schema["anyOf"] for kind in kinds_of(one)}
    if "enum" in schema:
        return set(schema["enum"])
    if "$ref" in schema:  # another object
        return {dict[str, Any]}
    return {list[str]} if schema["type"] == "array" else {KINDS[schema["type"]]}


def kinds_in(hint: Any) -> set[Any]:
    """The same of a type hint."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return set(get_args(hint)) if isinstance(hint, UnionType) else {hint}


@pytest.mark.parametrize(
    ("name", "ours"),
    [("Submitted", JobTicket), ("Job", JobStatus), ("LogLine", LogEntry), ("Deleted", JobDeletion)],
)
def test_answers_are_typed_as_the_openapi_document_has_them(name: str, ours: type) -> None:
    document = create_app(Settings(), PrefectApi("http://127.0.0.1:9/api")).openapi()
    properties = document["components"]["schemas"][name]["properties"]
    hints = get_type_hints(ours)
    assert hints.keys() == properties.keys()
    for field, hint in hints.items():
        assert kinds_in(hint) == kinds_of(properties[field]), field


def test_what_the_commands_read_is_what_a_gateway_says() -> None:
    for read, said in ((GivenJob, Job), (GivenSubmission, Submitted), (GivenLine, LogLine)):
        assert read.model_fields.keys() <= said.model_fields.keys(), read.__name__


def test_options_are_those_of_a_request() -> None:
    sources = {"video_url", "video_path", "video_base64"}
    assert get_type_hints(UpscaleOptions).keys() == UpscaleRequest.model_fields.keys() - sources


def test_a_program_that_uses_it_loads_neither_prefect_nor_torch() -> None:
    code = "import sys, seedvr2.client; print({'prefect', 'torch', 'av'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout.strip() == "set()", told.stderr


@pytest.mark.usefixtures("on_the_server")
def test_a_job_from_submit_to_download(settings: Settings, api_url: str, tmp_path: Path) -> None:
    closed = settings.model_copy(update={"gateway_tokens": (digest("mine"),)})
    made = tmp_path / "made.mp4"
    made.write_bytes(b"the result")
    with gateway(closed, api_url) as http:
        url = str(http.base_url)
        with (
            TypedClient(url, token="wrong") as client,
            pytest.raises(InvalidRequestError, match="401"),
        ):
            client.submit(URL)
        with TypedClient(url, token="mine") as client:
            job = client.submit(URL, resolution="720p", model="lanczos", seed=7)
            assert (job["status"], job["resolution"]) == ("pending", "720p")
            assert [one["job_id"] for one in client.jobs()] == [job["job_id"]]
            with pytest.raises(ServiceError, match="has no result"):
                client.download(client.status(job["job_id"]), tmp_path / "early.mp4")
            record_result(job["job_id"], cdn_url=None, output_path=str(made))
            set_state(job["job_id"], StateType.COMPLETED)
            seen: list[str] = []
            ended = client.wait(job["job_id"], on_status=lambda told: seen.append(told["status"]))
            assert (ended["status"], seen[-1]) == ("completed", "completed")
            assert client.download(ended, tmp_path / "mine.mp4").read_bytes() == b"the result"
            with pytest.raises(FileExistsError, match=r"mine\.mp4 exists"):
                client.download(ended, tmp_path / "mine.mp4")
            assert list(client.logs(job["job_id"])) == []
            shown = client.submit(URL, preview="1s@2")["job_id"]
            record_result(shown, preview=preview_part().model_dump(mode="json"))
            set_state(shown, StateType.COMPLETED)
            assert client.status(shown)["whole_with"] == f"whole/{shown}"
            whole = client.whole(shown)["job_id"]
            assert client.status(whole)["preview"] is None
            other = client.submit(URL, resolution="2k")
            assert client.cancel(other["job_id"])["status"] == "cancelled"
            assert client.retry(other["job_id"], max_seconds=60)["resolution"] == "2k"
            assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["made.mp4", "mine.mp4"]
        assert httpx.get(f"{url}/jobs").status_code == 401


@pytest.mark.usefixtures("on_the_server")
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_the_example_of_the_page_runs(
    settings: Settings,
    api_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "developer.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made.mp4"
    made.write_bytes(b"the result")
    closed = settings.model_copy(update={"gateway_tokens": (digest("TOKEN"),)})
    with gateway(closed, api_url) as http:
        url = str(http.base_url).rstrip("/")

        def end_it() -> None:
            with TypedClient(url, token="TOKEN") as client:
                waiting = eventually(
                    lambda: [one for one in client.jobs() if one["status"] == "pending"],
                    "the job of the example",
                )
                job = waiting[0]["job_id"]
            if end == "completed":
                record_result(job, cdn_url=None, output_path=str(made))
                set_state(job, StateType.COMPLETED)
            else:
                set_state(job, StateType.FAILED, message="all is spent [over_budget]")

        worker = threading.Thread(target=copy_context().run, args=(end_it,))
        worker.start()
        exec(compile(example.replace("http://127.0.0.1:8000", url), "developer.md", "exec"), {})
        worker.join()
    told = capsys.readouterr().out
    if end == "completed":
        assert (tmp_path / "restored.mp4").read_bytes() == b"the result"
    else:
        assert "over_budget all is spent" in told
