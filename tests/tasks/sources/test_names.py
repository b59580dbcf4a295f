"""Names that people give sources, made harmless."""

import random
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError, SegmentError
from tasks.schemas import FetchedSource
from tasks.sources.names import called_by_name, name_in, plain_name, printable


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("/videos/a%20b.mp4", "a b.mp4"),
        ("../../etc/passwd", "passwd"),
        ("..%2F..%2Fx.mp4", "x.mp4"),
        ("C:\\clips\\x.mp4", "x.mp4"),
        ("/a/", ""),
        ("...", ""),
        (".htaccess", "htaccess"),
        (". .htaccess", "htaccess"),
        ("a\0\x1b\u202eb.mp4", "ab.mp4"),
        ("%ff.mp4", "\ufffd.mp4"),
        ("видео.mp4", "видео.mp4"),
        ("x" * 300 + ".mp4", "x" * 116 + ".mp4"),
    ],
)
def test_plain_name(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://example.org/clips/a%20b.mp4?token=x#t", "a b.mp4"),
        ("https://me:secret@example.org", ""),
        ("https://me:secret@example.org/a/?token=x", "a"),
        ("/home/me/what?.mp4", "what?.mp4"),
        ("upload:" + "0" * 64 + "/clip.mp4", "clip.mp4"),
        ("https://[/a.mp4?token=x", ""),
    ],
)
def test_name_in(source: str, name: str) -> None:
    assert name_in(source) == name


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_sent_the_name_is_harmless(seed: int) -> None:
    """Of 120 characters at most, printable, without directories and not hidden."""
    rng = random.Random(seed)
    for _ in range(50):
        characters = rng.choices("ab./\\% 2Fü\0\n\u202e", k=rng.randrange(200))
        plain = plain_name("".join(characters))
        assert len(plain) <= 120
        assert not plain.startswith(".")
        assert plain.isprintable()
        assert not set(plain) & set("/\\")


def test_errors_name_a_source_as_people_do() -> None:
    sha256 = "ab" * 32
    sent = FetchedSource(
        path=Path("/w/intake") / sha256, sha256=sha256, num_bytes=1, name="holiday.mov"
    )
    with pytest.raises(InvalidVideoError, match=r"^holiday\.mov: no frames$"), called_by_name(sent):
        raise InvalidVideoError(f"{sha256}: no frames")
    with pytest.raises(InvalidVideoError, match=r"^holiday\.mov is empty$"), called_by_name(sent):
        raise InvalidVideoError(f"/w/intake/{sha256} is empty")
    other = SegmentError("another matter")
    with pytest.raises(SegmentError) as raised, called_by_name(sent):
        raise other
    assert raised.value is other


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 中 a\u3000b", "plain ü 中 a\u3000b"),
        ("two\nlines", "two\nlines"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\r\b\t\x9b", "\\r\\x08\\t\\x9b"),
        ("\udcff\ud800", "\\xff\\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/shots/bridge/%05d.png", "bridge"),
        ("/shots/bridge/frame_%04d.exr", "frame"),
        ("https://example.org/%05d.png", "d.png"),
        ("/shots/100%.png", "100%.png"),
    ],
)
def test_names_of_patterns(source: str, name: str) -> None:
    assert name_in(source) == name
