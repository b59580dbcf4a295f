"""Which addresses are public, and what the operator's list allows."""

import asyncio
from ipaddress import ip_address

import pytest

from seedvr2_core.errors import SourceUnavailableError
from tasks.net.public_ips import Reach, _literal, is_public, resolve
from tasks.settings import Settings


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("192.88.98.255", True),
        ("172.32.0.1", True),
        ("100.128.0.1", True),
        ("168.63.129.15", True),
        ("2606:4700::1111", True),
        ("2001:4860:4860::8888", True),
        ("2003::1", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("172.31.255.255", False),
        ("192.88.99.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:8.8.8.8", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("2001:0:4136:e378::1", False),
        ("2002:808:808::", False),
        ("3fff:1::1", False),
        ("64:ff9b::808:808", False),
        ("64:ff9b:1::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


@pytest.mark.parametrize(
    ("entry", "host", "port", "named"),
    [
        ("media.lan", "media.lan", 80, True),
        ("media.lan", "MEDIA.LAN", 9000, True),
        ("media.lan:9000", "media.lan", 9000, True),
        ("media.lan:9000", "media.lan", 9001, False),
        ("media.lan", "evil.media.lan", 80, False),
        ("10.0.0.5", "10.0.0.5", 80, True),
        ("10.0.0.5", "evil.example", 80, False),
        ("[fd00::5]:80", "fd00::5", 80, True),
        ("[fd00::5]:80", "fd00::5", 81, False),
        ("fd00::5", "fd00::5", 81, True),
    ],
)
def test_what_the_operator_names(entry: str, host: str, port: int, named: bool) -> None:
    reach = Reach.of(Settings(fetch_allow=(entry,)))
    assert reach.names(host, port) is named
    assert reach.takes_ip(host, ip_address("10.0.0.5"), port) is named
    assert reach.takes_port(host, port) is (named or port == 80)


def test_nothing_is_named_by_default() -> None:
    assert Settings().fetch_allow == ()
    reach = Reach.of(Settings())
    assert not reach.takes_ip("localhost", ip_address("127.0.0.1"), 80)
    assert [p for p in range(1, 2**16) if reach.takes_port("example.org", p)] == [
        80,
        443,
        8080,
        8443,
    ]


@pytest.mark.parametrize(
    "host", ["a" * 64 + ".test", "a..test", ".test", "\u00fc" * 64 + ".test", "xn--\u2f00.test"]
)
def test_names_that_idna_refuses_are_told_as_unknown(host: str) -> None:
    """Python's resolver raises UnicodeError for them, which is no OSError."""
    asked = resolve(host, 80, "http://shown/", Settings(), seconds=5.0)
    with pytest.raises(SourceUnavailableError, match="is not known"):
        asyncio.run(asked)


@pytest.mark.parametrize("host", ["\u0661\u0662\u0667.0.0.1", "127\ud83d.1"])
def test_an_address_in_other_digits_is_no_address(host: str) -> None:
    assert _literal(host) is None
