"""The socket that our HTTP servers listen on."""

import errno
import socket

import pytest

from deployments.host.listen import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_send_without_delay(host: str) -> None:
    try:
        listener = listen(host, 0)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            pytest.skip(f"this machine has no {host}")
        raise
    with listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_in_use_is_an_error() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", listener.getsockname()[1])
