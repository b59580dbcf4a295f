"""What becomes of videos that are sent: refused ones go at once, and the disk keeps its reserve."""

import hashlib
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import HTTPException

from deployments.gateway.auth import digest
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.sent import SentVideos
from tasks.settings import Settings
from tasks.sources.download import KEEP_FREE_BYTES
from tasks.sources.uploads import PartFile
from tests.kits.http.gateway import gateway

pytestmark = pytest.mark.usefixtures("on_the_server")
TOKENS = ("first-token", "second-token")


def video(name: str, num_bytes: int = 300_000) -> bytes:
    """Bytes of one test alone."""
    return hashlib.shake_256(name.encode()).digest(num_bytes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def open_door(folder: Path, api_url: str) -> Iterator[httpx.Client]:
    """A gateway with an intake of the test's own."""
    with gateway(Settings(work_dir=folder), api_url) as client:
        yield client


def kept(folder: Path) -> list[str]:
    """The videos in the intake, and whatever else lies there."""
    intake = folder / "intake"
    return sorted(path.name for path in intake.rglob("*") if path.is_file())


def test_a_refused_video_is_gone(open_door: httpx.Client, folder: Path) -> None:
    sent = video("refused")
    refused = [
        open_door.put("/upscale/a.mp4?crf=99", content=sent),
        open_door.put("/upscale/a.mp4?unknown=1", content=sent),
        open_door.post("/upscale", data={"seed": "x"}, files={"video": ("a.mp4", sent)}),
        open_door.post("/upscale", data={"video_url": "http://a/"}, files={"v": ("a.mp4", sent)}),
    ]
    assert [answer.status_code for answer in refused] == [422] * 4
    assert kept(folder) == []


def test_a_video_under_a_used_key_is_gone(open_door: httpx.Client, folder: Path) -> None:
    key = {"Idempotency-Key": f"order-{uuid4()}"}
    first, second = video("first"), video("second")
    assert open_door.put("/upscale/a.mp4", content=first, headers=key).status_code == 202
    assert open_door.put("/upscale/a.mp4", content=second, headers=key).status_code == 409
    assert kept(folder) == [hashlib.sha256(first).hexdigest()]


def test_a_refusal_takes_nothing_from_a_job_with_the_same_video(
    open_door: httpx.Client, folder: Path
) -> None:
    sent = video("shared")
    assert open_door.put("/upscale/a.mp4", content=sent).status_code == 202
    assert open_door.put("/upscale/a.mp4?crf=99", content=sent).status_code == 422
    assert (folder / "intake" / hashlib.sha256(sent).hexdigest()).read_bytes() == sent


def test_the_disk_keeps_its_reserve(
    open_door: httpx.Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = video("reserve", 3_000_000)

    def free(num_bytes: int) -> None:
        usage = SimpleNamespace(free=KEEP_FREE_BYTES + num_bytes)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    free(1_000_000)
    answer = open_door.put("/upscale/a.mp4", content=sent)
    assert (answer.status_code, "leaves 0.26 GB to others" in answer.text) == (507, True)
    free(-1)  # while it arrives, of no stated length
    answer = open_door.put("/upscale/a.mp4", content=iter([sent]))
    assert (answer.status_code, "the sent video needs" in answer.text) == (507, True)
    assert kept(folder) == []
    free(10_000_000)
    assert open_door.put("/upscale/a.mp4", content=sent).status_code == 202


def test_a_quota_for_each_token(folder: Path, api_url: str) -> None:
    settings = Settings(
        work_dir=folder,
        gateway_tokens=tuple(digest(token) for token in TOKENS),
        gateway_quota_bytes=1_000_000,
    )

    def send(client: httpx.Client, name: str, token: str = TOKENS[0], **options: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        sent = video(name, 400_000)
        answer = client.put("/upscale/a.mp4", content=sent, headers=headers, params=options)
        if answer.status_code == 507:
            assert "may have 1000000 bytes of sent videos" in answer.json()["detail"]
        return answer.status_code

    with gateway(settings, api_url) as client:
        assert send(client, "refused", crf="99") == 422, "and does not count"
        assert [send(client, name) for name in "ab"] == [202, 202]
        assert send(client, "c") == 507
        assert send(client, "c", TOKENS[1]) == 202, "another token has a quota of its own"
    with gateway(settings, api_url) as client:  # a new process knows
        assert send(client, "d") == 507
        (folder / "intake" / hashlib.sha256(video("a", 400_000)).hexdigest()).unlink()
        assert send(client, "d") == 202, "one that was swept does not count"
        assert send(client, "e") == 507


def test_uploads_at_a_time_count_together(folder: Path, api_url: str) -> None:
    """Two that fit one by one, but not both."""
    settings = Settings(
        work_dir=folder, gateway_tokens=(digest(TOKENS[0]),), gateway_quota_bytes=3_000_000
    )
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}
    with gateway(settings, api_url) as client, httpx.Client(base_url=client.base_url) as other:

        def pieces() -> Iterator[bytes]:
            yield video("x", 2_900_000)
            time.sleep(1.0)  # until the gateway has counted them, but for less than a MiB
            answer = other.put("/upscale/b.mp4", content=video("y", 1_500_000), headers=headers)
            assert answer.status_code == 507
            yield b"the end"

        assert client.put("/upscale/a.mp4", content=pieces(), headers=headers).status_code == 202


def test_what_ends_while_another_arrives_counts_for_it(folder: Path, api_url: str) -> None:
    """Else a caller opens many uploads, lets them look at the quota, and ends them in turn."""
    settings = Settings(
        work_dir=folder, gateway_tokens=(digest(TOKENS[0]),), gateway_quota_bytes=3_000_000
    )
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}
    large = video("large", 2_900_000)
    with gateway(settings, api_url) as client, httpx.Client(base_url=client.base_url) as other:

        def pieces() -> Iterator[bytes]:
            yield large[:1000]
            time.sleep(0.5)  # until the gateway has looked at the length that is announced
            answer = other.put("/upscale/b.mp4", content=video("y", 1_500_000), headers=headers)
            assert answer.status_code == 202
            yield large[1000:]

        announced = headers | {"Content-Length": str(len(large))}
        answer = client.put("/upscale/a.mp4", content=pieces(), headers=announced)
        assert answer.status_code == 507
        assert hashlib.sha256(large).hexdigest() not in " ".join(kept(folder))


@pytest.mark.long
@pytest.mark.parametrize("slow", ["__init__", "write", "publish"])
def test_a_file_whose_time_is_over_while_a_thread_works_on_it_is_gone(
    folder: Path, api_url: str, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    whole = getattr(PartFile, slow)

    def slowly(part: PartFile, what: Any) -> None:
        time.sleep(1.0)
        whole(part, what)

    monkeypatch.setattr(PartFile, slow, slowly)
    with gateway(Settings(work_dir=folder, fetch_seconds=0.5), api_url) as client:
        answer = client.put("/upscale/a.mp4", content=video("slow"))
        if slow != "publish":
            assert (answer.status_code, "longer than 0.5 s" in answer.text) == (408, True)
            time.sleep(1.0)
            assert kept(folder) == []
        else:  # it has all arrived: a slow disk is not the caller's fault
            assert answer.status_code == 202
            assert len(kept(folder)) == 1


def test_what_may_have_become_a_job_counts_for_its_caller(
    folder: Path, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a 503 the video stays, because the job may have been created."""
    settings = Settings(
        work_dir=folder, gateway_tokens=(digest(TOKENS[0]),), gateway_quota_bytes=500_000
    )
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}

    async def create(*args: object, **options: object) -> None:
        raise HTTPException(503, "Prefect is away")

    with gateway(settings, api_url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(PrefectApi, "create", create)
            answer = client.put("/upscale/a.mp4", content=video("a"), headers=headers)
            assert answer.status_code == 503
        answer = client.put("/upscale/b.mp4", content=video("b"), headers=headers)
        assert answer.status_code == 507


def raw(client: httpx.Client, head: bytes, *pieces: bytes, then_close: bool = False) -> bytes:
    """What the gateway answers to these bytes; "" where the caller has gone."""
    address = (client.base_url.host, client.base_url.port or 80)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head.replace(b"\n", b"\r\n"))
        for piece in pieces:
            time.sleep(0.1)
            connection.sendall(piece)
        return b"" if then_close else connection.recv(65_536)


PUT = b"PUT /upscale/a.mp4 HTTP/1.1\nHost: localhost\nAuthorization: Bearer first-token\n"


def test_bodies_that_lie_about_their_length_leave_nothing(folder: Path, api_url: str) -> None:
    settings = Settings(
        work_dir=folder,
        gateway_tokens=(digest(TOKENS[0]),),
        gateway_quota_bytes=1_000_000,
        fetch_max_bytes=2_000_000,
    )
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with gateway(settings, api_url) as client:
        raw(client, PUT + b"Content-Length: 900000\n\n", b"x" * 800_000, then_close=True)
        raw(client, PUT + b"Transfer-Encoding: chunked\n\n", chunk * 12, then_close=True)
        told = {
            "never ends": raw(client, PUT + b"Transfer-Encoding: chunked\n\n", chunk * 17),
            "a terabyte": raw(client, PUT + b"Content-Length: 1000000000000\n\n"),
            "and waits": raw(
                client, PUT + b"Expect: 100-continue\nContent-Length: 1000000000000\n\n"
            ),
            "two lengths": raw(
                client, PUT + b"Content-Length: 5\nContent-Length: 6\n\n", b"abcdef"
            ),
            "negative": raw(client, PUT + b"Transfer-Encoding: chunked\n\n", b"-5\r\nabc"),
            "two tokens": raw(client, PUT + b"Authorization: Bearer nobody\nContent-Length: 0\n\n"),
        }
        statuses = {name: answer[9:12].decode() for name, answer in told.items()}
        deadline = time.monotonic() + 20
        while kept(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert kept(folder) == []
        headers = {"Authorization": f"Bearer {TOKENS[0]}"}
        whole = client.put("/upscale/a.mp4", content=video("whole", 900_000), headers=headers)
        assert whole.status_code == 202, "what was cut does not count"
    assert statuses == {
        "never ends": "507",
        "a terabyte": "413",
        "and waits": "413",
        "two lengths": "400",
        "negative": "400",
        "two tokens": "401",
    }


def test_uploads_at_a_time_keep_the_reserve_together(
    open_door: httpx.Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has room when it begins; the disk is full when both are half here."""
    room = [KEEP_FREE_BYTES + 3_000_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room[0]))

    def pieces(name: str) -> Iterator[bytes]:
        yield video(name, 1_500_000)
        time.sleep(1.0)
        room[0] = KEEP_FREE_BYTES - 1
        yield video(name, 1_500_000)

    def send(name: str) -> int:
        return open_door.put(f"/upscale/{name}.mp4", content=pieces(name)).status_code

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(send, "ab")) == [507, 507]
    assert kept(folder) == []


def test_the_same_video_many_times_at_once_is_one_file_and_counts_once(
    folder: Path, api_url: str
) -> None:
    settings = Settings(
        work_dir=folder, gateway_tokens=(digest(TOKENS[0]),), gateway_quota_bytes=10_000_000
    )
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}
    sent = video("one", 600_000)
    with gateway(settings, api_url) as client:

        def send(crf: int) -> int:
            url = f"/upscale/a.mp4?crf={crf}"
            return client.put(url, content=sent, headers=headers).status_code

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(send, [20, 99, 21, 99]))
        # A Prefect server on sqlite may answer 503 to jobs that are made at once.
        assert [status for status in answers if status not in (202, 503)] == [422, 422]
        sha256 = hashlib.sha256(sent).hexdigest()
        assert kept(folder) == [sha256, sha256], "the video and the caller's note"
        assert (folder / "intake" / sha256).read_bytes() == sent
        notes = list((folder / "intake" / "callers").rglob(sha256))
        assert [note.read_text() for note in notes] == ["600000"]


