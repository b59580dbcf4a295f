"""What is this machine alone, and that no proxy comes between us and it."""

import socket

import httpx
import pytest

from deployments.host.loopback import is_loopback, keep_loopback_direct


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "127.evil.example", "example.org"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a, localhost", "NO_PROXY": "b"}, "a,localhost,127.0.0.1,::1"),
    ],
)
def test_loopback_never_goes_through_a_proxy(given: dict[str, str], expected: str) -> None:
    keep_loopback_direct(given)
    assert given["no_proxy"] == given["NO_PROXY"] == expected


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_a_proxy_of_any_kind_keeps_nobody_from_this_machine(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Clients that cannot speak to the proxy must not fail for a request that needs none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            for variable in (name, name.lower()):
                monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "corp.example")
        keep_loopback_direct()
        server.settimeout(10)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.5)
        connection, _ = server.accept()
        assert connection.recv(100).startswith(b"GET / HTTP/1.1")
        connection.close()
