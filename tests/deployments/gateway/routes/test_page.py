"""The page's files, and the picture of a job; tests/apt has a browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import httpx
import pytest

from deployments.gateway.app import create_app
from deployments.gateway.auth import digest
from deployments.gateway.prefect_api import PrefectApi
from seedvr2_core.config import ENGINES
from tasks.request.video import Codec, Resolution
from tasks.settings import Settings
from tests.kits.http.gateway import record_result, served, submit

NOBODY = "http://127.0.0.1:9/api"
"""The address of a Prefect server that is not there: the page's files need none."""
FOLDER = Path(__file__).parents[4] / "deployments" / "gateway" / "page"


@pytest.fixture(scope="module")
def page() -> Iterator[httpx.Client]:
    closed = Settings(gateway_tokens=(digest("right"),))
    with (
        served(create_app(closed, PrefectApi(NOBODY))) as url,
        httpx.Client(base_url=url) as client,
    ):
        yield client


def test_the_page_needs_no_token_and_holds_no_script_or_style(page: httpx.Client) -> None:
    answer = page.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", answer.text)


def test_all_parts_are_there_and_their_addresses_are_relative(page: httpx.Client) -> None:
    """So that a proxy may serve the page under any path."""
    found = re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', page.get("/").text)
    assert {"page/page.css", "page/main.js", "docs"} <= set(found)
    for part in FOLDER.glob("*.js"):
        found += [f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', part.read_text())]
        asked = re.findall(r'(?:ask|read|sendFile)\([`"]([^`"$?]*)', part.read_text())
        assert not [path for path in asked if path.startswith("/")], part.name
    for path in {path for path in found if path != "docs"}:
        answer = page.get(f"/{path}")
        assert answer.status_code == 200, path
        kind = "text/css" if path.endswith(".css") else "text/javascript"
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_every_usual_choice_is_told_in_plain_words() -> None:
    told = (FOLDER / "words.js").read_text()
    engines = [name for name, spec in ENGINES.items() if not spec.test_only]
    for choice in (*get_args(Codec), *get_args(get_args(Resolution)[0]), "auto", *engines):
        assert re.search(rf'^    "?{re.escape(choice)}"?: "[^"]+",$', told, re.M), choice


@pytest.mark.parametrize("name", ["..%2fapp.py", "%2e%2e%2fapp.py", "none.js", "__init__.py"])
def test_nothing_else_is_served(page: httpx.Client, name: str) -> None:
    assert page.get(f"/page/{name}").status_code == 404


def test_scripts_make_no_html_of_what_they_show() -> None:
    for part in FOLDER.glob("*.js"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", part.read_text()
        )
        assert not found, part.name


@pytest.mark.usefixtures("on_the_server")
class TestJobs:
    def test_the_picture_of_a_job_is_shown_and_no_other_file(
        self, client: httpx.Client, settings: Settings, tmp_path: Path
    ) -> None:
        job = submit(client)
        assert client.get(f"/preview/{job}").status_code == 404
        settings.storage_dir.mkdir(parents=True, exist_ok=True)
        mine = settings.storage_dir / "a.preview.jpg"
        mine.write_bytes(b"a picture")
        other = tmp_path / "secret.jpg"
        other.write_bytes(b"a secret")
        link = settings.storage_dir / "link.jpg"
        link.symlink_to(other)
        (settings.storage_dir / "a.mp4").write_bytes(b"a video")
        for path, status in (
            (other, 404),
            (link, 404),
            (settings.storage_dir / "a.mp4", 404),
            (settings.storage_dir / "none.jpg", 404),
            (mine, 200),
        ):
            record_result(job, preview_path=str(path))
            answer = client.get(f"/preview/{job}")
            assert answer.status_code == status, path
        assert (answer.content, answer.headers["content-type"]) == (b"a picture", "image/jpeg")
