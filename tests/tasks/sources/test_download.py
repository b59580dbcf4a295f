"""Downloads from a real HTTP server: cut, changed, killed, limited."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seedvr2_core.errors import (
    DeadlineError,
    ResourceError,
    SourceRefusedError,
    SourceUnavailableError,
)
from seedvr2_core.files.locks import hold_lock
from tasks.net.untrusted import check_url
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.sources import obtain_source
from tasks.sources.partial import PartialDownload
from tests.kits.http.downloads import get, parts
from tests.kits.http.video_server import VideoServer

VIDEO = VideoServer.VIDEO
OTHER = hashlib.shake_256(b"other").digest(2 * 2**20)


# Resuming


@pytest.mark.parametrize(
    "fields",
    [{}, {"etag": None, "modified": "Mon, 23 Nov 2026 08:00:00 GMT"}],
    ids=["etag", "last-modified"],
)
def test_a_cut_download_goes_on(server, settings: Settings, fields) -> None:
    server.offer("/a.mp4", cut=2**20, **fields)
    with pytest.raises(SourceUnavailableError, match="broke off"):
        get(server.url("/a.mp4"))
    assert parts(settings) == [".json", ".part"]
    server.offer("/a.mp4", **fields)
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO
    _, again = server.headers_of("/a.mp4")
    assert again["range"] == f"bytes={2**20}-"
    assert again["if-range"] == (fields.get("modified") or '"v1"')
    assert parts(settings) == [".json"]


@pytest.mark.parametrize(
    ("then", "requests"),
    [
        pytest.param({"content": OTHER, "etag": '"v2"'}, 2, id="changed-etag"),
        pytest.param(
            {"content": OTHER, "etag": '"v2"', "honest": False}, 3, id="changed-if-range-ignored"
        ),
        pytest.param({"content": OTHER, "honest": False}, 3, id="same-etag-other-length"),
        pytest.param({"content": OTHER, "ranges": False}, 2, id="no-ranges"),
        pytest.param({"content": OTHER[:1000], "honest": False}, 3, id="416"),
        pytest.param(
            {"content": OTHER, "honest": False, "Content_Range": "bytes 5-9/10"},
            3,
            id="two-content-ranges",
        ),
    ],
)
def test_a_part_that_no_longer_fits(server, settings: Settings, then, requests: int) -> None:
    server.offer("/a.mp4", cut=2**20)
    with pytest.raises(SourceUnavailableError):
        get(server.url("/a.mp4"))
    server.answer("/a.mp4", then)
    assert OTHER.startswith(content := get(server.url("/a.mp4")).path.read_bytes())
    assert content
    assert len(server.requests) == requests


@pytest.mark.parametrize("etag", [None, 'W/"v1"'], ids=["none", "weak"])
def test_without_a_strong_validator_it_starts_again(server, settings: Settings, etag) -> None:
    server.offer("/a.mp4", cut=2**20, etag=etag)
    with pytest.raises(SourceUnavailableError):
        get(server.url("/a.mp4"))
    server.offer("/a.mp4", etag=etag)
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO
    assert all("range" not in headers for _, headers in server.requests)


def test_a_server_that_only_sends_parts(server, settings: Settings) -> None:
    server.answer("/a.mp4", 206)
    with pytest.raises(SourceUnavailableError, match="with a part"):
        get(server.url("/a.mp4"))


def test_a_refusal_keeps_nothing(server, settings: Settings) -> None:
    server.offer("/a.mp4", cut=2**20)
    with pytest.raises(SourceUnavailableError):
        get(server.url("/a.mp4"))
    server.answer("/a.mp4", 410)
    with pytest.raises(SourceRefusedError):
        get(server.url("/a.mp4"))
    assert parts(settings) == []


def test_what_is_here_already_is_only_asked_after(server, settings: Settings) -> None:
    server.offer("/a.mp4")
    first = get(server.url("/a.mp4"))
    assert get(server.url("/a.mp4")) == first
    assert server.requests[1][1]["if-none-match"] == '"v1"'
    server.offer("/a.mp4", content=OTHER, etag='"v2"')
    assert get(server.url("/a.mp4")).path.read_bytes() == OTHER
    assert first.path.read_bytes() == VIDEO


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"x")])
def test_a_source_that_was_lost_or_damaged_comes_again(server, settings: Settings, harm) -> None:
    server.offer("/a.mp4")
    harm(get(server.url("/a.mp4")).path)
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO


def test_killed_while_downloading(server, settings: Settings) -> None:
    """kill -9 in the middle: the lock is free at once and the part goes on."""
    code = (
        "import sys; from tasks.sources.obtain import obtain_source\n"
        "from tasks.schemas import UpscaleRequest; from tasks.settings import Settings\n"
        "obtain_source(UpscaleRequest(video_url=sys.argv[1]), Settings(), note=print)"
    )
    release = threading.Event()

    server.offer("/a.mp4", stall=release)
    environment = {
        "SEEDVR2_WORK_DIR": str(settings.work_dir),
        "SEEDVR2_FETCH_ALLOW": server.host,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url("/a.mp4")], env=os.environ | environment
    )
    try:
        part = PartialDownload(check_url(server.url("/a.mp4"), settings), settings).part
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
        release.set()
    server.offer("/a.mp4")
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO
    assert "range" in server.requests[-1][1]


def test_a_signal_ends_a_download_at_once(server, settings: Settings) -> None:
    """A cancelled run raises from its signal handler; what came is kept."""

    class Terminated(BaseException):
        pass

    def terminate(*_: object) -> None:
        raise Terminated

    release = threading.Event()

    server.offer("/a.mp4", stall=release)
    before = signal.signal(signal.SIGALRM, terminate)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Terminated):
            get(server.url("/a.mp4"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        release.set()
    server.offer("/a.mp4")
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO


def test_two_at_once_download_once(server, settings: Settings) -> None:
    server.offer("/a.mp4")
    found: list[FetchedSource] = []
    request, notes = UpscaleRequest(video_url=server.url("/a.mp4")), []

    def run() -> None:
        found.append(obtain_source(request, settings, note=notes.append))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert ["if-none-match" in headers for _, headers in server.requests] == [False, True]


# Limits


@pytest.mark.parametrize("told", [True, False], ids=["content-length", "counted"])
def test_byte_cap(server, settings_with, told: bool) -> None:
    settings = settings_with(fetch_allow=(server.host,), fetch_max_bytes=2**20)

    def unbounded(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(VIDEO)

    server.answer("/a.mp4", {} if told else unbounded)
    with pytest.raises(SourceRefusedError, match="SEEDVR2_FETCH_MAX_BYTES"):
        get(server.url("/a.mp4"))
    assert parts(settings) == []


def test_deadline_of_a_server_that_drips(server, settings_with) -> None:
    settings = settings_with(fetch_allow=(server.host,), fetch_seconds=0.5)
    release = threading.Event()

    def drip(handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"v1"')
        handler.end_headers()
        while not release.wait(0.02):
            handler.wfile.write(b"x")

    server.answer("/a.mp4", drip)
    with pytest.raises(SourceUnavailableError, match="SEEDVR2_FETCH_SECONDS"):
        get(server.url("/a.mp4"))
    release.set()
    assert parts(settings) == [".json", ".part"]


def test_disk_too_small(server, settings: Settings, monkeypatch) -> None:
    server.offer("/a.mp4")
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10**8, 10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"0\.10 GB are free"):
        get(server.url("/a.mp4"))


def test_disk_full(server, settings: Settings, monkeypatch) -> None:
    """What came whole is not asked for again."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server.offer("/a.mp4")
    with monkeypatch.context() as patch:
        patch.setattr("tasks.sources.download.sync_file", full)
        with pytest.raises(ResourceError, match="No space left"):
            get(server.url("/a.mp4"))
    assert get(server.url("/a.mp4")).path.read_bytes() == VIDEO
    assert len(server.requests) == 1


def test_work_dir_that_cannot_be_made(server, settings_with, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings_with(fetch_allow=(server.host,), work_dir=tmp_path / "file" / "work")
    with pytest.raises(ResourceError, match="SEEDVR2_WORK_DIR"):
        get(server.url("/a.mp4"))


def test_another_process_keeps_the_address_too_long(server, settings_with) -> None:
    settings = settings_with(fetch_allow=(server.host,), fetch_seconds=0.1)
    lock = PartialDownload(check_url(server.url("/a.mp4"), settings), settings).lock
    with hold_lock(lock, timeout=0, on_wait=lambda: None), pytest.raises(DeadlineError):
        get(server.url("/a.mp4"))
    assert server.requests == []
