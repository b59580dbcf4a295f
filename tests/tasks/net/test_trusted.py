"""The client for addresses that the operator chose."""

import logging
from pathlib import Path

import pytest

from tasks.net.trusted import open_client, tls_context
from tests.kits.http.video_server import VideoServer

SECRET = "sekret42"


@pytest.mark.parametrize("follow", [True, False])
def test_redirects_are_followed_only_if_asked_to(server: VideoServer, follow: bool) -> None:
    server.answer("/a", "/b")
    server.offer("/b", content=b"video")
    with open_client(follow_redirects=follow) as client:
        assert client.get(server.url("/a")).status_code == (200 if follow else 302)


def test_no_address_in_any_log(server: VideoServer, caplog: pytest.LogCaptureFixture) -> None:
    server.offer("/a", content=b"video")
    with caplog.at_level(logging.DEBUG):
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        with open_client(follow_redirects=False) as client:
            client.get(server.url(f"/a?token={SECRET}"))
    assert SECRET not in caplog.text


def test_all_clients_share_the_authorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading them takes a while; those that SSL_CERT_FILE names are the ones."""
    assert tls_context() is tls_context()
    tls_context.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    try:
        with pytest.raises(FileNotFoundError):
            tls_context()
    finally:
        tls_context.cache_clear()
