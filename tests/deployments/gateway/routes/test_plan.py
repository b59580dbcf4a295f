"""POST /plan: what a job would take, for a video that is sent and for an address."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from deployments.gateway.auth import digest
from deployments.gateway.client import GatewayClient
from deployments.gateway.given import GivenHealth
from deployments.gateway.routes import plan
from deployments.host import slow_clients
from seedvr2_core.errors import InvalidVideoError, SourceRefusedError
from tasks.settings import Settings
from tests.kits.http.gateway import gateway, intake_files
from tests.kits.http.video_server import VideoServer, serve
from tests.kits.media import write_endless

NOBODY = "http://127.0.0.1:9/api"
"""The address of a Prefect server that is not there: a plan needs none."""
ASKED = {"model": "lanczos", "resolution": "720p"}


@pytest.fixture
def settings(tmp_path: Path, videos: VideoServer) -> Settings:
    return Settings(
        work_dir=tmp_path / "work",
        fetch_allow=(videos.host,),
        hour_price=36.0,
        deployments="4k=upscale/h200,*=upscale/local",  # type: ignore[arg-type]
        allow_cpu_engine=True,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with gateway(settings, NOBODY) as client:
        yield client


@pytest.mark.long
def test_a_sent_video_is_planned_and_kept_for_the_job(
    client: httpx.Client, settings: Settings, demo_clip: Path
) -> None:
    content = demo_clip.read_bytes()
    answer = client.post(
        "/plan",
        params={**ASKED, "filename": "my clip.mp4"},
        content=content,
        headers={"Content-Type": "video/mp4"},
    )
    told = answer.json()
    assert answer.status_code == 200, told
    assert (told["width"], told["height"], told["frames"]) == (1280, 720, 75)
    assert (told["source"], told["engine"], told["device"]) == ("my clip.mp4", "lanczos", "cpu")
    assert (told["deployment"], told["gpu_type"]) == ("upscale/local", "local")
    assert told["price"] == pytest.approx(told["eta_seconds"] / 100)
    sha256 = hashlib.sha256(content).hexdigest()
    assert told["video_url"] == f"upload:{sha256}/my clip.mp4"
    assert intake_files(settings) == [sha256]
    again = client.post("/plan", json={**ASKED, "video_url": told["video_url"]})
    assert again.json()["frames"] == 75


@pytest.mark.long
def test_a_factor_is_planned_for_the_pixels_that_come_out(
    client: httpx.Client, videos: VideoServer
) -> None:
    """The demo clip has 320x180: ten times that is as much as 4k, four times is 720p."""
    asked = {"video_url": videos.url("/clip.mp4"), "model": "lanczos"}
    for resolution, size, deployment in (
        ("4x", (1280, 720), "upscale/local"),
        ("10x", (3200, 1800), "upscale/h200"),
        ("640x640", (640, 360), "upscale/local"),
    ):
        told = client.post("/plan", json={**asked, "resolution": resolution}).json()
        assert (told["width"], told["height"], told["deployment"]) == (*size, deployment)
        assert told["resolution"] == resolution
    smaller = client.post("/plan", json={**asked, "resolution": "0.5x"}).json()
    assert any("scaled down" in note for note in smaller["notes"])


def test_an_address_is_planned_for_the_card_of_its_pool(
    client: httpx.Client, videos: VideoServer
) -> None:
    asked = {"video_url": videos.url("/clip.mp4"), "resolution": "4k", "model": "seedvr2-7b"}
    told = client.post("/plan", json=asked).json()
    assert (told["device"], told["gpu_type"], told["width"]) == ("NVIDIA H200", "H200", 3840)
    assert {"encode", "dit", "decode"} <= told["memory_gb"].keys()
    assert told["eta_is_guess"]
    assert any("cuts were not looked for" in note for note in told["notes"])


def test_limits_of_the_caller_are_told(client: httpx.Client, videos: VideoServer) -> None:
    asked = {**ASKED, "video_url": videos.url("/clip.mp4"), "max_price": 0.001}
    assert "the limit that you set" in client.post("/plan", json=asked).json()["notes"][-1]


def test_what_is_no_video_is_refused_and_removed(
    client: httpx.Client, settings: Settings, videos: VideoServer
) -> None:
    refused = client.post(
        "/plan", params=ASKED, content=b"text" * 9, headers={"Content-Type": "video/mp4"}
    )
    assert (refused.status_code, intake_files(settings)) == (422, [])
    videos.offer("/text.mp4", content=b"no video" * 100)
    refused = client.post("/plan", json={**ASKED, "video_url": videos.url("/text.mp4")})
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("text.mp4: "), "by the name that people know"
    assert not list(settings.sources_dir.glob("*"))
    form = {"video": ("holiday.mp4", b"text" * 9, "video/mp4")}
    refused = client.post("/plan", data=ASKED, files=form)
    assert refused.json()["detail"].startswith("holiday.mp4: ")
    assert client.post("/plan", json={**ASKED, "video_url": "http://10.0.0.1/a"}).status_code == 422
    assert client.post("/plan", json={"video_url": "https://a.test/", "crf": 99}).status_code == 422


def test_a_slow_address_is_asked_for_again(
    client: httpx.Client,
    videos: VideoServer,
    demo_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = demo_clip.read_bytes()
    videos.offer("/slow.mp4", content=content, cut=len(content) // 2)
    monkeypatch.setattr(plan, "FETCH_SECONDS", 3.0)
    asked = {**ASKED, "video_url": videos.url("/slow.mp4")}
    first = client.post("/plan", json=asked)
    assert (first.status_code, "send the same request again" in first.text) == (503, True)
    assert first.headers["retry-after"] == "5"
    videos.routes["/slow.mp4"] = serve(content)
    assert client.post("/plan", json=asked).json()["frames"] == 75
    assert "range" in videos.headers_of("/slow.mp4")[-1]


def test_a_plan_needs_the_token(settings: Settings) -> None:
    closed = settings.model_copy(update={"gateway_tokens": (digest("right"),)})
    with gateway(closed, NOBODY) as client:
        assert client.post("/plan", json={"video_url": "https://a.test/b"}).status_code == 401


def test_a_price_limit_needs_a_price(settings: Settings) -> None:
    unpriced = settings.model_copy(update={"hour_price": None})
    with gateway(unpriced, NOBODY) as client:
        asked = {"video_url": "https://example.org/a.mp4", "max_price": 1}
        assert "SEEDVR2_HOUR_PRICE" in client.post("/plan", json=asked).text


def test_a_refusal_has_the_code_of_its_error_and_the_client_raises_it(
    client: httpx.Client, settings: Settings, videos: VideoServer
) -> None:
    videos.offer("/text.mp4", content=b"no video" * 100)
    told = client.post("/plan", json={**ASKED, "video_url": videos.url("/text.mp4")}).json()
    assert (told["code"], told["remedy"]) == ("invalid_video", InvalidVideoError.remedy)
    ours = GatewayClient(settings, url=str(client.base_url), say=print)
    with pytest.raises(SourceRefusedError, match="ftp"):
        ours._ask("POST", "/plan", GivenHealth, json={"video_url": "ftp://example.org/a.mp4"})
    ours.close()


# --- who means harm -------------------------------------------------------------------------------

MP4 = {"Content-Type": "video/mp4"}


@pytest.mark.long
def test_who_takes_all_places_is_waited_for_and_no_longer_than_is_said(
    client: httpx.Client, videos: VideoServer, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses that give nothing hold the places; others are told so, and are served later."""
    monkeypatch.setattr(plan, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(plan, "FETCH_SECONDS", 20.0)
    stall = threading.Event()
    for number in range(plan.MAX_PLANS):
        videos.offer(f"/{number}.mp4", stall=stall)

    def ask(path: str) -> httpx.Response:
        return client.post("/plan", json={**ASKED, "video_url": videos.url(path)}, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        holding = [pool.submit(ask, f"/{number}.mp4") for number in range(plan.MAX_PLANS)]
        while len(videos.requests) < plan.MAX_PLANS:
            stall.wait(0.02)
        refused = [one.result() for one in [pool.submit(ask, "/clip.mp4") for _ in range(6)]]
        sent = client.post("/plan", params=ASKED, content=demo_clip.read_bytes(), headers=MP4)
        quick = client.get("/plan", params={"width": 640, "height": 360})
        stall.set()
        assert {one.result().status_code for one in holding} == {422}
    for answer in (*refused, sent):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "other plans are being made" in answer.json()["detail"]
    assert quick.status_code == 200, "what takes no place is answered meanwhile"
    assert ask("/clip.mp4").json()["frames"] == 75


def test_a_video_of_millions_of_frames_is_refused_and_removed(
    settings: Settings, tmp_path: Path
) -> None:
    """360 KB order 50 million frames: the index is counted, and nothing is read."""
    path = tmp_path / "endless.mp4"
    frames = write_endless(path, num_chunks=90_000)
    assert frames > 50_000_000
    assert path.stat().st_size < 400_000
    with gateway(settings, NOBODY) as client:
        answer = client.post(
            "/plan", params=ASKED, content=path.read_bytes(), headers=MP4, timeout=60
        )
    assert answer.status_code == 422, answer.text
    assert "SEEDVR2_MAX_FRAMES" in answer.json()["detail"]
    assert intake_files(settings) == []


@pytest.mark.long
def test_a_body_that_drips_is_given_up_and_removed(
    client: httpx.Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "BODY_SECONDS", 0.5)
    released = threading.Event()

    def drops() -> Iterator[bytes]:
        yield b"x" * 100
        released.wait(5)
        yield b"y"

    answer = client.post("/plan", params=ASKED, content=drops(), headers=MP4)
    released.set()
    assert (answer.status_code, "send it faster" in answer.text) == (408, True)
    assert intake_files(settings) == []


def test_a_body_that_is_too_large_is_refused_before_it_comes(settings: Settings) -> None:
    small = settings.model_copy(update={"fetch_max_bytes": 1000})
    with gateway(small, NOBODY) as client:
        announced = client.post("/plan", params=ASKED, content=bytes(10**6), headers=MP4)
        assert announced.status_code == 413
        assert "larger than 1000 bytes" in announced.json()["detail"]
        poured = client.post("/plan", params=ASKED, content=iter([b"x" * 600] * 9), headers=MP4)
        assert poured.status_code == 413
    assert intake_files(small) == []


@pytest.mark.long
def test_each_token_has_its_own_quota_and_none_uses_anothers(
    settings: Settings, demo_clip: Path
) -> None:
    content = demo_clip.read_bytes()
    changes = {
        "gateway_tokens": (digest("one"), digest("two")),
        "gateway_quota_bytes": len(content) * 3 // 2,
    }
    with gateway(settings.model_copy(update=changes), NOBODY) as client:

        def send(token: str, more: bytes) -> httpx.Response:
            headers = {**MP4, "Authorization": f"Bearer {token}"}
            return client.post("/plan", params=ASKED, content=content + more, headers=headers)

        assert send("one", b"").status_code == 200
        full = send("one", b"another")
        assert (full.status_code, "this token may have" in full.text) == (507, True)
        assert send("two", b"another").status_code == 200
        assert len(intake_files(settings)) >= 2
