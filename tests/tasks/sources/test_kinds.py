"""Each request has one kind of source, and only a rate makes a path that is no file pictures."""

from pathlib import Path

import pytest

from tasks.schemas import UpscaleRequest
from tasks.sources.kinds import SourceKind, kind_of, kind_of_url

SHA256 = "ab" * 32


@pytest.mark.parametrize(
    ("video_url", "kind"),
    [
        ("https://example.com/a.mp4", SourceKind.ADDRESS),
        ("http://example.com/a.mp4?next=s3://bucket/a.mp4", SourceKind.ADDRESS),
        ("https://example.com/upload:a", SourceKind.ADDRESS),
        ("ftp://example.com/a.mp4", SourceKind.ADDRESS),  # refused as an address
        ("s3:/bucket/a.mp4", SourceKind.ADDRESS),
        (f"upload:{SHA256}/a.mp4", SourceKind.UPLOAD),
        ("upload:", SourceKind.UPLOAD),  # refused as an upload
        ("s3://bucket/a.mp4", SourceKind.OBJECT),
        ("gs://bucket/a.mp4", SourceKind.OBJECT),
        ("az://container/a.mp4", SourceKind.OBJECT),
        ("azure://container/a.mp4", SourceKind.OBJECT),
    ],
)
def test_what_an_address_names(video_url: str, kind: SourceKind) -> None:
    assert kind_of_url(video_url) is kind
    assert kind_of(UpscaleRequest(video_url=video_url)) is kind


def test_bytes_of_the_request() -> None:
    assert kind_of(UpscaleRequest(video_base64="AAAA")) is SourceKind.BYTES


def test_a_path_is_pictures_only_with_a_rate_and_if_it_is_no_file(tmp_path: Path) -> None:
    zipped = tmp_path / "frames.zip"
    zipped.touch()
    pattern, missing = tmp_path / "%05d.png", tmp_path / "missing"
    for path, with_rate in (
        (zipped, SourceKind.FILE),  # a zip is fetched like any file, and unpacked then
        (tmp_path, SourceKind.PICTURES),
        (pattern, SourceKind.PICTURES),
        (missing, SourceKind.PICTURES),
    ):
        assert kind_of(UpscaleRequest(video_path=str(path))) is SourceKind.FILE
        assert kind_of(UpscaleRequest(video_path=str(path), fps="24")) is with_rate
