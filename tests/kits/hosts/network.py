"""Networks on this machine that can be cut: hosts on a cable of their own, and single ways."""

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
        with _forwarded(self.address, url) as (port, _):
            yield f"http://localhost:{port}{_path_of(url)}"


@dataclass(frozen=True, kw_only=True)
class Way:
    """The way from one process to one server, on this machine; it needs no rights."""

    url: str
    """Of the server, seen from the process."""
    is_open: threading.Event

    def cut(self) -> None:
        """Hold back what is sent from now on, and tell nobody: connections stay and are silent."""
        self.is_open.clear()

    def mend(self) -> None:
        """Let through what was held back, as TCP does when a cable is put back."""
        self.is_open.set()


@contextmanager
def way_to(url: str) -> Iterator[Way]:
    """Lay a way of its own to a server of this machine's loopback."""
    with _forwarded("127.0.0.1", url) as (port, is_open):
        yield Way(url=f"http://127.0.0.1:{port}{_path_of(url)}", is_open=is_open)


def _path_of(url: str) -> str:
    """The path of an address, with the slash before it."""
    return "".join(url.partition("://")[2].partition("/")[1:])


@contextmanager
def _forwarded(address: str, url: str) -> Iterator[tuple[int, threading.Event]]:
    """Pass connections on to a server; yields the port on that address, and whether it does so."""
    host, _, port = url.partition("://")[2].partition("/")[0].partition(":")
    is_open = threading.Event()
    is_open.set()
    with _Forwarder((address, 0), (host, int(port)), is_open) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1], is_open
        finally:
            is_open.set()
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
    """Passes connections on while it is open."""

    daemon_threads = True

    def __init__(
        self, here: tuple[str, int], there: tuple[str, int], is_open: threading.Event
    ) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                is_open.wait()
                with suppress(OSError), socket.create_connection(there, timeout=60) as onward:
                    onward.settimeout(None)
                    back = threading.Thread(
                        target=_pump, args=(onward, self.request, is_open), daemon=True
                    )
                    back.start()
                    _pump(self.request, onward, is_open)
                    back.join()

        super().__init__(here, Handler)


def _pump(source: socket.socket, target: socket.socket, is_open: threading.Event) -> None:
    """Pass on what comes until there is no more."""
    with suppress(OSError):
        while data := source.recv(65_536):
            is_open.wait()
            target.sendall(data)
    is_open.wait()
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
