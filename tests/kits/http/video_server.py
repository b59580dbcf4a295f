"""An HTTP server on loopback that a test tells what to answer."""

import hashlib
import http.server
import threading
from collections.abc import Callable
from typing import Any

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class VideoServer:
    """An HTTP server on 127.0.0.1: a table of paths, and what was asked for."""

    VIDEO = hashlib.shake_256(b"video").digest(3 * 2**20)

    def __init__(self) -> None:
        self.routes: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path without query and headers (lower case), in order."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((path, headers))
                self.close_connection = True
                answer = outer.routes.get(path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            def end_headers(self) -> None:
                # Else a client may send its next request to a connection that is being closed.
                self.send_header("Connection", "close")
                super().end_headers()

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # clients that leave early are part of the tests

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str, what: "int | str | dict[str, Any] | Answer") -> None:
        """Answer with a bare status, a redirect, a file (arguments of `serve`), or by hand."""
        if isinstance(what, int):
            what = _bare(what)
        elif isinstance(what, str):
            what = _bare(302, Location=what)
        elif isinstance(what, dict):
            what = serve(**what)
        self.routes[path] = what

    def offer(self, path: str, **fields: Any) -> None:
        """Answer with a file."""
        self.routes[path] = serve(**fields)

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def headers_of(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers in self.requests if asked == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(
    content: bytes = VideoServer.VIDEO,
    *,
    etag: str | None = '"v1"',
    modified: str | None = None,
    cut: int | None = None,
    stall: threading.Event | None = None,
    ranges: bool = True,
    honest: bool = True,
    **headers: str,
) -> Answer:
    """Serve a file as good servers do.

    Args:
        content: the whole file.
        etag: its ETag.
        modified: its Last-Modified.
        cut: close the connection after so many bytes of the body.
        stall: send half of the body and the rest when this is set.
        ranges: know Range.
        honest: look at If-Range.
        headers: more headers (_ for -).
    """

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers
        if etag and asked["If-None-Match"] == etag:
            handler.send_response(304)
            handler.end_headers()
            return
        start = 0
        same = not honest or asked["If-Range"] in (etag, modified)
        if ranges and asked["Range"] and same:
            start = int(asked["Range"].removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            told = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", told)
        sent = {"ETag": etag, "Last_Modified": modified, "Content_Type": "video/mp4", **headers}
        for name, value in sent.items():
            if value is not None:
                handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        if stall is None:
            handler.wfile.write(content[start:cut])
            return
        handler.wfile.write(content[start : len(content) // 2])
        stall.wait(60)
        handler.wfile.write(content[len(content) // 2 :])

    return answer


def _bare(code: int, **headers: str) -> Answer:
    """Answer with a status and one byte."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "1")
        handler.end_headers()
        handler.wfile.write(b"x")

    return answer
