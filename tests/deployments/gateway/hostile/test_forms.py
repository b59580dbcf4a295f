"""Forms and content types that are odd or broken; each is refused with its own sentence."""

import pytest

from tests.kits.http.victim import DIGITS, Victim, cases

pytestmark = [pytest.mark.usefixtures("on_the_server"), pytest.mark.timeout(240)]

URL = "https://example.org/a.mp4"
FORM = "multipart/form-data; boundary=xx"


def part(disposition: str, value: bytes = b"x", *lines: str) -> bytes:
    """One part of a form with the boundary xx."""
    head = "\r\n".join(["--xx", *([disposition] if disposition else []), *lines, "", ""])
    return head.encode("utf-8", "surrogateescape") + value + b"\r\n"


FIELD = 'Content-Disposition: form-data; name="{}"'
FILE = 'Content-Disposition: form-data; name="video"; filename="{}"'
ENDED = b"--xx--\r\n"

FORMS: dict[str, tuple[str, bytes, int, str]] = {
    "no-boundary": ("multipart/form-data", b"", 422, "boundary has 0 characters"),
    "empty-boundary": ("multipart/form-data; boundary=", b"", 422, "boundary has 0 characters"),
    "boundary-of-71": (f"{FORM[:30]}{'x' * 71}", b"", 422, "boundary has 71 characters"),
    "boundary-of-9000": (f"{FORM[:30]}{'x' * 9000}", b"", 422, "boundary has 9000 characters"),
    "boundary-not-ascii": (f"{FORM[:30]}é", b"", 422, "ASCII"),
    "empty": (FORM, b"", 422, "ends before its last boundary"),
    "nonsense": (FORM, b"nonsense", 422, "the form cannot be read"),
    "another-boundary": (FORM, b"--yy\r\n\r\n", 422, "the form cannot be read"),
    "no-end": (FORM, part(FIELD.format("video_url"), URL.encode()), 422, "ends before its last"),
    "only-an-end": (FORM, ENDED, 422, "exactly one source"),
    "no-disposition": (FORM, part("") + ENDED, 422, "a part of the form has no name"),
    "no-name": (FORM, part("Content-Disposition: form-data") + ENDED, 422, "has no name"),
    "attachment": (
        FORM, part('Content-Disposition: attachment; name="a"') + ENDED, 422, "has no name"
    ),
    "disposition-of-semicolons": (
        FORM, part(f"Content-Disposition: form-data{';' * 5000}") + ENDED, 422, "header size"
    ),
    "disposition-with-an-open-quote": (
        FORM, part('Content-Disposition: form-data; name="vid') + ENDED, 422, "vid"
    ),
    "disposition-with-percent-codes": (
        FORM, part("Content-Disposition: form-data; name*=UTF-8''%ff%fe") + ENDED, 422, ""
    ),
    "disposition-in-no-charset": (
        FORM, part("Content-Disposition: form-data; name*=nonsense''a") + ENDED, 422, ""
    ),
    "disposition-in-200-pieces": (
        FORM,
        part("Content-Disposition: form-data; " + "; ".join(f"name*{i}=a" for i in range(200)))
        + ENDED,
        422,
        "",
    ),
    "header-without-colon": (FORM, part("Content-Disposition") + ENDED, 422, "cannot be read"),
    "header-with-a-nul": (FORM, part("Content-Disposition: \0") + ENDED, 422, ""),
    "header-too-large": (
        FORM, part(FIELD.format("a"), b"x", "X: " + "y" * 70_000) + ENDED, 422, "header size"
    ),
    "many-headers": (
        FORM, part(FIELD.format("a"), b"x", *["X: y"] * 40_000) + ENDED, 422, "header count"
    ),
    "field-too-large": (
        FORM, part(FIELD.format("model"), b"x" * 70_000) + ENDED, 413, "more than 65536"
    ),
    "many-fields": (
        FORM, b"".join(part(FIELD.format(i)) for i in range(5_000)) + ENDED, 413, "more than 65536"
    ),
    "field-twice": (FORM, part(FIELD.format("seed")) * 2 + ENDED, 422, "'seed' is given twice"),
    "field-not-utf8": (FORM, part(FIELD.format("model"), b"\xff") + ENDED, 422, "not UTF-8 text"),
    "field-unknown": (FORM, part(FIELD.format("frames")) + ENDED, 422, "frames: there is no such"),
    "field-name-not-utf8": (FORM, part(FIELD.format("\udcff")) + ENDED, 422, "no such option"),
    "field-with-escape-codes": (FORM, part(FIELD.format("\x1b[2J")) + ENDED, 422, ""),
    "seed-of-4000-digits": (
        FORM, part(FIELD.format("seed"), DIGITS.encode()) + ENDED, 422, "seed: "
    ),
    "two-files": (FORM, part(FILE.format("a")) * 2 + ENDED, 422, "holds two files"),
    "file-and-url": (
        FORM,
        part(FILE.format("a")) + part(FIELD.format("video_url"), URL.encode()) + ENDED,
        422,
        "exactly one source",
    ),
    "file-and-bad-option": (
        FORM, part(FILE.format("a"), b"v" * 500_000) + part(FIELD.format("crf"), b"99") + ENDED,
        422, "crf: ",
    ),
    "file-and-unknown-field": (
        FORM, part(FILE.format("a"), b"v") + part(FIELD.format("x")) + ENDED, 422, "x: there is no"
    ),
    "file-empty": (FORM, part(FILE.format("a"), b"") + ENDED, 422, "exactly one source"),
    "file-too-large": (FORM, part(FILE.format("a"), b"v" * 2_000_001) + ENDED, 413, "larger than"),
    "urlencoded": ("application/x-www-form-urlencoded", b"a=b", 415, "expected application/json"),
    "xml": ("text/xml", b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'>", 415, "'text/xml'"),
    "no-type": ("", b"x", 415, "got a body of type ''"),
    "type-of-9000-characters": (f"a/{'b' * 9000}", b"x", 415, "expected application/json"),
    "type-of-escape-codes": ("a/\x7fb", b"x", 415, ""),
    "mixed": ("multipart/mixed; boundary=xx", ENDED, 415, "'multipart/mixed'"),
    "json-patch": ("application/json-patch+json", b"[]", 415, "'application/json-patch+json'"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "status", "words"), cases(FORMS))
def test_forms(victim: Victim, kind: str, body: bytes, status: int, words: str) -> None:
    told = victim.ask("POST", "/upscale", body, kind)
    assert told.status in ((status, 400) if "\x7f" in kind else (status,)), told.body
    assert words in told.detail
    assert victim.declares("POST", "/upscale", told.status)
