"""What a web page of somebody else can do to `seedvr2 serve` from the operator's own browser.

Needs Debian's package `chromium`. The pages come from a second origin on loopback, and from a name
that the page's owner has pointed at this machine (DNS rebinding).
"""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.kits.server import Serve

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed"),
]
# Asks each address in turn, as a page may: with and without a readable answer, and by a POST that
# needs no preflight. Writes what it could read into the page.
PAGE = """<!doctype html><pre id=told>not done</pre><script>
const told = {}, asks = ASKS;
async function run() {
  for (const [name, url, options] of asks) {
    try {
      const answer = await fetch(url, options);
      told[name] = {type: answer.type, status: answer.status, text: await answer.text()};
    } catch (error) { told[name] = {failed: String(error)}; }
  }
  document.getElementById("told").textContent = JSON.stringify(told);
}
run();
</script>"""


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("serve")) as serve:
        yield serve


@pytest.fixture
def page(serve: Serve) -> Iterator[str]:
    """Address of a page on a second origin that asks Prefect and the gateway."""
    api, gateway = f"{serve.urls['prefect']}/api", serve.urls["gateway"]
    text = {"method": "POST", "headers": {"Content-Type": "text/plain"}, "body": "{}"}
    asks = [
        ["read", f"{api}/admin/version", {}],
        ["pools", f"{api}/work_pools/filter", text],
        ["blind", f"{api}/flows/", {**text, "mode": "no-cors", "body": '{"name": "of-a-page"}'}],
        ["variable", f"{api}/variables/", {**text, "mode": "no-cors", "body": VARIABLE}],
        ["jobs", f"{gateway}/jobs", {}],
        ["submit", f"{gateway}/upscale", {**text, "body": '{"video_url": "https://a.example/b"}'}],
    ]
    content = PAGE.replace("ASKS", json.dumps(asks)).encode()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


VARIABLE = '{"name": "of_a_page", "value": "1"}'


def browse(url: str, folder: Path, *options: str) -> str:
    """Open a page and return what it shows, as HTML."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", *options, "--dump-dom",
            "--virtual-time-budget=20000", f"--user-data-dir={folder / 'profile'}", url,
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    return html.unescape(done.stdout)


def test_a_page_of_a_second_origin_reads_nothing_and_changes_nothing(
    serve: Serve, page: str, tmp_path: Path
) -> None:
    match = re.search(r"<pre id=\"told\">(.*?)</pre>", browse(page, tmp_path), re.S)
    assert match, "the page did not run"
    told = json.loads(match[1])
    assert set(told) == {"read", "pools", "blind", "variable", "jobs", "submit"}
    for name in ("read", "pools", "jobs", "submit"):
        assert "failed" in told[name], (name, told[name])
    for name in ("blind", "variable"):  # sent, but the browser shows nothing of the answer
        assert told[name].get("type", "opaque") == "opaque", told[name]
        assert not told[name].get("text")
    api = f"{serve.urls['prefect']}/api"
    names = httpx.post(f"{api}/flows/filter", json={}, auth=serve.auth).json()
    assert "of-a-page" not in {flow["name"] for flow in names}
    assert httpx.post(f"{api}/variables/filter", json={}, auth=serve.auth).json() == []
    assert httpx.get(f"{serve.urls['gateway']}/jobs", timeout=60).json()["jobs"] == []


@pytest.mark.parametrize(("server", "path"), [("prefect", "/api/admin/version"), ("prefect", "/"),
                                              ("gateway", "/jobs"), ("edge", "/")])  # fmt: skip
def test_a_name_that_was_pointed_at_this_machine_is_not_served(
    serve: Serve, server: str, path: str, tmp_path: Path
) -> None:
    port = serve.urls[server].rpartition(":")[2]
    rebound = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    shown = browse(f"http://evil.example:{port}{path}", tmp_path, rebound)
    assert "is not known as 'evil.example" in shown


def test_the_ui_of_ours_asks_for_the_password(serve: Serve, tmp_path: Path) -> None:
    shown = browse(f"{serve.urls['prefect']}/", tmp_path)
    assert "password" in shown.lower()
