"""A callback's address at the gateway: in every kind of body, refused where it cannot work."""

import httpx
import pytest

from tasks.settings import Settings, use_settings
from tests.kits.http.callback import SECRET
from tests.kits.http.gateway import gateway, job_run

URL = "https://example.org/clip.mp4"
CALLBACK = "https://example.org/done?key=sekret42"
pytestmark = pytest.mark.usefixtures("on_the_server")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(work_dir=tmp_path_factory.mktemp("gateway"), callback_secret=SECRET)


@pytest.fixture(autouse=True)
def in_force(settings: Settings) -> None:
    """Requests are checked against the settings of the process, as in the gateway's own."""
    use_settings(settings)


def test_every_kind_of_body_takes_it(client: httpx.Client) -> None:
    asked = {"video_url": URL, "callback_url": CALLBACK}
    answers = [
        client.post("/upscale", json=asked),
        client.post("/upscale", data={"callback_url": CALLBACK}, files={"video": b"video"}),
        client.put("/upscale/a.mp4", params={"callback_url": CALLBACK}, content=b"video"),
    ]
    for answer in answers:
        assert answer.status_code == 202, answer.text
        assert job_run(answer.json()["job_id"]).parameters["callback_url"] == CALLBACK
        assert "sekret42" not in answer.text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/x?key=sekret42", "are not fetched"),
        ("http://169.254.169.254/x?key=sekret42", "no public address"),
        ("https://example.org:22/x?key=sekret42", "port 22"),
    ],
)
def test_what_is_refused(client: httpx.Client, url: str, words: str) -> None:
    answer = client.post("/upscale", json={"video_url": URL, "callback_url": url})
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert "sekret42" not in answer.text


def test_without_a_secret_it_is_refused(settings: Settings, api_url: str) -> None:
    bare = settings.model_copy(update={"callback_secret": None})
    with gateway(bare, api_url) as client:
        answer = client.post("/upscale", json={"video_url": URL, "callback_url": CALLBACK})
    assert answer.status_code == 422
    assert "SEEDVR2_CALLBACK_SECRET" in answer.json()["detail"]
