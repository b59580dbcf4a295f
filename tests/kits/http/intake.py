"""What an address from a stranger may lead to: private hosts, names that change, lying servers.

A canary notices whoever connects to a private address; a name server and a web server do what a
test says. All of it is on 127.0.0.1 and ::1.
"""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seedvr2_core.errors import SourceRefusedError, SourceUnavailableError
from tasks.settings import Settings

SECRET = "sekret42"
"""A key in the query of every address that is tried; no message, log or file may show it."""
WAIT_SECONDS = 30.0


class Canary:
    """Listens on loopback, where a fetch must never connect, and counts who does."""

    def __init__(self) -> None:
        self._visitors: list[tuple[str, int]] = []
        self._seen = threading.Condition()
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port: int = self._sockets[0].getsockname()[1]
        with contextlib.suppress(OSError):  # a machine without IPv6, or the port is taken there
            self._sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for listening in self._sockets:
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def visits(self) -> int:
        """How many connections came so far.

        We make one of our own last: once it has been seen, all earlier ones have been seen too.
        """
        for listening in self._sockets:
            with socket.create_connection(listening.getsockname()[:2], WAIT_SECONDS) as own:
                name = own.getsockname()[:2]
                with self._seen:
                    assert self._seen.wait_for(lambda who=name: who in self._visitors, WAIT_SECONDS)
                    self._visitors.remove(name)
        return len(self._visitors)

    def close(self) -> None:
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                visitor, address = listening.accept()
            except OSError:
                return
            visitor.close()
            with self._seen:
                self._visitors.append(address[:2])
                self._seen.notify_all()


class Resolver:
    """Takes the place of `socket.getaddrinfo` for names that a test gives addresses to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        self._names: dict[str, list[Sequence[str]]] = {}
        self.released = threading.Event()
        """When this is set, `silent.test`, which gets no answer, is answered after all."""

    def name(self, host: str, *answers: Sequence[str]) -> None:
        """Give a name its addresses; each look-up takes the next answer, and the last one stays."""
        self._names[host] = list(answers)

    def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Answer as `socket.getaddrinfo` does; names that are not known must be addresses."""
        name = host.decode() if isinstance(host, bytes) else str(host)
        self.asked.append(name)
        if name == "silent.test":
            self.released.wait(WAIT_SECONDS)
        answers = self._names.get(name.lower())
        if answers is None:
            kwargs["flags"] = kwargs.get("flags", 0) | socket.AI_NUMERICHOST
            return self._real(host, port, *args, **kwargs)
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        found = []
        for address in addresses:
            found += self._real(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return found


class Talk:
    """One connection to the hostile server."""

    def __init__(self, connection: socket.socket, head: bytes, released: threading.Event) -> None:
        self.head = head
        self.released = released
        self._connection = connection

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drip(self, data: bytes, *, every: float = 0.01) -> None:
        """Send bytes one by one, again and again, until the test is over."""
        while not self.released.is_set():
            for byte in data:
                self.send(bytes([byte]))
                self.released.wait(every)

    def pour(self, data: bytes) -> None:
        """Send the same again and again, until nobody takes it."""
        while not self.released.is_set():
            self.send(data)

    def header(self, name: str) -> str | None:
        """A header of the request."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return None


Play = Callable[[Talk], None] | bytes
"""What the server does with a connection; bytes are sent as they are."""


class HostileServer:
    """A web server that sends exactly the bytes that a test wants."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        """The head of every request that came, in order."""
        self.plays: dict[str, Play] = {}
        """Path -> what is done with a request for it."""
        self.released = threading.Event()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # clients that leave are what is tested
                    outer._handle(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._tls: ssl.SSLContext | None = None
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def play(self, path: str, play: Play) -> str:
        """Offer something at a path; returns its address."""
        self.plays[path] = play
        return f"http://{self.host}{path}"

    def wrap(self, tls: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._tls = tls

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, connection: socket.socket) -> None:
        connection.settimeout(WAIT_SECONDS)
        if self._tls is None:
            self._talk(connection)
            return
        # An owner of its own: the wrapped socket takes the plain one's place.
        with self._tls.wrap_socket(connection, server_side=True) as wrapped:
            self._talk(wrapped)

    def _talk(self, connection: socket.socket) -> None:
        """Read the request's head and do what is to be done at its path."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
            head += data
            if not head.startswith((b"GET", b"POST")):  # somebody tries TLS
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
        self.heads.append(head)
        play = self.plays[head.split(b" ", 2)[1].partition(b"?")[0].decode()]
        if isinstance(play, bytes):
            connection.sendall(play)
        else:
            play(Talk(connection, head, self.released))


def answer(
    status: str = "200 OK", body: bytes = b"", *, length: int | None = None, **headers: str
) -> bytes:
    """Make the bytes of an HTTP answer.

    Args:
        status: code and text.
        body: what follows the head.
        length: what Content-Length says instead of the truth.
        headers: more headers, with _ for - in their names; an empty value leaves one out.
    """
    told = {"Content_Length": str(len(body) if length is None else length), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in told.items() if value]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", **headers: str) -> bytes:
    """A 200 with its body in chunks; `end` follows them."""
    head = answer(Transfer_Encoding="chunked", Content_Length="", **headers)
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def left_behind(work_dir: Path) -> list[str]:
    """Paths of all files below the work directory."""
    return sorted(str(p.relative_to(work_dir)) for p in work_dir.rglob("*") if not p.is_dir())


def nothing_is_left(settings: Settings) -> bool:
    """Whether the work directory holds no file, not even an empty one."""
    return left_behind(settings.work_dir) == []


def secrets_in(work_dir: Path, secret: str) -> list[str]:
    """Files whose name or content shows a secret."""
    return [
        str(path)
        for path in work_dir.rglob("*")
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
    ]


NEVER, LATER = SourceRefusedError, SourceUnavailableError
"""The errors for a source that no retry can fetch, and for one that a later try may."""
BROKE = "broke off"
"""What a message says of a connection that ended before its answer did."""
