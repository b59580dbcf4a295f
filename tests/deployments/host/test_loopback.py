"""What is this machine alone, and that no proxy comes between us and it."""

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
