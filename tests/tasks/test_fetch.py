"""The fetch task: a whole download, and what it leaves behind."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import SourceUnavailableError
from tasks.fetch import fetch
from tasks.schemas import FetchedSource
from tasks.settings import Settings
from tests.kits.http.downloads import by_url, get, parts
from tests.kits.http.video_server import VideoServer

VIDEO = VideoServer.VIDEO


def test_whole_download(server, settings: Settings) -> None:
    server.offer("/a%20clip.mp4")
    source = get(server.url("/a%20clip.mp4?token=x#t=1"))
    digest = hashlib.sha256(VIDEO).hexdigest()
    assert source == FetchedSource(
        path=settings.sources_dir / digest,
        sha256=digest,
        num_bytes=len(VIDEO),
        name="a clip.mp4",
    )
    assert source.path.read_bytes() == VIDEO
    assert parts(settings) == [".json"]
    (headers,) = server.headers_of("/a%20clip.mp4")
    assert headers["accept-encoding"] == "identity"
    assert not {"range", "authorization", "cookie"} & set(headers)


def test_redirects_are_followed_and_the_first_name_stays(server, settings: Settings) -> None:
    server.answer("/first.mp4", "/hop")
    server.answer("/hop", "/b.mp4")
    server.offer("/b.mp4")
    source = get(server.url("/first.mp4"))
    assert source.path.read_bytes() == VIDEO
    assert source.name == "first.mp4"


def test_who_has_no_patience_gets_none_and_what_came_is_kept(server, settings: Settings) -> None:
    stall = threading.Event()
    server.offer("/a.mp4", stall=stall)
    assert fetch.fn(by_url(server.url("/a.mp4")), patience=0.5) is None
    stall.set()
    server.answer("/b.mp4", 503)
    assert fetch.fn(by_url(server.url("/b.mp4")), patience=20) is None, "at once"
    assert ".part" in parts(settings)
    server.offer("/a.mp4")
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO
    assert server.headers_of("/a.mp4")[-1]["range"].startswith("bytes=")


def test_500_then_well(server, settings: Settings) -> None:
    server.answer("/a.mp4", 500)
    with pytest.raises(SourceUnavailableError):
        get(server.url("/a.mp4"))
    server.offer("/a.mp4")
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO


@pytest.mark.parametrize("work_dir", ["absolute", "relative"])
def test_a_source_that_is_used_again_is_marked_for_the_sweep(
    server,
    settings_with: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work_dir: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("here") if work_dir == "relative" else tmp_path / "there"
    settings_with(fetch_allow=(server.host,), work_dir=folder)
    server.offer("/a.mp4")
    path = get(server.url("/a.mp4")).path
    os.utime(path, (0, 0))
    assert get(server.url("/a.mp4")).path == path
    assert path.stat().st_mtime > 0
