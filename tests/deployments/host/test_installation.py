"""The password of an installation, and how commands find the server that is running."""

import os
import stat
import subprocess
import sys
import threading
import time
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
    used_by_command,
)
from deployments.host.prefect_server import _keep_private
from seedvr2_core.errors import InvalidRequestError, ServiceError
from seedvr2_core.files import hold_lock


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


def test_a_server_that_does_not_end_is_told_of_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.host.installation.END_SECONDS", 0.2)
    with used_by_command(tmp_path):
        pass
    with hold_lock(tmp_path / "seedvr2-commands.lock", timeout=0, on_wait=lambda: None):
        began = time.monotonic()
        told = pytest.raises(ServiceError, match=r"has not ended after 0\.3 s")
        with told, used_by_command(tmp_path):
            pass
        assert time.monotonic() - began < 5


SERVER = """
import sys, threading
from deployments.host import installation, prefect_server
installation.END_SECONDS = 0.5
def serve(*_, **__):
    {what}
prefect_server._serve = serve
sys.argv = ["", "--shared"]
prefect_server.main()
"""
A_THREAD_STAYS = "threading.Thread(target=threading.Event().wait).start()"
HANGS = (
    "installation.prefect_home().mkdir(exist_ok=True); threading.Thread(daemon=True, "
    "target=installation.when_unused, args=(installation.prefect_home(), lambda: None)).start(); "
    "threading.Event().wait()"
)


@pytest.mark.parametrize(("what", "code"), [(A_THREAD_STAYS, 0), (HANGS, 1)])
def test_a_shared_servers_process_ends_whatever_it_has_left(
    tmp_path: Path, what: str, code: int
) -> None:
    """A connection's thread that nobody ends was seen; all commands after it waited for ever."""
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", SERVER.format(what=what)], env=environment, timeout=60, check=False
    )
    assert done.returncode == code
    assert running_server(tmp_path / "home") is None
    with used_by_command(tmp_path / "home"):
        pass
