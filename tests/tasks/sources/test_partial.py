"""The files of an unfinished download, and what is known about it."""

import hashlib
from pathlib import Path

import httpx
import pytest

from tasks.fetch import fetch
from tasks.net.untrusted import check_url
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources.partial import Known, PartialDownload, forget_source, known_of

URL = "http://127.0.0.1/a.mp4?token=sekret42"
KNOWN = Known(etag='"v1"', last_modified="Mon", total=10, name="a.mp4")


@pytest.fixture
def partial(tmp_path: Path) -> PartialDownload:
    settings = Settings(work_dir=tmp_path, fetch_allow=("127.0.0.1",))
    return PartialDownload(check_url(f" {URL}\n", settings), settings)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.suffix for path in (tmp_path / "intake").glob("*"))


def test_the_files_are_named_after_the_whole_address(partial: PartialDownload) -> None:
    """Downloads of earlier versions of this program go on: the digest must not change."""
    assert partial.part.stem == hashlib.sha256(URL.encode()).hexdigest()
    assert partial.lock == partial.part.with_suffix(".lock")


def test_from_begin_to_end(partial: PartialDownload, tmp_path: Path) -> None:
    assert partial.read() is None
    partial.part.parent.mkdir()
    partial.part.write_bytes(b"of another version")
    partial.begin(KNOWN)
    assert (partial.read(), partial.num_bytes, partial.is_whole(KNOWN)) == (KNOWN, 0, False)
    partial.part.write_bytes(bytes(10))
    assert (partial.num_bytes, partial.is_whole(KNOWN)) == (10, True)
    done = Known(etag=None, last_modified=None, total=10, name="a.mp4", sha256="ab" * 32)
    partial.end(done)
    partial.part.unlink()
    partial.tidy()
    assert (partial.read(), left(tmp_path)) == (done, [".json"])
    settings = Settings(work_dir=tmp_path)
    forget_source("cd" * 32, settings)
    assert partial.read() == done
    forget_source("ab" * 32, settings)
    assert left(tmp_path) == []


def test_tidy_removes_what_nothing_came_of(partial: PartialDownload, tmp_path: Path) -> None:
    partial.lock.parent.mkdir()
    partial.lock.touch()
    partial.begin(KNOWN)
    partial.tidy()
    assert left(tmp_path) == []
    partial.begin(KNOWN)
    partial.part.write_bytes(b"x")
    partial.tidy()
    assert left(tmp_path) == [".json", ".part"]


def test_a_record_that_cannot_be_read_is_none(partial: PartialDownload) -> None:
    partial.part.parent.mkdir()
    partial.begin(KNOWN)
    partial.part.with_suffix(".json").write_bytes(b"{")
    assert partial.read() is None


@pytest.mark.parametrize(
    ("etag", "date", "validator"),
    [
        ('"v1"', "Mon", '"v1"'),
        ('W/"v1"', "Mon", "Mon"),
        (None, "Mon", "Mon"),
        ('W/"v1"', None, None),
    ],
)
def test_the_validator(etag: str | None, date: str | None, validator: str | None) -> None:
    known = Known(etag=etag, last_modified=date, total=None, name="a")
    assert known.validator == validator


@pytest.mark.parametrize(
    ("headers", "differs"),
    [
        ({}, False),
        ({"ETag": '"v1"'}, False),
        ({"ETag": '"v2"'}, True),
        ({"ETag": '"v1"', "Last-Modified": "Tue"}, True),
    ],
    ids=["silent", "same", "etag", "date"],
)
def test_answers_of_another_version(headers: dict[str, str], differs: bool) -> None:
    assert KNOWN.differs_from(httpx.Response(200, headers=headers)) is differs


def test_what_an_answer_tells(partial: PartialDownload) -> None:
    request = httpx.Request("GET", "http://127.0.0.1/other.mp4")
    headers = {"ETag": '"v1"', "Last-Modified": "x" * 2000}
    answer = httpx.Response(200, headers=headers, request=request)
    assert known_of(answer, partial.address, 7) == Known(
        etag='"v1"', last_modified=None, total=7, name="a.mp4"
    )


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="holiday.mov"', "holiday.mov"),
        ("attachment; filename*=UTF-8''na%C3%AFve.mp4", "naïve.mp4"),
        ('attachment; filename="../../x.mp4"', "x.mp4"),
        ("attachment", "a.mp4"),
        ('attachment; filename=""', "a.mp4"),
        ("attachment; filename*=bogus''%ff", "ÿ"),
    ],
)
def test_the_servers_own_name(server, settings: Settings, disposition: str, name: str) -> None:
    server.offer("/a.mp4", Content_Disposition=disposition)
    assert fetch.fn(UpscaleRequest(video_url=server.url("/a.mp4"))).name == name


def test_no_name_at_all(server, settings: Settings) -> None:
    server.offer("/")
    assert fetch.fn(UpscaleRequest(video_url=server.url("/"))).name == "video"
