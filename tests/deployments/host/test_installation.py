"""The password of an installation, and how commands find the server that is running."""

import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployments.host.installation import (
    ApiAddress,
    announce,
    api_auth,
    auth_file,
    only_server,
    running_server,
)
from deployments.host.prefect_server import _keep_private
from seedvr2_core.errors import InvalidRequestError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiAddress]:
    """Something that answers /api/health, in an environment whose proxy does not."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ApiAddress(url=f"http://127.0.0.1:{server.server_address[1]}/api", auth="seedvr2:x")
    server.shutdown()
    server.server_close()


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_password_is_made_once_and_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        first = api_auth(tmp_path / "home")
    finally:
        os.umask(before)
    user, _, password = first.partition(":")
    assert user == "seedvr2"
    assert len(password) >= 32
    assert api_auth(tmp_path / "home") == first
    assert api_auth(tmp_path / "other") != first
    assert rights(auth_file(tmp_path / "home")) == 0o600
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["seedvr2-api-auth"]


def test_a_password_that_others_could_read_is_closed(tmp_path: Path) -> None:
    api_auth(tmp_path)
    auth_file(tmp_path).chmod(0o644)
    api_auth(tmp_path)
    assert rights(auth_file(tmp_path)) == 0o600


def test_commands_find_the_server_while_serve_runs(tmp_path: Path, server: ApiAddress) -> None:
    assert running_server(tmp_path) is None
    with only_server(tmp_path):
        assert running_server(tmp_path) is None
        announce(tmp_path, server)
        assert running_server(tmp_path) == server
        assert rights(tmp_path / "seedvr2-serve.json") == 0o600
        with pytest.raises(InvalidRequestError, match="running already"), only_server(tmp_path):
            pass
        assert running_server(tmp_path) == server
    assert running_server(tmp_path) is None


def test_a_record_that_a_killed_serve_left_is_not_believed(
    tmp_path: Path, server: ApiAddress
) -> None:
    """Somebody else may listen at its address, and would be shown the password."""
    announce(tmp_path, server)
    assert running_server(tmp_path) is None
    with only_server(tmp_path):
        assert running_server(tmp_path) is None, "the record of the one before"


def test_a_server_that_does_not_answer_is_not_used(tmp_path: Path) -> None:
    with only_server(tmp_path):
        announce(tmp_path, ApiAddress(url="http://127.0.0.1:9/api", auth="seedvr2:x"))
        assert running_server(tmp_path) is None
        (tmp_path / "seedvr2-serve.json").write_text("{broken")
        assert running_server(tmp_path) is None


def test_the_database_is_its_owners_alone_and_so_is_one_of_before(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "prefect.db").touch(mode=0o644)
    usual = os.umask(0o022)
    try:
        _keep_private(home)
        (home / "prefect.db-wal").touch()
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(usual)
    assert [rights(home / name) for name in ("prefect.db", "prefect.db-wal")] == [0o600, 0o600]
