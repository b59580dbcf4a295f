"""A real browser, headless: opens pages of servers on this machine and runs scripts in them.

Needs Debian's package `chromium`; it is driven through its own debugging protocol.
"""

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.kits.processes import ends_with_us
from tests.kits.server import eventually

CHROMIUM = shutil.which("chromium")


class NavigatedError(AssertionError):
    """The page went to another one while a script ran in it."""


class Page:
    """One open page."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the debugging protocol."""
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            told = json.loads(self._connection.recv(timeout=60))
            if told.get("id") == number:
                if "navigated" in told.get("error", {}).get("message", ""):
                    raise NavigatedError(told)
                assert "error" not in told, told
                return told["result"]

    def open(self, url: str) -> None:
        """Go to an address and wait until the page is loaded."""
        self.call("Page.enable")
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert not failed, failed
        eventually(lambda: self.run("document.readyState") == "complete", f"{url} to load")

    def reload(self) -> None:
        """Load the page again, and wait until the new one is there: the old one stays for a bit."""
        self.run("window.isLeft = true; location.reload()")

        def is_new() -> bool:
            with suppress(NavigatedError):
                return bool(self.run("!window.isLeft && document.readyState == 'complete'"))
            return False

        eventually(is_new, "the page to load again")

    def run(self, script: str) -> Any:
        """Run a script in the page; returns its value, also that of a promise.

        Raises:
            NavigatedError: the page was left meanwhile; whether the script has run is not known.
        """
        told = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")


@contextmanager
def browser(folder: Path, *, hosts: dict[str, str] | None = None) -> Iterator[Page]:
    """Start a browser with a profile in this folder.

    Args:
        folder: for its profile.
        hosts: names that it takes for addresses of this machine, as a hostile DNS would tell it.
    """
    assert CHROMIUM is not None
    rules = ",".join(f"MAP {name} {address}" for name, address in (hosts or {}).items())
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", f"--host-resolver-rules={rules}",
        "about:blank",
    ]  # fmt: skip
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stderr=quiet, stdout=quiet, preexec_fn=ends_with_us())
    try:
        noted = folder / "DevToolsActivePort"
        port = eventually(
            lambda: noted.exists() and re.match(r"\d+", noted.read_text()), "the browser's start"
        )[0]
        pages = httpx.get(f"http://127.0.0.1:{port}/json").json()
        address = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=2**25) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait(30)
