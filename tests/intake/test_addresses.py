"""Addresses that are refused before anything is connected to."""

import socket

import pytest

from seedvr2_core.errors import SourceRefusedError, SourceUnavailableError
from tasks.schemas import UpscaleRequest
from tasks.sources import download
from tasks.sources.obtain import check_source
from tests.kits.http.intake import SECRET, Canary, HostileServer, Resolver, answer, nothing_is_left

pytestmark = pytest.mark.timeout(60)

SCHEME = "are not fetched; expected http"
SYNTAX = "cannot be read as an address"
USER = "carries a user name or password"

NO_ADDRESSES = {
    "ftp": ("ftp://video.test/a.mp4", "ftp: addresses " + SCHEME),
    "file": ("file:///etc/passwd", "file: addresses " + SCHEME),
    "gopher": ("gopher://127.0.0.1:70/_x", "gopher: addresses " + SCHEME),
    "data": ("data:video/mp4;base64,AAAA", "data: addresses " + SCHEME),
    "javascript": ("javascript:alert(1)", "javascript: addresses " + SCHEME),
    "websocket": ("ws://video.test/a.mp4", "ws: addresses " + SCHEME),
    "bucket": ("s3://bucket/a.mp4", "s3://bucket/a.mp4 is not read here; .* no bucket"),
    "bucket-user": (f"s3://me:{SECRET}@bucket/a.mp4", "s3://bucket/a.mp4 is not read here"),
    "rtmp": ("rtmp://video.test/live", "rtmp: addresses " + SCHEME),
    "unix-socket": ("http+unix://%2Frun%2Fdocker.sock/a", r"http\+unix: addresses " + SCHEME),
    "ffmpeg-concat": ("concat:/etc/passwd|/etc/hosts", "concat: addresses " + SCHEME),
    "ffmpeg-subfile": ("subfile,,start,0,end,9,,:/etc/passwd", "addresses"),
    "path": ("/etc/passwd", "addresses without a scheme " + SCHEME),
    "relative-path": ("../../etc/passwd", "addresses without a scheme " + SCHEME),
    "no-scheme": ("//video.test/a.mp4", "addresses without a scheme " + SCHEME),
    "bare-host": ("video.test/a.mp4", "addresses without a scheme " + SCHEME),
    "no-host": ("http://", "names no host"),
    "empty-host": ("http:///etc/passwd", "names no host"),
    "one-slash": ("http:/127.0.0.1/a.mp4", "names no host"),
    "only-a-port": ("http://:80/a.mp4", "names no host"),
    "port-0": ("http://video.test:0/a.mp4", "at port 0"),
    "port-too-large": ("http://video.test:65536/a.mp4", "at port 65536"),
    "port-0-of-an-emoji": ("http://xn--ls8h.test:0/a.mp4", "xn--ls8h.test is asked for at port 0"),
    "port-0-of-no-name": ("http://xn--99999999.test:0/a.mp4", "is asked for at port 0"),
    "port-of-an-emoji": ("http://xn--n3h.test:65536/", "xn--n3h.test is asked for at port 65536"),
    "port-of-a-control": ("http://xn--a.test:0/", "xn--a.test is asked for at port 0"),
    "port-of-900-digits": (f"http://video.test:{'9' * 900}/a.mp4", "at port 9999999999; 1 to"),
    "port-of-4000-digits": (f"http://video.test:{'9' * 4000}/a.mp4", SYNTAX),
    "port-of-5000-digits": (f"http://video.test:{'9' * 5000}/a.mp4", SYNTAX),
    "port-negative": ("http://video.test:-80/a.mp4", SYNTAX),
    "port-signed": ("http://video.test:+80/a.mp4", SYNTAX),
    "port-arabic": ("http://video.test:٨٠/a.mp4", SYNTAX),
    "half-a-surrogate": ("http://\ud800.test/a.mp4", SYNTAX),
    "zero-width-joiner": ("http://a\u200d.test/a.mp4", SYNTAX),
    "combining-mark-first": ("http://\u0301.test/a.mp4", SYNTAX),
    "label-that-grows": (f"http://{'é' * 70}.test/a.mp4", SYNTAX),
    "hyphen-first": ("http://-video.test/a.mp4", SYNTAX),
    "hyphen-last": ("http://video-.test/a.mp4", SYNTAX),
    "future-ip": ("http://[v1.x]/a.mp4", SYNTAX),
    "zone-of-an-ip": ("http://[fe80::1%25eth0]/a.mp4", "no public address"),
    "tab-in-scheme": ("ht\ttp://video.test/a.mp4", SYNTAX),
    "port-no-number": ("http://video.test:eighty/a.mp4", SYNTAX),
    "open-bracket": ("http://[::1/a.mp4", SYNTAX),
    "no-ipv6": ("http://[::1::2]/a.mp4", SYNTAX),
    "line-feed-in-host": ("http://video\n.test/a.mp4", SYNTAX),
    "header-injection": ("http://video.test/a HTTP/1.1\r\nX: y\r\n\r\n", SYNTAX),
    "nul": ("http://video.test/a\0.mp4", SYNTAX),
    "escape-codes": ("http://video.test/\x1b[2J", SYNTAX),
    "space-in-host": ("http://video .test/a.mp4", SYNTAX),
    "bad-international-name": ("http://xn--\u00e9.test/a.mp4", SYNTAX),
    "loopback-octal": ("http://0177.0.0.1/a.mp4", SYNTAX),
    "loopback-full-width": ("http://\uff11\uff12\uff17.0.0.1/a.mp4", SYNTAX),
    "loopback-circled": ("http://①②⑦.0.0.1/a.mp4", SYNTAX),
    "label-too-long": (f"http://{'a' * 64}.test/a.mp4", SYNTAX),
    "name-too-long": (f"http://{'a.' * 130}test/a.mp4", SYNTAX),
    "empty-label": ("http://a..test/a.mp4", SYNTAX),
    "only-dots": ("http://.../a.mp4", SYNTAX),
    "percent-in-host": ("http://127%2e0%2e0%2e1/a.mp4", SYNTAX),
    "user": (f"http://{SECRET}@video.test/a.mp4", USER),
    "password": (f"http://me:{SECRET}@video.test/a.mp4", USER),
    "empty-user": ("http://:@video.test/a.mp4", USER),
    "host-as-user": ("http://video.test@127.0.0.1/a.mp4", USER),
    "host-as-user-backslash": ("http://video.test\\@127.0.0.1/a.mp4", USER),
    "endless": ("http://video.test/" + "a" * 10_000, "characters; at most 8192"),
}


