"""What the public address shows: the file, not yet, forbidden, or something else.

The verify task asks it, with a real edge whose faults are switched on.
"""

import functools
import http.server
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from seedvr2_core.errors import ForbiddenError, NotServedError, WrongBytesError
from tasks.schemas import JoinedVideo
from tasks.settings import get_settings, use_settings
from tasks.storage import public
from tasks.upload import upload
from tasks.verify import verify
from tests.kits.http.edge import Edge, edge_settings, made_video, statuses

pytestmark = pytest.mark.usefixtures("quick_looks")


def test_first_and_last_bytes_are_asked_for(edge: Edge, video: JoinedVideo) -> None:
    stored = upload.fn(video, "a.mp4")
    assert verify.fn(stored, video) == stored
    asked = [(seen.method, seen.headers["range"]) for seen in edge.app.public()]
    assert asked == [("GET", "bytes=0-65535"), ("GET", "bytes=234464-299999")]
    assert statuses(edge) == [206, 206]


@pytest.mark.parametrize("size", [1, 65536, 65537, 131072])
def test_small_files(edge: Edge, tmp_path: Path, size: int) -> None:
    video = made_video(tmp_path, size)
    verify.fn(upload.fn(video, "a.mp4"), video)


def test_a_remembered_404_is_outlasted(edge: Edge, video: JoinedVideo) -> None:
    """Somebody asked too early, and the CDN remembers."""
    edge.switch(negative_cache_seconds=1.5)
    address = f"{edge.url}/{get_settings().bunny_root_dir}/a.mp4"
    assert httpx.get(address).status_code == 404
    verify.fn(upload.fn(video, "a.mp4"), video)
    seen = statuses(edge)[1:]
    assert seen.count(404) == len(seen) - 2 >= 1
    assert seen[-2:] == [206, 206]


@pytest.mark.parametrize("page", ["never", "missing"])
def test_a_late_replica_is_waited_for(edge: Edge, video: JoinedVideo, page: str) -> None:
    edge.switch(replica_seconds=0.7, page=page)
    verify.fn(upload.fn(video, "a.mp4"), video)
    early = 404 if page == "never" else 200
    assert statuses(edge)[0] == early
    assert statuses(edge)[-2:] == [206, 206]


def test_a_cut_download_is_asked_for_again(edge: Edge, video: JoinedVideo) -> None:
    edge.switch(cut_downloads=2)
    verify.fn(upload.fn(video, "a.mp4"), video)
    assert statuses(edge) == [206, 206, 206, 206]


@pytest.mark.parametrize(
    ("faults", "kind", "told"),
    [
        ({"public_status": 404}, NotServedError, "answers 404 Not Found, though the file is in"),
        ({"public_status": 500}, NotServedError, "answers 500 Internal Server Error"),
        ({"public_status": 429}, NotServedError, "answers 429 Too Many Requests"),
        ({"replica_seconds": 600}, NotServedError, "answers 404"),
        (
            {"replica_seconds": 600, "negative_cache_seconds": 600},
            NotServedError,
            "404 Not Found from its cache",
        ),
        ({"cut_downloads": 99}, NotServedError, "is away or breaks off"),
        ({"replica_seconds": 600, "page": "missing"}, WrongBytesError, "with a web page where"),
        ({"page": "always"}, WrongBytesError, "with a web page where the video should be"),
        ({"show": "other bytes"}, WrongBytesError, "shows other bytes than were stored"),
        ({"show": "other length"}, WrongBytesError, "with 299999 bytes, expected 300000"),
        ({"public_status": 416}, WrongBytesError, "is shorter than 300000 bytes"),
        ({"bytes_per_second": 30_000}, NotServedError, "(does not answer in time|is too slow)"),
    ],
    ids=str,
)
def test_what_never_heals_fails_with_its_own_error(
    edge: Edge, video: JoinedVideo, tmp_path: Path, faults: dict[str, Any], kind: type, told: str
) -> None:
    stored = upload.fn(video, "a.mp4")
    edge.switch(**faults)
    use_settings(edge_settings(edge, tmp_path, verify_seconds=0.5))
    with pytest.raises(kind, match=rf"{told}.*, still so after \d+ s; .*run") as caught:
        verify.fn(stored, video)
    assert type(caught.value) is kind
    assert caught.value.permanent
    assert f"{edge.url}/{tmp_path.name}/a.mp4" in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_forbidden_is_told_at_once(edge: Edge, video: JoinedVideo, status: int) -> None:
    stored = upload.fn(video, "a.mp4")
    edge.switch(public_status=status)
    with pytest.raises(ForbiddenError, match=f"answers {status} .*SEEDVR2_BUNNY_TOKEN_KEY"):
        verify.fn(stored, video)
    assert len(edge.app.public()) == 1


def test_signed_addresses(edge: Edge, video: JoinedVideo, tmp_path: Path) -> None:
    edge.switch(token_key="t" * 20)
    use_settings(edge_settings(edge, tmp_path, bunny_token_key=SecretStr("t" * 20)))
    verify.fn(upload.fn(video, "a.mp4"), video)
    use_settings(edge_settings(edge, tmp_path, bunny_token_key=SecretStr("other" * 4)))
    with pytest.raises(ForbiddenError) as caught:
        verify.fn(upload.fn(video, "a.mp4"), video)
    assert "token=" not in str(caught.value)


def test_a_server_without_ranges(video: JoinedVideo, settings_with, tmp_path: Path) -> None:
    """Python's own file server sends the whole file."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "public"
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        settings_with(output_dir=folder, public_url=url, verify_seconds=0.5)
        stored = upload.fn(video, "a.mp4")
        verify.fn(stored, video)
        assert stored.path
        content = stored.path.read_bytes()
        stored.path.unlink()
        stored.path.write_bytes(content[:-1] + b"\0")
        with pytest.raises(WrongBytesError, match="bytes 234464 to 299999 of 300000 differ"):
            public.wait_until_served(
                str(stored.url), video.path, patience=0.1, on_wait=lambda seen: None
            )
        server.shutdown()
        thread.join()
