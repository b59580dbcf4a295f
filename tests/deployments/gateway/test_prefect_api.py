"""The gateway's calls to Prefect: its password, and what callers hear while it is away."""

import base64
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from deployments.gateway.app import create_app
from deployments.gateway.prefect_api import PrefectApi
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings
from tests.kits.http.gateway import URL, VIDEO, gateway, served

pytestmark = pytest.mark.usefixtures("on_the_server")


class TestPrefectIsAway:
    """503, when to come back, and nothing half done."""

    @pytest.fixture
    def closed_port(self) -> Iterator[str]:
        with socket.socket() as held:  # bound and not listening: nobody can answer here
            held.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{held.getsockname()[1]}/api"

    @pytest.mark.long
    def test_every_address_says_so(self, tmp_path: Path, closed_port: str) -> None:
        with gateway(Settings(work_dir=tmp_path), closed_port) as client:
            answers = [
                client.post("/upscale", json={"video_url": URL}),
                client.put("/upscale/a.mp4", content=VIDEO),
                client.get(f"/status/{uuid4()}"),
                client.post(f"/cancel/{uuid4()}"),
                client.get("/jobs"),
                client.get("/healthz"),
            ]
            assert [answer.status_code for answer in answers] == [503] * len(answers)
            assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
            assert client.get("/plan", params={"width": 2, "height": 2}).status_code == 200
        assert not list(tmp_path.rglob(".upload-*"))

    def test_the_same_key_later_makes_one_job(
        self, settings: Settings, closed_port: str, api_url: str
    ) -> None:
        key = f"outage-{uuid4()}"
        body = {"video_url": URL, "resolution": "1080p"}
        headers = {"Idempotency-Key": key}
        with gateway(settings, closed_port) as client:
            assert client.post("/upscale", json=body, headers=headers).status_code == 503
        jobs = set()
        for _ in range(2):
            with gateway(settings, api_url) as client:  # a new process knows what the last did
                jobs.add(client.post("/upscale", json=body, headers=headers).json()["job_id"])
        assert len(jobs) == 1

    def test_a_deployment_that_is_missing_is_an_outage(
        self, settings: Settings, api_url: str
    ) -> None:
        elsewhere = settings.model_copy(update={"deployments": {"1080p": "upscale/nowhere"}})
        with gateway(elsewhere, api_url) as client:
            answer = client.post("/upscale", json={"video_url": URL})
            assert (answer.status_code, "upscale/nowhere" in answer.text) == (503, True)
            refused = client.post("/upscale", json={"video_url": URL, "resolution": "4k"})
            assert refused.status_code == 422


@pytest.mark.long
def test_the_health_of_a_silent_server_is_told_within_three_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with gateway(Settings(), url) as client:
            began = time.monotonic()
            answer = client.get("/healthz")
            taken = time.monotonic() - began
    assert (answer.status_code, "does not answer within" in answer.text) == (503, True)
    assert int(answer.headers["Retry-After"]) > 0
    assert taken < 3


def test_an_app_without_a_server_needs_an_address() -> None:
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(InvalidRequestError):
        create_app(Settings(), PrefectApi())


def test_prefects_password_is_shown_to_prefect() -> None:
    async def version(request: Request) -> JSONResponse:
        given = request.headers.get("authorization", "")
        right = base64.b64encode(b"operator:a-password").decode()
        return JSONResponse("3", status_code=200 if given == f"Basic {right}" else 401)

    locked = Starlette(routes=[Route("/api/admin/version", version)])
    with (
        served(locked) as url,
        temporary_settings({PREFECT_API_AUTH_STRING: "operator:a-password"}),
        gateway(Settings(), f"{url}/api") as client,
    ):
        assert client.get("/healthz").json() == {"status": "ok"}
    with served(locked) as url, gateway(Settings(), f"{url}/api") as client:
        assert client.get("/healthz").status_code == 503
