"""Local files, uploads, and the look at the door."""

import base64
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    SourceRefusedError,
    SourceUnavailableError,
)
from tasks.fetch import fetch
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.sources import obtain
from tasks.sources.obtain import check_source

CONTENT = hashlib.shake_256(b"video").digest(1000)


def _by_url(url: str) -> UpscaleRequest:
    return UpscaleRequest(video_url=url)


def test_local_file_stays_in_place(settings_with, tmp_path: Path) -> None:
    settings = settings_with(allow_local_files=True)
    path = tmp_path / "my clip.mp4"
    path.write_bytes(CONTENT)
    source = fetch.fn(UpscaleRequest(video_path=str(path)))
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert source == FetchedSource(
        path=path, sha256=digest, num_bytes=len(CONTENT), name="my clip.mp4"
    )
    check_source(UpscaleRequest(video_path=str(path)), settings)
    assert not settings.work_dir.exists()


@pytest.mark.parametrize(
    ("make", "kind", "told"),
    [
        pytest.param(lambda path: None, SourceRefusedError, "does not exist", id="missing"),
        pytest.param(Path.mkdir, InvalidRequestError, "a folder; with fps", id="folder"),
        pytest.param(os.mkfifo, SourceRefusedError, "no regular file", id="pipe"),
        pytest.param(Path.touch, InvalidVideoError, r"0 bytes", id="empty"),
        pytest.param(lambda path: path.symlink_to(path), SourceRefusedError, "loop", id="loop"),
    ],
)
def test_paths_that_are_refused(settings_with, tmp_path: Path, make, kind, told: str) -> None:
    settings = settings_with(allow_local_files=True)
    path = tmp_path / "a.mp4"
    make(path)
    request = UpscaleRequest(video_path=str(path))
    for ask in (fetch.fn, lambda request: check_source(request, settings)):
        with pytest.raises(kind, match=told):
            ask(request)


@pytest.mark.parametrize("path", ["a\0b.mp4", "x" * 5000, "/dev/null"], ids=["nul", "long", "dev"])
def test_odd_paths(settings_with, path: str) -> None:
    settings_with(allow_local_files=True)
    with pytest.raises(SourceRefusedError):
        fetch.fn(UpscaleRequest(video_path=path))


def test_local_files_are_off_by_default(settings_with, tmp_path: Path) -> None:
    settings = settings_with()
    request = UpscaleRequest(video_path="/etc/passwd")
    for ask in (fetch.fn, lambda request: check_source(request, settings)):
        with pytest.raises(InvalidRequestError, match="SEEDVR2_ALLOW_LOCAL_FILES"):
            ask(request)


@pytest.mark.parametrize("prefix", ["", "data:video/mp4;base64,", "DATA:video/mp4;x=y;base64,"])
def test_upload(settings_with, prefix: str) -> None:
    settings = settings_with()
    text = prefix + base64.encodebytes(CONTENT).decode()
    digest = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        source = fetch.fn(UpscaleRequest(video_base64=text))
        assert source.path == settings.sources_dir / digest
        assert source.path.read_bytes() == CONTENT
        assert (source.name, source.num_bytes) == (f"upload-{digest[:8]}", 1000)


@pytest.mark.parametrize(
    "text",
    ["AAA", "AA=A", "####", "é", "-_-_", "=", " ", "data:video/mp4;base64,", "data:text/html,AAAA"],
)
def test_uploads_that_are_refused(settings_with, text: str) -> None:
    settings = settings_with()
    request = UpscaleRequest(video_base64=text)
    for ask in (fetch.fn, lambda request: check_source(request, settings)):
        with pytest.raises(InvalidRequestError, match="video_base64"):
            ask(request)


def test_the_door_reads_no_body_and_leaves_nothing(server, settings: Settings) -> None:
    server.offer("/a.mp4", content=CONTENT * 2**16, etag=None)
    check_source(_by_url(server.url("/a.mp4")), settings)
    assert not settings.work_dir.exists()


def test_the_door_does_not_wait_for_a_silent_server(server, settings, monkeypatch) -> None:
    monkeypatch.setattr(obtain, "_DOOR_SECONDS", 0.3)
    release = threading.Event()
    server.answer("/a.mp4", lambda handler: release.wait(60))
    with pytest.raises(SourceUnavailableError, match="did not answer"):
        check_source(_by_url(server.url("/a.mp4")), settings)
    release.set()


def test_the_door_does_not_wait_for_a_silent_name_server(settings_with, monkeypatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(obtain, "_CONNECT_SECONDS", 0.1)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [release.wait(60)][1:])
    with pytest.raises(SourceUnavailableError, match="name server"):
        check_source(_by_url("https://example.org/a.mp4"), settings_with())
    release.set()


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 64}.example"])
def test_unknown_hosts(settings_with, host: str) -> None:
    with pytest.raises((SourceUnavailableError, SourceRefusedError)):
        check_source(_by_url(f"https://{host}/a.mp4"), settings_with())


def test_the_door_needs_neither_prefect_nor_torch() -> None:
    heavy = {"prefect", "torch", "av"}
    code = f"import sys, tasks.sources.obtain; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