@pytest.mark.parametrize(
    ("url", "words"), [pytest.param(*case, id=name) for name, case in NO_ADDRESSES.items()]
)
def test_what_is_no_address(settings, refused, canary: Canary, resolver, url, words) -> None:
    refused(settings, SourceRefusedError, words, video_url=url)
    with pytest.raises(SourceRefusedError, match=words):
        check_source(UpscaleRequest(video_url=url), settings)
    assert resolver.asked == []
    assert not settings.work_dir.exists()


LITERALS = {
    "loopback": "127.0.0.1",
    "loopback-other": "127.8.9.10",
    "loopback-short": "127.1",
    "loopback-number": "2130706433",
    "loopback-hex": "0x7f000001",
    "loopback-hex-parts": "0x7f.0.0.0x1",
    "loopback-chinese-dots": "127。0。0。1",
    "zero": "0",
    "any": "0.0.0.0",
    "private-10": "10.0.0.1",
    "private-172": "172.16.0.1",
    "private-192": "192.168.0.1",
    "link-local": "169.254.0.1",
    "metadata": "169.254.169.254",
    "metadata-number": "2852039166",
    "metadata-azure": "168.63.129.16",
    "metadata-alibaba": "100.100.100.200",
    "metadata-oracle": "192.0.0.192",
    "cgnat": "100.64.0.1",
    "benchmark": "198.18.0.1",
    "documentation": "192.0.2.1",
    "relay-6to4": "192.88.99.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6-loopback": "[::1]",
    "v6-any": "[::]",
    "v6-link-local": "[fe80::1]",
    "v6-site-local": "[fec0::1]",
    "v6-unique-local": "[fd00::1]",
    "v6-metadata": "[fd00:ec2::254]",
    "v6-multicast": "[ff02::1]",
    "v6-documentation": "[2001:db8::1]",
    "v6-documentation-new": "[3fff::1]",
    "v6-discard": "[100::1]",
    "v6-mapped": "[::ffff:127.0.0.1]",
    "v6-mapped-hex": "[::ffff:7f00:1]",
    "v6-mapped-public": "[::ffff:8.8.8.8]",
    "v6-compatible": "[::127.0.0.1]",
    "v6-compatible-public": "[::8.8.8.8]",
    "v6-translated": "[::ffff:0:127.0.0.1]",
    "v6-nat64": "[64:ff9b::7f00:1]",
    "v6-nat64-public": "[64:ff9b::808:808]",
    "v6-nat64-local": "[64:ff9b:1::1]",
    "v6-6to4": "[2002:7f00:1::]",
    "v6-6to4-public": "[2002:808:808::1]",
    "v6-teredo": "[2001:0:7f00:1::]",
}


@pytest.mark.parametrize("host", [pytest.param(host, id=name) for name, host in LITERALS.items()])
def test_ip_addresses_that_are_not_public(
    settings, refused, canary: Canary, resolver: Resolver, host: str
) -> None:
    url = f"http://{host}:{canary.port}/a.mp4"
    refused(settings, SourceRefusedError, "no public address", video_url=url)
    with pytest.raises(SourceRefusedError, match="no public address"):
        check_source(UpscaleRequest(video_url=url), settings)
    assert nothing_is_left(settings)


