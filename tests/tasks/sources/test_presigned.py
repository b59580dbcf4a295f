"""Addresses that an object store has signed: they open by GET alone, as written, for a time."""

import http.server
from pathlib import Path

import pytest

from seedvr2_core.errors import SourceRefusedError
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources import check_source
from tests.kits.http.downloads import get
from tests.kits.http.video_server import VideoServer, serve

QUERY = "X-Amz-Credential=KEY%2F20261129%2Feu&X-Amz-Expires=900&X-Amz-Signature=5e%2Fc%2Bret%3D%3D"
"""Encoded as signers do: whoever decodes and encodes it again writes another text."""


@pytest.fixture
def signed(server: VideoServer) -> str:
    """An address that is answered only as it was signed, and by GET alone."""
    file = serve()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.path.partition("?")[2] == QUERY:
            file(handler)
        else:
            handler.send_error(403, "SignatureDoesNotMatch")

    server.answer("/bucket/clip%20one.mp4", answer)
    return server.url(f"/bucket/clip%20one.mp4?{QUERY}")


def test_a_signed_address_is_a_source(signed: str, settings: Settings) -> None:
    check_source(UpscaleRequest(video_url=signed), settings)
    source = get(signed)
    assert source.path.read_bytes() == VideoServer.VIDEO
    assert source.name == "clip one.mp4"


def test_what_is_kept_of_it_does_not_hold_the_signature(signed: str, settings: Settings) -> None:
    get(signed)
    kept = [path for path in Path(settings.work_dir).rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"Signature" in path.read_bytes()]


def test_an_address_that_has_expired_is_refused_without_its_signature(
    signed: str, server: VideoServer, settings: Settings
) -> None:
    server.answer("/bucket/clip%20one.mp4", 403)
    for ask in (get, lambda url: check_source(UpscaleRequest(video_url=url), settings)):
        with pytest.raises(SourceRefusedError, match="403") as refused:
            ask(signed)
        assert "5e%2Fc" not in str(refused.value)
        assert "5e/c" not in str(refused.value)
