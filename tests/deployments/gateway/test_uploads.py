"""What becomes of videos that are sent: refused ones go at once, and the disk keeps its reserve."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest

from deployments.gateway.auth import digest
from tasks.settings import Settings
from tasks.sources.download import KEEP_FREE_BYTES
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
    assert (answer.status_code, "0.26 GB are left to jobs" in answer.text) == (507, True)
    free(-1)  # while it arrives, of no stated length
    answer = open_door.put("/upscale/a.mp4", content=iter([sent]))
    assert (answer.status_code, "no room for this video" in answer.text) == (507, True)
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
