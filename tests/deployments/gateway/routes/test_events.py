"""GET /events/{job_id}: a real gateway streams what happens to runs of a real Prefect server."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest
from fastapi import HTTPException
from prefect.client.schemas.objects import StateType

from deployments.gateway import client as gateway_client
from deployments.gateway.answers import Job
from deployments.gateway.auth import digest
from deployments.gateway.client import GatewayClient
from deployments.gateway.routes import events
from deployments.host import listen
from tasks.settings import Settings
from tests.kits.http.gateway import gateway, record_progress, record_result, set_state, submit

pytestmark = pytest.mark.usefixtures("on_the_server")


def told_by(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    """(event, data) of a stream, in order; signs of life have the event ":"."""
    event = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, value
        elif line.startswith(":"):
            yield ":", line


@pytest.mark.long
def test_a_job_is_followed_to_its_end(client: httpx.Client) -> None:
    job = submit(client)
    seen, whole = [], []
    with client.stream("GET", f"/events/{job}") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        for event, data in told_by(answer):
            if event == "end":
                break
            told = json.loads(data)
            assert told.keys() == Job.model_fields.keys(), "as GET /status answers"
            seen.append((told["status"], told["progress"]))
            whole.append({name: told[name] for name in told if name != "elapsed_seconds"})
            if seen == [("pending", 0.0)]:
                assert told["position"] is not None
                set_state(job, StateType.RUNNING)
                record_progress(job, 42.5)
            elif told["progress"] == 42.5 and not told["filename"]:
                record_result(job)
                set_state(job, StateType.COMPLETED)
    assert seen[0] == ("pending", 0.0)
    assert ("processing", 42.5) in seen
    assert seen[-1] == ("completed", 100.0)
    assert all(one != other for one, other in pairwise(whole)), "nothing is told twice"
    with client.stream("GET", f"/events/{job}") as answer:  # whoever comes later is told at once
        assert [event for event, _ in told_by(answer)] == ["status", "end"]


def test_a_stream_shows_that_it_is_alive(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.1)
    job = submit(client)
    with client.stream("GET", f"/events/{job}") as answer:
        told = told_by(answer)
        assert next(told)[0] == "status"
        assert next(told) == (":", ": still here")


def test_a_prefect_that_is_away_ends_no_stream(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.05)
    job, find, looks = submit(client), events.find_run, []

    async def find_later(*arguments: object) -> object:
        looks.append(1)
        if 1 < len(looks) < 6:
            raise HTTPException(503, "away")
        return await find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(events, "find_run", find_later)
    with client.stream("GET", f"/events/{job}") as answer:
        assert next(told_by(answer))[0] == "status"
    assert len(looks) >= 6


def test_listeners_are_bounded_and_make_room_when_they_leave(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_OF_CALLER", 1)
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.05)
    job = submit(client)
    with client.stream("GET", f"/events/{job}") as answer:
        told = told_by(answer)  # whoever drops it leaves
        next(told)
        refused = client.get(f"/events/{job}")
        assert (refused.status_code, "too many listeners" in refused.text) == (503, True)
        assert refused.headers["retry-after"] == "10"
    deadline = time.monotonic() + 30
    set_state(job, StateType.COMPLETED)
    while client.get(f"/events/{job}").status_code != 200:
        assert time.monotonic() < deadline, "the place stays taken"
        time.sleep(0.1)


def test_a_token_listens_to_its_own_jobs(settings: Settings, api_url: str) -> None:
    closed = settings.model_copy(update={"gateway_tokens": (digest("one"), digest("two"))})
    with gateway(closed, api_url) as client:
        one, two = ({"Authorization": f"Bearer {name}"} for name in ("one", "two"))
        body = {"video_url": "https://example.org/a.mp4"}
        job = client.post("/upscale", json=body, headers=one).json()["job_id"]
        assert client.get(f"/events/{job}").status_code == 401
        assert client.get(f"/events/{job}", headers=two).status_code == 404
        with client.stream("GET", f"/events/{job}", headers=one) as answer:
            assert next(told_by(answer))[0] == "status"


def test_a_stream_does_not_keep_a_gateway_that_is_to_end(
    settings: Settings, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "DRAIN_SECONDS", 200)
    with gateway(settings, api_url) as client, httpx.Client(timeout=60) as listener:
        job = submit(client)
        request = listener.build_request("GET", f"{client.base_url}/events/{job}")
        answer = listener.send(request, stream=True)
        told = told_by(answer)
        next(told)
        ending = time.monotonic()
    assert time.monotonic() - ending < 30


@pytest.mark.long
@pytest.mark.parametrize("places", [100, 0], ids=["by events", "by questions"])
def test_the_client_follows_a_job(
    client: httpx.Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    monkeypatch.setattr(events, "MAX_LISTENERS", places)
    monkeypatch.setattr(gateway_client, "POLL_SECONDS", 0.1)
    ours = GatewayClient(settings, url=str(client.base_url), say=print)
    asked: list[str] = []
    ours._http.event_hooks["request"] = [lambda request: asked.append(request.url.path)]
    job = submit(client)
    seen: list[str] = []

    def follow() -> None:
        seen.extend(told["status"] for told in ours.follow(job))

    following = threading.Thread(target=follow)
    following.start()
    while not asked:
        time.sleep(0.05)
    set_state(job, StateType.RUNNING)
    time.sleep(1.5)
    set_state(job, StateType.COMPLETED)
    following.join(60)
    ours.close()
    assert list(dict.fromkeys(seen))[-2:] == ["processing", "completed"]
    assert asked.count(f"/events/{job}") == 1, "asked for once, as it is not to be had"
    assert (f"/status/{job}" in asked) == (places == 0)


def test_a_crowd_that_comes_at_once_gets_no_more_places(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them pass the question for the job together: its answers are shared."""
    monkeypatch.setattr(events, "MAX_OF_CALLER", 3)
    find = events.find_run

    async def find_slowly(*arguments: object) -> object:
        await asyncio.sleep(0.5)
        return await find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(events, "find_run", find_slowly)
    job = submit(client)
    head = f"GET /events/{job} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    address = (client.base_url.host, client.base_url.port or 0)
    crowd = [socket.create_connection(address, timeout=30) for _ in range(40)]
    for listener in crowd:
        listener.sendall(head)
    told = [listener.recv(12).decode() for listener in crowd]
    for listener in crowd:
        listener.close()
    assert told.count("HTTP/1.1 200") == 3, told
    assert told.count("HTTP/1.1 503") == 37
    set_state(job, StateType.COMPLETED)
    deadline = time.monotonic() + 30
    while client.get(f"/events/{job}").status_code != 200:
        assert time.monotonic() < deadline, "the places stay taken"
        time.sleep(0.1)
