"""Who may use the gateway."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client

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


@pytest.mark.long
@pytest.mark.usefixtures("on_the_server")
def test_a_token_sees_its_own_jobs_and_an_operators_token_all(
    settings: Settings, api_url: str
) -> None:
    closed = settings.model_copy(
        update={
            "gateway_tokens": tuple(digest(t) for t in TOKENS),
            "gateway_operator_tokens": (digest("operator"),),
        }
    )
    with gateway(closed, api_url) as client:

        def ask(token: str, method: str, path: str, **options: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"}
            return client.request(method, path, headers=headers, **options)

        def listed(token: str) -> set[str]:
            return {j["job_id"] for j in ask(token, "GET", "/jobs?limit=100").json()["jobs"]}

        tokens = (*TOKENS, "operator")
        jobs = {
            token: ask(token, "POST", "/upscale", json={"video_url": URL}).json()["job_id"]
            for token in tokens
        }
        for token, job in jobs.items():
            for other in tokens:
                sees = other in (token, "operator")
                for path in (f"/status/{job}", f"/logs/{job}"):
                    assert ask(other, "GET", path).status_code == (200 if sees else 404)
                if not sees:
                    refused = ask(other, "POST", f"/cancel/{job}")
                    unknown = ask(other, "POST", f"/cancel/{uuid4()}")
                    assert refused.status_code == unknown.status_code == 404
                    assert ask(token, "GET", f"/status/{job}").json()["status"] == "pending"
                assert (job in listed(other)) is sees
        assert ask("operator", "POST", f"/cancel/{jobs[TOKENS[0]]}").json()["status"] == "cancelled"
        assert ask(TOKENS[1], "POST", f"/cancel/{jobs[TOKENS[1]]}").json()["status"] == "cancelled"

        with get_client(sync_client=True) as prefect:
            name = "upscale/h100"
            deployment = prefect.read_deployment_by_name(name).id
            given = {"video_url": URL}
            by_hand = prefect.create_flow_run_from_deployment(deployment, parameters=given)
            old = prefect.create_flow_run_from_deployment(
                deployment, parameters=given, idempotency_key=f"gateway:{uuid4()}"
            )
        for token in TOKENS:
            assert ask(token, "GET", f"/status/{by_hand.id}").status_code == 404
            assert ask(token, "GET", f"/status/{old.id}").status_code == 200, "made before owners"
            assert not {str(by_hand.id), str(old.id)} & listed(token)
        assert {str(by_hand.id), str(old.id)} <= listed("operator")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 200, id="a program"),
        pytest.param({"Origin": "http://{host}"}, 200, id="our page"),
        pytest.param({"Origin": "https://{host}"}, 200, id="our page behind a proxy"),
        pytest.param({"Sec-Fetch-Site": "none"}, 200, id="an address typed in"),
        pytest.param({"Sec-Fetch-Site": "same-origin"}, 200, id="our page reads"),
        pytest.param(
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200, id="a link"
        ),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, 403, id="another page reads"),
        pytest.param({"Origin": "http://{host}.evil.test"}, 403, id="a longer name"),
        pytest.param({"Origin": "http://evil.test"}, 403, id="another name"),
        pytest.param({"Origin": "null"}, 403, id="a sandbox"),
        pytest.param({"Origin": ""}, 403, id="an empty origin"),
    ],
)
def test_which_pages_may_ask_without_tokens(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    host = client.base_url.netloc.decode()
    given = {name: value.format(host=host) for name, value in headers.items()}
    assert client.get("/plan?width=2&height=2", headers=given).status_code == status


def test_without_tokens_web_pages_are_not_answered(client: httpx.Client) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    assert client.get("/jobs", headers=headers).status_code == 403
