"""What one token may do: requests a minute, open jobs, bytes, and the queue of its jobs."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import HTTPException
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from deployments.gateway.auth import digest
from deployments.gateway.limits.per_minute import WINDOW_SECONDS, RateLimit
from tasks.settings import Settings
from tests.kits.http.gateway import URL, gateway, job_run, set_state

TOKENS = ("first-token", "second-token", "operator")
pytestmark = pytest.mark.usefixtures("on_the_server")


def closed(folder: Path, limits: str = "", **fields: Any) -> Settings:
    """Settings with two tokens and an operator's."""
    return Settings.model_validate(
        {
            "work_dir": folder,
            "gateway_tokens": ",".join(digest(token) for token in TOKENS[:2]),
            "gateway_operator_tokens": digest(TOKENS[2]),
            "gateway_token_limits": limits,
            **fields,
        }
    )


def ask(client: httpx.Client, token: str, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
    return client.request(method, path, headers=headers, **more)


def post(client: httpx.Client, token: str, **headers: str) -> httpx.Response:
    return ask(client, token, "POST", "/upscale", json={"video_url": URL}, headers=headers)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3f9a:rate=3", "first 12 or more"),
        ("3f9a12bc4d5e:speed=3", "known are priority, rate"),
        ("3f9a12bc4d5e:rate=0", "greater than 0"),
        ("3f9a12bc4d5e:priority=urgent", "'high'"),
        ("3f9a12bc4d5e:jobs=2,3f9a12bc4d5eff:jobs=2", "two entries begin with 3f9a12bc4d5e"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setenv("SEEDVR2_GATEWAY_TOKEN_LIMITS", text)
    with pytest.raises(ValueError, match=words):
        Settings()


def test_a_tokens_own_entry_comes_before_what_holds_for_all(tmp_path: Path) -> None:
    first, second, operator = (digest(token) for token in TOKENS)
    settings = closed(
        tmp_path, f"{first[:12]}:rate=7:jobs=2:bytes=9,{operator}:jobs=3", gateway_rate=100
    )
    assert settings.limits_of(first).model_dump() == {
        "priority": "default", "rate": 7, "open_jobs": 2, "quota_bytes": 9
    }  # fmt: skip
    assert settings.limits_of(second).rate == 100
    own = settings.limits_of(operator)
    assert (own.rate, own.open_jobs) == (None, 3), "no limit for all holds for operators"


def test_a_token_that_asks_too_often_is_told_how_long_to_wait(tmp_path: Path, api_url: str) -> None:
    settings = closed(tmp_path, f"{digest(TOKENS[1])[:12]}:rate=2", gateway_rate=5)
    with gateway(settings, api_url) as client:
        answers = [ask(client, TOKENS[0], "GET", f"/status/{uuid4()}") for _ in range(6)]
        assert [a.status_code for a in answers] == [404] * 5 + [429]
        assert answers[0].headers["RateLimit-Policy"] == '"requests";q=5;w=60'
        assert answers[0].headers["RateLimit"] == '"requests";r=4;t=12'
        refused = answers[-1]
        assert 1 <= int(refused.headers["Retry-After"]) <= 12
        assert refused.headers["RateLimit"].startswith('"requests";r=0;t=')
        assert "5 requests a minute" in refused.json()["detail"]
        # Others go on, each by what holds for it; a page, and who may not ask at all, count not.
        assert [ask(client, TOKENS[1], "GET", "/jobs").status_code for _ in range(3)] == [
            200, 200, 429
        ]  # fmt: skip
        assert {ask(client, "operator", "GET", "/jobs").status_code for _ in range(8)} == {200}
        assert "RateLimit" not in ask(client, "operator", "GET", "/jobs").headers
        assert ask(client, "nobody", "GET", "/jobs").status_code == 401
        assert client.get("/healthz").status_code == 200


def test_requests_come_back_evenly(tmp_path: Path) -> None:
    """Not all at once when a minute is over."""
    now = 0.0
    settings = closed(tmp_path, gateway_rate=60)
    limit = RateLimit(settings, clock=lambda: now)
    name = digest(TOKENS[0])

    def passes() -> int:
        taken = 0
        while True:
            try:
                limit.count(httpx_request(), name)
            except HTTPException:
                return taken
            taken += 1

    assert passes() == 60
    now = 3.0
    assert passes() == 3
    now += 10 * WINDOW_SECONDS
    assert passes() == 60, "more than a minute's requests are never saved up"


def httpx_request() -> Any:
    """Something with the scope of a request."""
    from starlette.requests import Request

    return Request({"type": "http"})


def test_a_token_has_as_many_open_jobs_as_it_may(tmp_path: Path, api_url: str) -> None:
    with gateway(closed(tmp_path, gateway_open_jobs=2), api_url) as client:
        first = post(client, TOKENS[0], **{"Idempotency-Key": "one"})
        second = post(client, TOKENS[0])
        refused = post(client, TOKENS[0])
        assert [a.status_code for a in (first, second, refused)] == [202, 202, 429]
        assert int(refused.headers["Retry-After"]) > 0
        assert "2 jobs" in refused.json()["detail"]
        again = post(client, TOKENS[0], **{"Idempotency-Key": "one"})
        assert again.json()["job_id"] == first.json()["job_id"], "the same request is no new job"
        assert post(client, TOKENS[1]).status_code == 202, "others have jobs of their own"
        assert {post(client, "operator").status_code for _ in range(3)} == {202}

        failed = second.json()["job_id"]
        set_state(failed, StateType.FAILED)
        assert post(client, TOKENS[0]).status_code == 202
        retried = ask(client, TOKENS[0], "POST", f"/retry/{failed}")
        assert retried.status_code == 429, "a job that is tried again is a job"


def test_no_video_is_received_for_a_job_too_many(tmp_path: Path, api_url: str) -> None:
    token = f"token of {tmp_path}"  # other tests' jobs are open on the same server
    settings = closed(tmp_path, gateway_open_jobs=1, gateway_tokens=digest(token))
    with gateway(settings, api_url) as client:
        assert post(client, token).status_code == 202
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.put("/upscale/a.mp4", content=b"video", headers=headers)
        assert answer.status_code == 429
    kept = [path for path in (tmp_path / "intake").rglob("*") if path.is_file()]
    assert not kept


def test_a_tokens_jobs_wait_in_its_queue(tmp_path: Path, api_url: str) -> None:
    low, high = digest(TOKENS[0]), digest(TOKENS[1])
    limits = f"{low[:12]}:priority=low,{high[:20]}:priority=high"
    with gateway(closed(tmp_path, limits), api_url) as client:
        jobs = [post(client, token).json()["job_id"] for token in (*TOKENS, TOKENS[1])]
        queues = [job_run(job).work_queue_name for job in jobs]
        assert queues == ["low", "high", "default", "high"]

        def position(job: str) -> int:
            return ask(client, "operator", "GET", f"/status/{job}").json()["position"]

        # Other tests' jobs may wait here as well: only those of these queues are compared.
        assert position(jobs[3]) == position(jobs[1]) + 1
        assert position(jobs[0]) >= 3, "all of the others come first, although they came later"
        set_state(jobs[0], StateType.CANCELLED)
        again = ask(client, TOKENS[0], "POST", f"/retry/{jobs[0]}").json()["job_id"]
        assert job_run(again).work_queue_name == "low"


def test_a_tokens_bytes_are_its_own(tmp_path: Path, api_url: str) -> None:
    settings = closed(tmp_path, f"{digest(TOKENS[0])[:12]}:bytes=1000", gateway_quota_bytes=10**6)
    with gateway(settings, api_url) as client:
        sent = {
            token: client.put(
                "/upscale/a.mp4",
                content=token.encode() * 100,
                headers={"Authorization": f"Bearer {token}"},
            ).status_code
            for token in TOKENS[:2]
        }
    assert sent == {TOKENS[0]: 507, TOKENS[1]: 202}


def test_the_queues_are_made_in_the_order_of_their_priority(api_url: str) -> None:
    """By `make deploy`, also where pools of the version before have `parts` already."""
    from prefect.client.schemas.actions import WorkPoolCreate

    from deployments.deploy import apply

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="local", type="process"))
        try:
            client.create_work_queue("parts", priority=1000, work_pool_name="local")
            for _ in range(2):
                apply._apply_queues(client, "local")
            queues = client.read_work_queues(work_pool_name="local")
        finally:
            client.delete_work_pool("local")
    found = {queue.name: queue.priority for queue in queues}
    order = sorted(found, key=lambda name: found[name])
    assert order == ["high", "default", "low", "parts"]
