"""The page sends a file over a line with faults: in a real browser, to a real gateway.

Needs Debian's package `chromium`. Prefect is not needed: what is looked at ends with the plan.
"""

import hashlib
import shutil
from pathlib import Path

import httpx
import pytest

from deployments.gateway.app import create_app
from deployments.gateway.prefect_api import PrefectApi
from tasks.settings import Settings, use_settings
from tests.kits.http.browser import Page, browser
from tests.kits.http.gateway import GatewayProcess, served
from tests.kits.http.person import Person
from tests.kits.http.s3 import line_to
from tests.kits.processes import free_port
from tests.kits.server import eventually

pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]

HOSTILE = "<img src=x onerror=document.title='owned'> \u202e%2e%2e%2f\r\nX: y.mp4"
"""A name as a file system allows it."""


def opened(page: Page, url: str) -> Person:
    """The page, as soon as it can be used."""
    page.open(f"{url}/")
    eventually(lambda: page.run("!!document.querySelector('#option-model')"), "the form")
    return Person(page)


def test_a_file_goes_on_after_cuts_and_is_known_again(demo_clip: Path, tmp_path: Path) -> None:
    settings = Settings(work_dir=tmp_path / "work", allow_cpu_engine=True)
    use_settings(settings)
    clip = tmp_path / "clip ä.mp4"
    clip.write_bytes(demo_clip.read_bytes())
    sha256 = hashlib.sha256(clip.read_bytes()).hexdigest()
    with (
        served(create_app(settings, PrefectApi("http://127.0.0.1:1/api"))) as url,
        line_to(url) as line,
        browser(tmp_path / "browser") as page,
    ):
        person = opened(page, line.url)
        line.fail("away", "^PATCH", times=3)
        line.fail("busy", "^HEAD", times=1)
        line.fail("torn", "^PATCH", times=1)
        line.fail("lost", "^PATCH", times=1)
        person.drop("#drop", clip)
        person.sees("clip ä.mp4", "#chosen")
        person.click("#make-plan")
        person.sees("it goes on by itself", "#planning")
        person.sees("The plan is ready", "#planning")
        assert "320x180, 75 frames" in person.text("#plan-facts")
        assert sorted(line.happened) == ["away"] * 3 + ["busy", "lost", "torn"]
        assert (settings.intake_dir / sha256).read_bytes() == clip.read_bytes()
        assert {one.split()[0] for one in line.requests if "/uploads" in one} <= {
            *("POST", "HEAD", "PATCH"),
        }

        large = tmp_path / "large.mp4"
        large.write_bytes(clip.read_bytes() + bytes(2_000_000))
        mark = f"{large.name}|{large.stat().st_size}|{int(large.stat().st_mtime * 1000)}"
        begun = begun_by_another_visit(line.url, large, mark)
        line.requests.clear()
        person.drop("#drop", large)
        person.click("#make-plan")
        person.sees("The plan is ready", "#planning")
        patched = [one for one in line.requests if one.startswith("PATCH")]
        assert patched == [f"PATCH {begun}"], "the upload of the closed page goes on"


def test_a_gateway_that_is_killed_and_a_hostile_name(demo_clip: Path, tmp_path: Path) -> None:
    """The line is as slow as it takes to kill the gateway in the middle of a piece."""
    clip = tmp_path / HOSTILE
    clip.write_bytes(demo_clip.read_bytes() + bytes(5_000_000))
    intake, port = tmp_path / "work" / "intake", str(free_port())
    variables = {
        "SEEDVR2_WORK_DIR": str(tmp_path / "work"),
        "SEEDVR2_ALLOW_CPU_ENGINE": "true",
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    gateway = GatewayProcess("--port", port, **variables)
    with browser(tmp_path / "browser") as page:
        person = opened(page, gateway.url)
        page.call("Network.enable")
        line = {"offline": False, "latency": 0, "downloadThroughput": -1}
        page.call("Network.emulateNetworkConditions", **line, uploadThroughput=500_000)
        person.drop("#drop", clip)
        person.sees("<img src=x onerror=document.title='owned'>", "#chosen")
        person.click("#make-plan")
        part = eventually(lambda: next((intake / "resumable").glob("*.part"), None), "a part")
        eventually(lambda: part.stat().st_size >= 2**21, "bytes came")
        gateway.process.kill()
        gateway.process.communicate()
        came, inode = part.stat().st_size, part.stat().st_ino
        assert came < clip.stat().st_size
        person.sees("it goes on by itself", "#planning")
        page.call("Network.emulateNetworkConditions", **line, uploadThroughput=-1)
        gateway = GatewayProcess("--port", port, **variables)
        person.sees("The plan is ready", "#planning")
        kept = intake / hashlib.sha256(clip.read_bytes()).hexdigest()
        assert kept.read_bytes() == clip.read_bytes()
        assert kept.stat().st_ino == inode, "the upload that was begun is the one that ended"
        facts = person.text("#plan-facts")
        assert "320x180, 75 frames" in facts
        assert "_img src_x onerror_document.title__owned__" in facts
        assert "\u202e" not in facts
        assert page.run("document.title") != "owned"
    gateway.end()


def begun_by_another_visit(url: str, file: Path, mark: str) -> str:
    """Send the first half of a file as the page does; returns the upload's path."""
    from base64 import b64encode

    tus = {"Tus-Resumable": "1.0.0"}
    encoded = [b64encode(text.encode()).decode() for text in (file.name, mark)]
    metadata = f"filename {encoded[0]},fingerprint {encoded[1]}"
    length = {"Upload-Length": str(file.stat().st_size), "Upload-Metadata": metadata}
    made = httpx.post(f"{url}/uploads", headers=tus | length)
    at = f"/{made.headers['location']}"
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    answer = httpx.patch(f"{url}{at}", headers=tus | kind, content=file.read_bytes()[:1_000_000])
    assert answer.status_code == 204
    return at
