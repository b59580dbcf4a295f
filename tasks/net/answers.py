"""What statuses and headers of HTTP answers mean, whoever sent them."""

from http import HTTPStatus
from http.client import responses

import httpx

_MAY_HEAL = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_MAX_DIGITS = 100
_WEB_PAGES = ("text/html", "application/xhtml+xml")


def may_heal(status: int) -> bool:
    """Whether the same request may get another answer later: 408, 425, 429 and 5xx."""
    return status in _MAY_HEAL or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def status_text(status: int) -> str:
    """A status for messages: "404 Not Found". The server's own words for it are not repeated."""
    return f"{status} {responses.get(status, '')}".rstrip()


def is_web_page(answer: httpx.Response) -> bool:
    """Whether the answer's content type says that it is a page for a browser."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in _WEB_PAGES


def content_length(answer: httpx.Response) -> int | None:
    """Bytes in this answer's body; None if the answer does not say."""
    return whole_number(answer.headers.get("content-length", ""))


def whole_number(text: str) -> int | None:
    """The number in a header's value, or None if the value is anything but ASCII digits.

    None as well for more digits than any size has: Python refuses to read very long numbers.
    """
    plain = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if plain else None
