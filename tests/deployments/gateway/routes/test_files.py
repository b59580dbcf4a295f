"""The addresses at which a job's videos are played: whose they are, and what is behind them."""

from pathlib import Path

import httpx
import pytest

from deployments.gateway.auth import digest
from deployments.gateway.routes import files
from deployments.gateway.routes.files import Addresses
from seedvr2_core.job import JobDir
from tasks.settings import Settings
from tests.kits.http.gateway import URL, gateway, record_result, submit

NOTHING = {"before": None, "after": None, "result": None, "report": None}
KEY, SOURCE = "ab" * 32, "cd" * 32


@pytest.fixture
def job(client: httpx.Client, settings: Settings) -> str:
    """A completed job with its source and its result on this machine."""
    for path, content in (
        (settings.sources_dir / SOURCE, b"source"),
        (settings.storage_dir / "a.mp4", b"0123456789"),
        (JobDir(settings.jobs_dir / KEY).outline_path, f'{{"source_sha256": "{SOURCE}"}}'.encode()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    job = submit(client)
    record_result(job, job_key=KEY, output_path=str(settings.storage_dir / "a.mp4"))
    return job


@pytest.mark.usefixtures("on_the_server")
class TestFiles:
    def test_both_videos_are_played_in_parts_without_a_token(
        self, client: httpx.Client, job: str
    ) -> None:
        told = client.get(f"/files/{job}").json()
        assert client.get(told["before"]).content == b"source"
        part = client.get(told["after"], headers={"Range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, b"234")
        assert part.headers["content-type"] == "video/mp4"
        assert "sandbox" in part.headers["content-security-policy"]
        assert client.get(told["after"] + "x").status_code == 404
        assert told["report"] is None

    def test_a_result_of_any_kind_is_saved_under_its_name(
        self, client: httpx.Client, job: str, settings: Settings
    ) -> None:
        """A browser plays what has another address than the page, and leaves the page for it."""
        for name, kind in (
            ("a.mp4", "video/mp4"),
            ("pictures.zip", "application/octet-stream"),
            ("one.png", "application/octet-stream"),
        ):
            path = settings.storage_dir / name
            path.write_bytes(b"0123456789")
            record_result(job, job_key=KEY, output_path=str(path))
            told = client.get(f"/files/{job}").json()
            assert (told["after"] is not None) == (kind == "video/mp4")
            saved = client.get(told["result"])
            assert (saved.content, saved.headers["content-type"]) == (b"0123456789", kind)
            assert saved.headers["content-disposition"] == f'attachment; filename="{name}"'
            assert "sandbox" in saved.headers["content-security-policy"]
            rest = client.get(told["result"], headers={"Range": "bytes=8-"})
            assert (rest.status_code, rest.content) == (206, b"89")

    def test_a_report_is_shown_and_runs_nothing(
        self, client: httpx.Client, job: str, settings: Settings
    ) -> None:
        page = settings.storage_dir / "a.report.html"
        page.write_text("<p>measured</p>")
        record_result(job, report_path=str(page))
        shown = client.get(client.get(f"/files/{job}").json()["report"])
        assert (shown.text, shown.headers["content-type"]) == (
            "<p>measured</p>",
            "text/html; charset=utf-8",
        )
        policy = shown.headers["content-security-policy"]
        assert "sandbox" in policy
        assert "script-src" not in policy
        assert "allow-" not in policy

    def test_no_other_file_has_an_address(
        self, client: httpx.Client, job: str, settings: Settings, tmp_path: Path
    ) -> None:
        secret = tmp_path / "secret.mp4"
        secret.write_bytes(b"secret")
        link = settings.storage_dir / "link.mp4"
        link.symlink_to(secret)
        (settings.storage_dir / "a.txt").write_bytes(b"no video")
        for path in (secret, link, settings.storage_dir / "a.txt", tmp_path / "none.mp4"):
            record_result(job, job_key="../" + KEY, output_path=str(path), report_path=str(path))
            assert client.get(f"/files/{job}").json() == NOTHING, path

    def test_only_its_caller_is_told_them(self, settings: Settings, api_url: str) -> None:
        tokens = (digest("one"), digest("two"))
        with gateway(settings.model_copy(update={"gateway_tokens": tokens}), api_url) as client:
            one, two = ({"Authorization": f"Bearer {name}"} for name in ("one", "two"))
            job = client.post("/upscale", json={"video_url": URL}, headers=one).json()["job_id"]
            assert client.get(f"/files/{job}", headers=one).status_code == 200
            assert client.get(f"/files/{job}", headers=two).status_code == 404
            assert client.get(f"/files/{job}").status_code == 401


def test_an_address_ends_unless_it_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(files, "MOST_ADDRESSES", 2)
    addresses = Addresses()
    first, second = addresses.of(tmp_path / "1"), addresses.of(tmp_path / "2")
    assert addresses.file(first) == tmp_path / "1"
    third = addresses.of(tmp_path / "3")
    assert addresses.file(second) is None, "the one that nobody used made room"
    now[0] = files.GOOD_SECONDS - 1
    assert addresses.file(first) == tmp_path / "1"
    now[0] += files.GOOD_SECONDS - 1
    assert addresses.file(first) == tmp_path / "1"
    assert addresses.file(third) is None
