"""Who may use the gateway."""

from uuid import uuid4

import httpx
import pytest

from deployments.gateway.auth import check_exposure, digest
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings
from tests.kits.http.gateway import URL, gateway

TOKENS = ("first-token", "second-token")


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


@pytest.mark.usefixtures("on_the_server")
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
