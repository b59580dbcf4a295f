"""GET /readyz: which part fails, and that nobody waits for it longer than the limit."""

import time
from pathlib import Path

import httpx
import pytest

from deployments.gateway.routes import health
from tasks.settings import Settings
from tests.kits.http.gateway import gateway, served

pytestmark = pytest.mark.usefixtures("on_the_server")


def test_all_is_well(tmp_path: Path, api_url: str) -> None:
    with gateway(Settings(work_dir=tmp_path / "new"), api_url) as client:
        told = client.get("/readyz")
    assert told.status_code == 200
    checks = told.json()["checks"]
    assert list(checks) == ["prefect", "database", "work_dir"]
    assert all(
        check["ok"] and check["seconds"] < health.HEALTH_SECONDS for check in checks.values()
    )
    assert not list((tmp_path / "new").glob("**/*.part"))


def test_a_work_directory_that_cannot_be_written(tmp_path: Path, api_url: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with gateway(Settings(work_dir=tmp_path / "file"), api_url) as client:
        told = client.get("/readyz")
        assert client.get("/healthz").status_code == 200, "jobs can be submitted all the same"
    assert told.status_code == 503
    assert int(told.headers["Retry-After"]) > 0
    assert told.json()["detail"].startswith("work_dir: ")


@pytest.mark.long
def test_a_disk_that_hangs_holds_up_nobody_and_one_thread(
    tmp_path: Path, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "HEALTH_SECONDS", 0.5)
    calls = 0

    def hang(folder: Path) -> None:
        nonlocal calls
        calls += 1
        time.sleep(4)

    monkeypatch.setattr(health, "try_writing", hang)
    with gateway(Settings(work_dir=tmp_path), api_url) as client:
        began = time.monotonic()
        answers = [client.get("/readyz") for _ in range(3)]
        assert time.monotonic() - began < 4
    assert {a.status_code for a in answers} == {503}
    assert "work_dir: no answer within 0.5 s" in answers[0].json()["detail"]
    assert calls == 1


def test_a_server_without_its_database(tmp_path: Path) -> None:
    """As Prefect's server answers then."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    server = Starlette(
        routes=[
            Route("/api/admin/version", lambda request: JSONResponse("3.9.1")),
            Route(
                "/api/ready",
                lambda request: JSONResponse({"message": "no database"}, status_code=503),
            ),
        ]
    )
    with (
        served(server) as url,
        gateway(Settings(work_dir=tmp_path), f"{url}/api") as client,
    ):
        told: httpx.Response = client.get("/readyz")
    assert told.status_code == 503
    assert told.json()["detail"] == "database: Prefect answers 503"
