"""What statuses and headers mean."""

import httpx
import pytest

from tasks.net.answers import content_length, is_web_page, may_heal, status_text, whole_number


def test_which_statuses_may_heal() -> None:
    healing = {status for status in range(100, 600) if may_heal(status)}
    assert healing == {408, 425, 429, *range(500, 600)}


@pytest.mark.parametrize(
    ("status", "text"), [(404, "404 Not Found"), (503, "503 Service Unavailable"), (599, "599")]
)
def test_status_text(status: int, text: str) -> None:
    assert status_text(status) == text


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("text/html", True),
        ("Text/HTML; charset=utf-8", True),
        ("application/xhtml+xml;x=y", True),
        ("video/mp4", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_web_pages(kind: str, page: bool) -> None:
    assert is_web_page(httpx.Response(200, headers={"Content-Type": kind})) is page
    assert not is_web_page(httpx.Response(200))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("12", 12),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("\uff11", None),
        ("1 2", None),
        ("9" * 5000, None),
    ],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_content_length() -> None:
    assert content_length(httpx.Response(200, headers={"Content-Length": "7"})) == 7
    assert content_length(httpx.Response(200)) is None