NAMES = {
    "localhost": ("localhost", ["127.0.0.1"]),
    "localhost-dot": ("localhost.", ["127.0.0.1"]),
    "localhost-capitals": ("LOCALHOST", ["::1", "127.0.0.1"]),
    "loopback": ("evil.test", ["127.0.0.1"]),
    "loopback-v6": ("evil.test", ["::1"]),
    "metadata": ("metadata.google.internal", ["169.254.169.254"]),
    "private": ("intranet.test", ["10.1.2.3"]),
    "cgnat": ("evil.test", ["100.64.1.1"]),
    "mapped": ("evil.test", ["::ffff:127.0.0.1"]),
    "nat64": ("evil.test", ["64:ff9b::a00:1"]),
    "6to4": ("evil.test", ["2002:a00:1::1"]),
    "public-then-private": ("evil.test", ["93.184.215.14", "127.0.0.1"]),
    "private-then-public": ("evil.test", ["127.0.0.1", "93.184.215.14"]),
    "v6-private-v4-public": ("evil.test", ["93.184.215.14", "fd00::1"]),
    "many-public-one-private": ("evil.test", [*[f"93.184.215.{i}" for i in range(9)], "10.0.0.1"]),
    "name-with-ip-in-it": ("127.0.0.1.nip.test", ["127.0.0.1"]),
    "international": ("b\u00fccher.test", ["127.0.0.1"]),
}


@pytest.mark.parametrize(
    ("host", "addresses"), [pytest.param(*case, id=name) for name, case in NAMES.items()]
)
def test_names_that_lead_to_private_addresses(
    settings, refused, canary: Canary, resolver: Resolver, host: str, addresses: list[str]
) -> None:
    for name in (host.lower(), host.encode("idna").decode().lower()):
        resolver.name(name, addresses)
    url = f"http://{host}:{canary.port}/a.mp4"
    refused(settings, SourceRefusedError, "no public address", video_url=url)
    assert len(resolver.asked) == 1
    assert nothing_is_left(settings)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        pytest.param("nowhere.test", "nowhere.test is not known", id="unknown"),
        pytest.param("silent.test", "no answer from the name server", id="silent"),
        pytest.param("empty.test", "empty.test is not known", id="no-address"),
    ],
)
def test_names_without_an_address(
    settings, refused, resolver: Resolver, monkeypatch, host: str, words: str
) -> None:
    resolver.name("empty.test", [])
    short = download.httpx.Timeout(1.0, connect=0.2)
    monkeypatch.setattr(download, "TIMEOUT", short)
    refused(settings, SourceUnavailableError, words, video_url=f"http://{host}/a.mp4")
    assert nothing_is_left(settings)


@pytest.mark.parametrize("port", [1, 21, 22, 25, 81, 2375, 3306, 5432, 6379, 9200, 11211, 65535])
def test_ports_of_other_services(settings, refused, resolver: Resolver, port: int) -> None:
    url = f"http://video.test:{port}/a.mp4"
    refused(settings, SourceRefusedError, f"leads to port {port} of video.test", video_url=url)
    with pytest.raises(SourceRefusedError, match=f"leads to port {port}"):
        check_source(UpscaleRequest(video_url=url), settings)
    assert resolver.asked == []
    assert not settings.work_dir.exists()


def test_a_name_that_changes_its_mind(
    server: HostileServer, settings, refused, resolver: Resolver, canary: Canary, monkeypatch
) -> None:
    """DNS rebinding: public at first, private afterwards. One answer serves one request."""
    monkeypatch.setattr("tasks.net.public_ips.PORTS", {server.port, canary.port})
    monkeypatch.setattr(
        "tasks.net.public_ips.is_public", lambda address: str(address) == "127.0.0.1"
    )
    resolver.name("rebinding.test", ["127.0.0.1"], ["::1"])
    server.play("/a.mp4", answer(body=b"x" * 1000, length=2000, ETag='"1"'))
    url = f"http://rebinding.test:{server.port}/a.mp4"
    refused(settings, SourceUnavailableError, "broke off", video_url=url)
    assert (len(server.heads), resolver.asked) == (1, ["rebinding.test"])
    refused(settings, SourceRefusedError, "no public address", video_url=url)
    assert len(server.heads) == 1
    assert nothing_is_left(settings)


def test_the_canary_sings() -> None:
    canary = Canary()
    assert canary.visits() == 0
    for _ in range(2):
        socket.create_connection(("127.0.0.1", canary.port)).close()
    assert canary.visits() == 2
    canary.close()


def test_hosts_that_the_operator_allows(
    server: HostileServer, settings_with, obtained, resolver: Resolver
) -> None:
    """Off by default; a name or an address, with its port or with all."""
    resolver.name("media.lan", ["127.0.0.1"])
    server.play("/a.mp4", answer(body=b"video"))
    for allowed, host in (
        (f"media.lan:{server.port}", "media.lan"),
        ("media.lan", "MEDIA.lan"),
        ("127.0.0.1", "127.0.0.1"),
    ):
        settings = settings_with(fetch_allow=(allowed,))
        url = f"http://{host}:{server.port}/a.mp4"
        assert obtained(settings, video_url=url).num_bytes == 5
        assert b"\r\nHost: " + f"{host.lower()}:{server.port}".encode() in server.heads[-1]
