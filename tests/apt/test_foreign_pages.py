"""What a web page of another origin can do to a gateway and an edge on this machine: nothing.

A real browser opens a hostile page that is served from another port, and one whose name leads to
this machine (DNS rebinding). The page tries to read, to submit and to store. Needs Debian's package
`chromium`.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from deployments.edge import create_app
from tasks.settings import Settings
from tests.kits.http.browser import CHROMIUM, Page, browser
from tests.kits.http.gateway import URL, deployed, gateway, served, submit
from tests.kits.server import eventually

pytestmark = [
    pytest.mark.apt,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed"),
]
EVIL = "evil.test"
ATTEMPT = """
(async () => {
  const tried = {};
  const attempt = async (name, url, options) => {
    try {
      const answer = await fetch(url, options);
      tried[name] = answer.type + " " + answer.status + " " + (await answer.text()).slice(0, 500);
    } catch (error) { tried[name] = "blocked"; }
  };
  const body = JSON.stringify({video_url: "%(url)s"});
  const text = {"Content-Type": "text/plain"};
  await attempt("read", "%(base)s/jobs");
  await attempt("read openapi", "%(base)s/openapi.json");
  await attempt("read file", "%(base)s/secret.mp4");
  await attempt("blind read", "%(base)s/jobs", {mode: "no-cors"});
  await attempt("submit", "%(base)s/upscale", {method: "POST", body: body,
    headers: {"Content-Type": "application/json"}});
  await attempt("blind submit", "%(base)s/upscale", {method: "POST", body: body, mode: "no-cors",
    headers: text});
  const form = new FormData(); form.append("video_url", "%(url)s");
  form.append("video", new Blob(["video"]), "a.mp4");
  await attempt("blind form", "%(base)s/upscale", {method: "POST", body: form, mode: "no-cors"});
  await attempt("store", "%(base)s/zone/a.mp4", {method: "PUT", body: "x"});
  return tried;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), hosts={EVIL: "127.0.0.1"}) as page:
        yield page


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """A page of another origin."""

    async def show(_: Request) -> HTMLResponse:
        return HTMLResponse("<p>cats</p>")

    with served(Starlette(routes=[Route("/", show)])) as url:
        yield url


@pytest.fixture(scope="module")
def client(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway without tokens, with a job."""
    settings = Settings(work_dir=tmp_path_factory.mktemp("gateway"))
    with deployed(api_url), gateway(settings, api_url) as client:
        submit(client)
        yield client


@pytest.fixture(scope="module")
def edge_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An edge with a file."""
    root = tmp_path_factory.mktemp("edge")
    (root / "secret.mp4").write_bytes(b"the secret")
    with served(create_app(root, zone="zone", key=SecretStr("a-long-key"))) as url:
        yield url


def attempts(page: Page, base: str) -> dict[str, str]:
    """What the open page gets from a server."""
    return page.run(ATTEMPT % {"base": base, "url": URL})


def num_jobs(client: httpx.Client) -> int:
    return len(client.get("/jobs", params={"limit": 100}).json()["jobs"])


def test_the_attempts_work_where_nobody_defends(page: Page, elsewhere: str) -> None:
    """So that "blocked" below is the doing of our servers."""

    async def open_to_all(request: Request) -> JSONResponse:
        del request
        return JSONResponse({"jobs": ["secret"]}, headers={"Access-Control-Allow-Origin": "*"})

    every = Route("/{path:path}", open_to_all, methods=["GET", "POST"])
    with served(Starlette(routes=[every])) as url:
        page.open(elsewhere)
        tried = attempts(page, url)
    assert "secret" in tried["read"]
    assert tried["blind submit"].startswith("opaque")


def test_a_page_from_elsewhere_reads_and_submits_nothing(
    page: Page, elsewhere: str, client: httpx.Client
) -> None:
    before = num_jobs(client)
    page.open(elsewhere)
    tried = attempts(page, str(client.base_url).rstrip("/"))
    readable = {name: told for name, told in tried.items() if not name.startswith("blind")}
    assert set(readable.values()) == {"blocked"}
    assert num_jobs(client) == before


def test_a_page_whose_name_leads_here_reads_and_submits_nothing(
    page: Page, client: httpx.Client, edge_url: str
) -> None:
    before = num_jobs(client)
    for url, expected in ((str(client.base_url), "SEEDVR2_ALLOWED_HOSTS"), (edge_url, "421")):
        evil = f"http://{EVIL}:{httpx.URL(url).port}"
        page.open(f"{evil}/")  # its own page would do the same: the origin is what counts
        tried = attempts(page, evil)
        assert len(tried) == 8
        for name, told in tried.items():
            assert " 421 " in told, f"{name}: {told}"
            assert expected in told
            assert "the secret" not in told
    assert num_jobs(client) == before


def test_a_page_from_elsewhere_reads_no_file(page: Page, elsewhere: str, edge_url: str) -> None:
    page.open(elsewhere)
    tried = attempts(page, edge_url)
    assert tried["read file"] == "blocked"
    assert tried["store"] == "blocked"


def test_our_own_page_works_and_tries_out(page: Page, client: httpx.Client, tmp_path: Path) -> None:
    """No other server is asked for anything, and a request from the page is answered."""
    page.open(f"{str(client.base_url).rstrip('/')}/docs")
    paths = client.get("/openapi.json").json()["paths"].values()
    described = sum(len(methods) for methods in paths)
    blocks = "document.querySelectorAll('.opblock').length"
    eventually(lambda: page.run(blocks) == described, f"{described} operations", seconds=60)
    loaded = page.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded
    assert {httpx.URL(name).host for name in loaded if name.startswith("http")} == {"127.0.0.1"}
    before = num_jobs(client)
    told = page.run(
        """(async () => {
          const block = document.querySelector('[id$="-submit"]');
          block.querySelector('.opblock-summary-control').click();
          const until = async find => {
            for (let i = 0; i < 100; i++) {
              const found = find(); if (found) return found;
              await new Promise(r => setTimeout(r, 100));
            }
            throw new Error("not found: " + find);
          };
          (await until(() => block.querySelector('.execute'))).click();
          const shown = '.live-responses-table .response';
          return (await until(() => block.querySelector(shown))).innerText;
        })()"""
    )
    assert "202" in told, told
    assert json.dumps("status") + ": " + json.dumps("pending") in told
    assert num_jobs(client) == before + 1
    shot: dict[str, Any] = page.call("Page.captureScreenshot")
    (tmp_path / "docs.png").write_bytes(base64.b64decode(shot["data"]))