def test_one_that_is_refused_while_another_arrives_takes_nothing_from_it(tmp_path: Path) -> None:
    """The first is refused when the second has its name already but is not accepted yet."""
    videos, target = SentVideos(), tmp_path / "aa"

    def publish() -> None:
        with closing(PartFile(tmp_path)) as part:
            part.write(b"the same bytes")
            videos.publish(part, target)

    publish()
    publish()
    videos.retract(target)
    assert target.read_bytes() == b"the same bytes"
    videos.keep(target)
    publish()
    videos.retract(target)
    assert target.exists(), "an accepted one is never taken away"
    target.unlink()
    publish()
    publish()
    videos.retract(target)
    videos.retract(target)
    assert not target.exists(), "all of them were refused"
    publish()
    target.unlink()
    videos.retract(target)  # a sweep was first
    publish()
    tmp_path.joinpath("of another process").write_bytes(b"the same bytes")
    tmp_path.joinpath("of another process").replace(target)
    videos.retract(target)
    assert target.exists()


def test_a_video_that_is_removed_while_it_gets_its_name_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request's refusal comes between the name and the next look at it."""
    replace = Path.replace

    def replace_and_lose(path: Path, target: Path) -> Path:
        replaced = replace(path, target)
        target.unlink()
        return replaced

    monkeypatch.setattr(Path, "replace", replace_and_lose)
    with closing(PartFile(tmp_path)) as part:
        part.write(b"bytes")
        SentVideos().publish(part, tmp_path / "aa")
