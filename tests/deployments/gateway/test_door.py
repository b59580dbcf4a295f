"""Who may use the gateway, what it says while Prefect is away, and its command."""

import base64
import hashlib
import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from deployments.gateway.app import create_app
from deployments.gateway.auth import check_exposure, digest
from deployments.gateway.prefect_api import PrefectApi
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings
from tests.kits.gateway import URL, VIDEO, deployed, gateway, served
from tests.kits.processes import ROOT, environment

TOKENS = ("first-token", "second-token")


@pytest.fixture(scope="module", autouse=True)
def on_the_server(api_url: str) -> Iterator[None]:
    with deployed(api_url):
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(work_dir=tmp_path_factory.mktemp("gateway"), fetch_max_bytes=2_000_000)


@pytest.fixture(scope="module")
def client(settings: Settings, api_url: str) -> Iterator[httpx.Client]:
    with gateway(settings, api_url) as client:
        yield client


def test_tokens(settings: Settings, api_url: str) -> None:
    closed = settings.model_copy(update={"gateway_tokens": tuple(digest(t) for t in TOKENS)})
    key = {"Idempotency-Key": "the same for both"}
    jobs = set()
    with gateway(closed, api_url) as client:
        for method, path in (
            ("POST", "/upscale"),
            ("PUT", "/upscale/a.mp4"),
            ("GET", "/jobs"),
            ("GET", f"/status/{uuid4()}"),
            ("POST", f"/cancel/{uuid4()}"),
            ("GET", "/plan?width=1&height=1"),
        ):
            for given in (None, "Bearer wrong", f"Bearer {digest(TOKENS[0])}", "Basic Og=="):
                headers = {"Authorization": given} if given else {}
                answer = client.request(method, path, headers=headers)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client.get("/healthz").status_code == 200
        for token in TOKENS:
            headers = {"Authorization": f"Bearer {token}", **key}
            answer = client.post("/upscale", json={"video_url": URL}, headers=headers)
            jobs.add(answer.json()["job_id"])
    assert len(jobs) == 2, "keys of two callers do not meet"


def test_without_tokens_web_pages_are_not_answered(client: httpx.Client) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    assert client.get("/jobs", headers=headers).status_code == 403


def test_tokens_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().gateway_tokens == ()
    one, two = digest("one"), digest("two")
    monkeypatch.setenv("SEEDVR2_GATEWAY_TOKENS", f"{one}, {two.upper()}")
    assert Settings().gateway_tokens == (one, two)
    monkeypatch.setenv("SEEDVR2_GATEWAY_TOKENS", f"{one},my-token-itself")
    with pytest.raises(ValueError, match="SHA-256"):
        Settings()


def test_without_tokens_only_loopback_is_listened_on() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.0.1"):
        check_exposure(host, Settings())
    for host in ("0.0.0.0", "::", "192.168.1.5", "gpu-host"):
        with pytest.raises(InvalidRequestError, match="loopback only"):
            check_exposure(host, Settings())
        check_exposure(host, Settings(gateway_tokens=(digest("x"),)))


class TestPrefectIsAway:
    """503, when to come back, and nothing half done."""

    @pytest.fixture
    def closed_port(self) -> Iterator[str]:
        with socket.socket() as held:  # bound and not listening: nobody can answer here
            held.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{held.getsockname()[1]}/api"

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


def run_gateway(*arguments: str, **changes: str) -> "subprocess.Popen[str]":
    """`python -m deployments.gateway`."""
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.gateway", *arguments],
        env=environment(changes),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def command(api_url: str, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The gateway's own process and its address; a killed one had left a file half written."""
    left = tmp_path / "intake" / ".upload-0.part"
    left.parent.mkdir()
    left.write_bytes(b"of a killed gateway")
    process = run_gateway(
        "--port", "0", "--parent", str(os.getpid()),
        PREFECT_API_URL=api_url, SEEDVR2_WORK_DIR=str(tmp_path),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        name, _, url = process.stdout.readline().strip().partition(": ")
        assert name == "gateway"
        yield process, url
    finally:
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    assert process.returncode in (0, -15)


def peak_kib(process: "subprocess.Popen[str]") -> int:
    """Most memory the process ever held."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_the_command_serves_in_little_memory(
    command: tuple["subprocess.Popen[str]", str], tmp_path: Path
) -> None:
    process, url = command
    count, block = 64, VIDEO[:600_000] + b"\0" * 448_576
    digest_ = hashlib.sha256(block * count).hexdigest()
    text = base64.b64encode(block * 3)
    with httpx.Client(base_url=url, timeout=120) as client:
        assert client.get("/healthz").status_code == 200
        assert not (tmp_path / "intake" / ".upload-0.part").exists()
        before = peak_kib(process)
        raw = client.put("/upscale/a.mp4", content=iter([block] * count))
        form = client.post("/upscale", files={"video": ("a.mp4", Blocks(block, count))})
        body = [b'{"video_base64":"', *[text] * (count // 3), b'"}']
        json_type = {"Content-Type": "application/json"}
        encoded = client.post("/upscale", content=iter(body), headers=json_type)
        grown = peak_kib(process) - before
    assert [a.status_code for a in (raw, form, encoded)] == [202] * 3
    assert raw.json()["video_url"] == form.json()["video_url"] == f"upload:{digest_}/a.mp4"
    assert grown < 40 * 1024


class Blocks(io.RawIOBase):
    """A large file that is the same block again and again."""

    def __init__(self, block: bytes, count: int) -> None:
        self._block, self._size, self._at = block, len(block) * count, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        start = self._at % len(self._block)
        piece = self._block[start : start + size] if self._at < self._size else b""
        self._at += len(piece)
        return piece


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        (["--host", "0.0.0.0"], {}, "loopback only"),
        (["--port", "0"], {"PREFECT_API_URL": ""}, "PREFECT_API_URL"),
    ],
)
def test_the_command_refuses_to_start_wrongly(
    arguments: list[str], changes: dict[str, str], named: str
) -> None:
    done = run_gateway(*arguments, **{"PREFECT_API_URL": "http://127.0.0.1:9/api", **changes})
    _, told = done.communicate(timeout=60)
    assert (done.returncode, named in told) == (2, True), told


def test_a_new_token_and_its_digest_belong_together() -> None:
    told, _ = run_gateway("--new-token").communicate(timeout=60)
    token, shown = (line.split()[-1] for line in told.strip().splitlines())
    assert digest(token) == shown


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
