"""A receiver of callbacks on loopback. It checks their signatures with the code in the docs."""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import SecretStr

from tasks.net.signing import receiver_secret
from tests.kits.processes import ROOT

SECRET = "a secret of sixteen"
"""The operator's."""
RECEIVERS_SECRET = receiver_secret(SecretStr(SECRET), "127.0.0.1")
"""The one that the receiver below is told."""
QUERY = "order=17&key=sekret42"


class Receiver:
    """Keeps what is posted to it, and answers with `statuses` in turn; the last one repeats."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = [204]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(404)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posts.append(({k.lower(): v for k, v in self.headers.items()}, body))
                left = outer.statuses
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}/done?{QUERY}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def events(self) -> list[dict[str, Any]]:
        """The events that were received; the signature of each is checked as the docs say."""
        verify = documented_check()
        for headers, body in self.posts:
            verify(body, headers["seedvr2-signature"], RECEIVERS_SECRET)
            assert headers["seedvr2-event-id"] == json.loads(body)["event_id"]
        return [json.loads(body) for _, body in self.posts]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def documented_check() -> Callable[..., None]:
    """The function `check_callback` of the code block in docs/callbacks.md."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "callbacks.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["check_callback"]
