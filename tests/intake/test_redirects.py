"""Redirects: every hop obeys the rules of the first address."""

import gzip

import pytest

from seedvr2_core.errors import SourceRefusedError, SourceUnavailableError
from tests.kits.http.intake import (
    SECRET,
    Canary,
    HostileServer,
    Resolver,
    Talk,
    answer,
    nothing_is_left,
)

pytestmark = pytest.mark.timeout(60)

PRIVATE = "no public address"


def moved(to: str, status: int = 302, **headers: str) -> bytes:
    return answer(f"{status} Moved", Location=to, **headers)


TARGETS = {
    "file": ("file:///etc/passwd", "file: addresses are not fetched"),
    "ftp": ("ftp://video.test/a.mp4", "ftp: addresses are not fetched"),
    "gopher": ("gopher://127.0.0.1:6379/_FLUSHALL", "gopher: addresses are not fetched"),
    "data": ("data:video/mp4;base64,AAAA", "redirects to no http or https address"),
    "user": (f"http://me:{SECRET}@video.test/a.mp4", "user name or password"),
    "loopback": ("http://127.0.0.1:{canary}/a.mp4", PRIVATE),
    "loopback-number": ("http://2130706433:{canary}/a.mp4", PRIVATE),
    "loopback-v6": ("http://[::1]:{canary}/a.mp4", PRIVATE),
    "loopback-mapped": ("http://[::ffff:127.0.0.1]:{canary}/a.mp4", PRIVATE),
    "same-scheme-only": ("//127.0.0.1:{canary}/a.mp4", PRIVATE),
    "loopback-https": ("https://127.0.0.1:{canary}/a.mp4", PRIVATE),
    "metadata": ("http://169.254.169.254/latest/meta-data/", PRIVATE),
    "private-name": ("http://intranet.test:{canary}/a.mp4", PRIVATE),
    "half-private-name": ("http://half.test:{canary}/a.mp4", PRIVATE),
    "other-port": ("http://video.test:22/", "leads to port 22"),
    "redis": ("http://video.test:6379/", "leads to port 6379"),
    "port-0": ("http://video.test:0/", "at port 0"),
    "endless": ("http://video.test/" + "a" * 9000, "characters; at most 8192"),
    "to-itself": ("/a.mp4", "redirects more than 5 times"),
    "to-itself-with-another-query": ("?again", "redirects more than 5 times"),
    "no-host": ("http://", PRIVATE),
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_checked(
    server: HostileServer, trusting, refused, canary: Canary, status: int
) -> None:
    url = server.play("/a.mp4", moved(f"http://127.0.0.1:{canary.port}/a.mp4", status))
    refused(trusting, SourceRefusedError, PRIVATE, video_url=url)
    assert nothing_is_left(trusting)


@pytest.mark.parametrize(
    ("to", "words"), [pytest.param(*case, id=name) for name, case in TARGETS.items()]
)
def test_where_redirects_may_not_lead(
    server: HostileServer, trusting, refused, canary: Canary, resolver: Resolver, to: str, words
) -> None:
    resolver.name("intranet.test", ["127.0.0.1"])
    resolver.name("half.test", ["93.184.215.14", "127.0.0.1"])
    url = server.play("/a.mp4", moved(to.replace("{canary}", str(canary.port))))
    refused(trusting, SourceRefusedError, words, video_url=url)
    assert len(server.heads) <= 6
    assert nothing_is_left(trusting)


@pytest.mark.parametrize(
    ("sent", "kind", "words"),
    [
        pytest.param(
            answer("302 Found"),
            SourceRefusedError,
            "answered 302 Found; expected 200",
            id="nowhere",
        ),
        pytest.param(
            answer("300 Multiple Choices"), SourceRefusedError, "answered 300", id="choices"
        ),
        pytest.param(
            moved(f"http://video.test:{SECRET}/"), SourceUnavailableError, "broke off", id="garbage"
        ),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://video.test/\x00\r\n\r\n",
            SourceUnavailableError,
            "broke off",
            id="nul",
        ),
    ],
)
def test_redirects_that_are_none(server, trusting, refused, sent: bytes, kind, words: str) -> None:
    refused(trusting, kind, words, video_url=server.play("/a.mp4", sent))
    assert nothing_is_left(trusting)


def test_five_redirects_are_followed_and_a_sixth_is_not(
    server: HostileServer, trusting, refused, obtained
) -> None:
    for hop in range(6):
        server.play(f"/{hop}", moved(f"/{hop + 1}"))
    server.play("/6", answer(body=b"video"))
    first = f"http://{server.host}"
    assert obtained(trusting, video_url=f"{first}/1").num_bytes == 5
    server.heads.clear()
    refused(trusting, SourceRefusedError, "redirects more than 5 times", video_url=f"{first}/0")
    assert len(server.heads) == 6


def test_the_body_of_a_redirect_is_not_read(
    server: HostileServer, trusting, refused, obtained
) -> None:
    """It may be endless, or a bomb that unpacks."""

    def endless(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 302 Found\r\nLocation: /b.mp4\r\nContent-Length: 99999999999\r\n\r\n")
        talk.pour(bytes(2**16))

    server.play("/b.mp4", answer(body=b"video"))
    assert obtained(trusting, video_url=server.play("/a.mp4", endless)).num_bytes == 5
    bomb = gzip.compress(bytes(10 * 2**20))
    packed = answer("302 Found", bomb, Location="/b.mp4", Content_Encoding="gzip")
    assert obtained(trusting, video_url=server.play("/c.mp4", packed)).num_bytes == 5


def test_a_chain_that_ends_at_a_private_address(
    server: HostileServer, trusting, refused, canary: Canary
) -> None:
    for hop in range(4):
        server.play(f"/{hop}", moved(f"/{hop + 1}"))
    server.play("/4", moved(f"http://localhost:{canary.port}/"))
    url = f"http://{server.host}/0"
    refused(trusting, SourceRefusedError, PRIVATE, video_url=url)
    assert len(server.heads) == 5
    assert nothing_is_left(trusting)
