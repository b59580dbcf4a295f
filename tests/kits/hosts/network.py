"""Hosts with a network of their own, on this machine: a cable leads to each, and can be pulled."""

import os
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host of its own, as far as its network goes: a name space with a cable to this machine."""

    name: str
    cable: str
    address: str
    """Of this machine, seen from there."""

    @property
    def within(self) -> tuple[str, ...]:
        """The command that runs another one there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Pull the cable: what is sent on it is lost, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self.cable, "up")

    @contextmanager
    def sees(self, url: str) -> Iterator[str]:
        """Show a server of this machine's loopback to the host; yields the address there.

        The name is one that the servers answer to; on the host it leads to the cable.
        """
        _, _, place = url.partition("://")
        place, _, path = place.partition("/")
        host, _, port = place.partition(":")
        with _Forwarder((self.address, 0), (host, int(port))) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            slash = "/" if path else ""
            yield f"http://localhost:{server.server_address[1]}{slash}{path}"
            server.shutdown()
            thread.join()


@contextmanager
def host() -> Iterator[Host]:
    """Make a host; skips the test where that is not allowed."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("a network of its own needs root and iproute2")
    name = f"s{uuid4().hex[:8]}"
    number = int(name[1:3], 16)
    made = Host(name=name, cable=f"{name}-a", address=f"10.213.{number}.1")
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network name spaces: {error.stderr.strip()}")
    names = Path("/etc/netns") / name
    try:
        names.mkdir(parents=True)
        (names / "hosts").write_text(f"{made.address} localhost\n")
        _ip("link", "add", made.cable, "type", "veth", "peer", f"{name}-b", "netns", name)
        _ip("addr", "add", f"{made.address}/24", "dev", made.cable)
        _ip("link", "set", made.cable, "up")
        there = ("-n", name)
        _ip(*there, "addr", "add", f"10.213.{number}.2/24", "dev", f"{name}-b")
        _ip(*there, "link", "set", f"{name}-b", "up")
        _ip(*there, "link", "set", "lo", "up")
        yield made
    finally:
        _ip("netns", "delete", name)  # and the cable with it
        shutil.rmtree(names)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class _Forwarder(socketserver.ThreadingTCPServer):
    """Passes connections on."""

    daemon_threads = True

    def __init__(self, here: tuple[str, int], there: tuple[str, int]) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError), socket.create_connection(there, timeout=60) as onward:
                    onward.settimeout(None)
                    back = threading.Thread(target=_pump, args=(onward, self.request), daemon=True)
                    back.start()
                    _pump(self.request, onward)
                    back.join()

        super().__init__(here, Handler)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes until there is no more."""
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
