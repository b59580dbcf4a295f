"""What the gateway takes as a body, and what becomes of the videos in it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator

import httpx
import pytest

from deployments.gateway.body import MAX_FIELDS_BYTES
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources.obtain import obtain_source
from tests.kits.http.gateway import URL, VIDEO, intake_files, job_run, submit

SHA256 = hashlib.sha256(VIDEO).hexdigest()
pytestmark = pytest.mark.usefixtures("on_the_server")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"nonsense", b"{" * 60_000, b"\xff"])
def test_what_is_no_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/upscale", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text


def test_another_kind_of_body_is_refused(client: httpx.Client) -> None:
    assert client.post("/upscale", data={"video_url": URL}).status_code == 415


class TestSentVideos:
    """Bytes become a reference that the flow's fetch understands."""

    @pytest.fixture(autouse=True)
    def _kept(self, client: httpx.Client, settings: Settings) -> Iterator[None]:
        yield
        path = settings.work_dir / "intake" / SHA256
        assert path.read_bytes() == VIDEO
        assert not [name for name in intake_files(settings) if name.endswith(".part")]

    def check(self, answer: httpx.Response, settings: Settings, name: str) -> None:
        assert answer.status_code == 202, answer.text
        reference = answer.json()["video_url"]
        assert reference == f"upload:{SHA256}/{name}"
        parameters = job_run(answer.json()["job_id"]).parameters
        assert (parameters["video_url"], parameters["resolution"]) == (reference, "4k")
        request = UpscaleRequest(video_url=reference)
        source = obtain_source(request, settings, note=lambda _: None)
        assert (source.sha256, source.num_bytes, source.name) == (SHA256, len(VIDEO), name)

    def test_a_form(self, client: httpx.Client, settings: Settings) -> None:
        form = {"resolution": "4k", "seed": "3", "temporal_overlap": ""}
        files = {"video": ("../my clip.mp4", VIDEO, "video/mp4")}
        answer = client.post("/upscale", data=form, files=files)
        self.check(answer, settings, "my clip.mp4")
        assert job_run(answer.json()["job_id"]).parameters["seed"] == 3

    def test_the_body_itself_put(self, client: httpx.Client, settings: Settings) -> None:
        answer = client.put("/upscale/clip.mp4?resolution=4k", content=VIDEO)
        self.check(answer, settings, "clip.mp4")

    def test_the_body_itself_posted(self, client: httpx.Client, settings: Settings) -> None:
        answer = client.post(
            "/upscale?resolution=4K&filename=a.mkv",
            content=iter([VIDEO[:10], VIDEO[10:]]),
            headers={"Content-Type": "video/x-matroska"},
        )
        self.check(answer, settings, "a.mkv")

    def test_a_picture(self, client: httpx.Client, settings: Settings) -> None:
        answer = client.post(
            "/upscale?resolution=4k&filename=a.png",
            content=VIDEO,
            headers={"Content-Type": "image/png"},
        )
        self.check(answer, settings, "a.png")

    @pytest.mark.parametrize("style", ["plain", "data url", "escaped", "lines", "first"])
    def test_base64(self, client: httpx.Client, settings: Settings, style: str) -> None:
        text = base64.b64encode(VIDEO).decode()
        if style == "data url":
            text = "data:video/mp4;base64," + text
        if style == "lines":
            text = re.sub("(.{76})", r"\1\r\n", text)
        fields = {"resolution": "4k", "filename": "b.mp4", "video_base64": text}
        if style == "first":
            fields = dict(reversed(fields.items()))
        body = json.dumps(fields)
        if style == "escaped":  # as PHP and .NET write it
            body = body.replace("/", r"\/").replace("+", r"\u002B").replace("=", r"\u003d")
        answer = client.post(
            "/upscale", content=body.encode(), headers={"Content-Type": "application/json"}
        )
        self.check(answer, settings, "b.mp4")


def test_a_reference_may_be_used_again(client: httpx.Client) -> None:
    first = client.put("/upscale/clip.mp4", content=VIDEO).json()
    again = submit(client, video_url=first["video_url"], resolution="2k")
    assert job_run(again).parameters["video_url"] == first["video_url"]


def test_an_empty_video_and_two_videos_are_refused(client: httpx.Client) -> None:
    assert client.put("/upscale/clip.mp4", content=b"").status_code == 422
    files = [("video", ("a.mp4", b"a")), ("more", ("b.mp4", b"b"))]
    assert client.post("/upscale", files=files).status_code == 422
    both = client.post("/upscale", data={"video_url": URL}, files={"video": ("a.mp4", b"a")})
    assert "exactly one source" in both.json()["detail"]


def test_limits_hold_for_every_kind_of_body(client: httpx.Client, settings: Settings) -> None:
    large = b"v" * 2_000_001
    json_type = {"Content-Type": "application/json"}
    text = json.dumps({"video_base64": base64.b64encode(large).decode()}).encode()
    padding = json.dumps({"video_url": URL, "model": "x" * MAX_FIELDS_BYTES}).encode()
    answers = [
        client.put("/upscale/a.mp4", content=large),
        client.put("/upscale/a.mp4", content=iter([large])),
        client.put("/upscale/a.mp4", content=iter([large, large])),
        client.post("/upscale", files={"video": ("a.mp4", large)}),
        client.post("/upscale", data={"model": "x" * MAX_FIELDS_BYTES}, files={"v": ("a", b"a")}),
        client.post("/upscale", content=text, headers=json_type),
        client.post("/upscale", content=iter([text]), headers=json_type),
        client.post("/upscale", content=padding, headers=json_type),
    ]
    assert [answer.status_code for answer in answers] == [413] * len(answers)
    assert not [name for name in intake_files(settings) if name.endswith(".part")]
