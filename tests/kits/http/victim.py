"""A gateway process that takes hostile requests, and what must hold of it after each."""

import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.gateway.app import create_app
from deployments.gateway.prefect_api import PrefectApi
from tasks.settings import Settings
from tests.kits.http.gateway import GatewayProcess

GROWTH_KIB = 40 * 1024
"""What all cases together may add to the process's largest size: a few buffers of 1 MiB each."""
DIGITS = "9" * 4000
CUT = 0
"""The status of an answer that was lost, as the server ended the connection under our bytes."""


@dataclass(frozen=True)
class Told:
    """An answer, taken apart by hand: clients tidy up what is odd."""

    status: int
    headers: str
    body: str

    @property
    def detail(self) -> str:
        """The sentence, whoever says it."""
        try:
            return json.loads(self.body)["detail"]
        except (ValueError, KeyError, TypeError):
            return self.body


def take_apart(received: bytes) -> Told:
    """What a connection has brought until its end."""
    head, _, body = received.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1.1 (\d{3})", head)
    if not status:  # the end of the connection came before the answer was read
        return Told(CUT, "", "cut off")
    return Told(int(status[1]), head.decode("latin-1"), body.decode())


class Victim(GatewayProcess):
    """The gateway, and what it may not do."""

    def __init__(self, folder: Path, **variables: str) -> None:
        super().__init__("--port", "0", "--parent", str(os.getpid()), **variables)
        self.folder = folder
        self.paths = create_app(Settings(), PrefectApi("http://127.0.0.1:9/api")).openapi()["paths"]
        self.at_start = self.peak_kib()

    def raw(self, request: bytes) -> Told:
        """Send bytes as they are."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            received = b""
            try:
                connection.sendall(request)
                while piece := connection.recv(65536):
                    received += piece
            except (ConnectionResetError, BrokenPipeError):
                pass  # it has seen enough
        return take_apart(received)

    def ask(self, method: str, target: str, body: bytes = b"", kind: str = "", *lines: str) -> Told:
        """Send one request."""
        head = [f"{method} {target} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}"]
        head += [f"Content-Type: {kind}"] if kind else []
        head += lines if any(line.startswith("Host:") for line in lines) else ["Host: localhost"]
        head += [line for line in lines if line not in head]
        return self.raw("\r\n".join([*head, "", ""]).encode("utf-8", "surrogateescape") + body)

    def declares(self, method: str, path: str, status: int) -> bool:
        """Whether the OpenAPI says that this may be answered."""
        return str(status) in self.paths[path][method.lower()]["responses"]

    def files(self) -> list[str]:
        """What lies in its work directory."""
        return [path.name for path in self.folder.rglob("*") if path.is_file()]


def cases(table: dict[str, tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(*case, id=name) for name, case in table.items()]
