"""Which ports and IP addresses may be connected to for an address that a stranger chose.

`check_reach` refuses ports and literal IP addresses without asking anybody. `resolve` asks the name
server, in bounded time, and every IP address of the host must pass. The caller connects to the IP
addresses that it returns and never to the name, so a second answer of the name server changes
nothing.
"""

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from seedvr2_core.errors import SourceRefusedError, SourceUnavailableError
from tasks.settings import Settings

PORTS = frozenset({80, 443, 8080, 8443})
"""Ports of web servers; every other port must be named in SEEDVR2_FETCH_ALLOW."""

IPAddress = IPv4Address | IPv6Address

_MAX_IPS = 3
# Copied from IANA's special-purpose registries: what `ipaddress` knows of them depends on the
# release of Python.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's metadata service at an address that looks public
        "169.254.0.0/16",  # link-local; metadata services of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
# All public IPv6 addresses lie in this network. Those that wrap an IPv4 address lie outside of it:
# ::/96, ::ffff:0:0/96 and 64:ff9b::/96 (NAT64).
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # special purposes; Teredo among them, which wraps IPv4
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: wraps IPv4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)


@dataclass(frozen=True, slots=True)
class Reach:
    """What may be connected to: public IP addresses on web ports, and what the operator names."""

    named: frozenset[tuple[str, int | None]]
    """Hosts that the operator names, in lower case, each with a port; None means any port."""

    @classmethod
    def of(cls, settings: Settings) -> "Reach":
        """Read SEEDVR2_FETCH_ALLOW: host or host:port, written as in the URL."""
        return cls(frozenset(_host_and_port(entry) for entry in settings.fetch_allow))

    def names(self, host: str, port: int) -> bool:
        """Whether the operator names this host, at this port or at any."""
        host = host.lower()
        return (host, None) in self.named or (host, port) in self.named

    def takes_port(self, host: str, port: int) -> bool:
        """Whether this port of this host may be connected to."""
        return port in PORTS or self.names(host, port)

    def takes_ip(self, host: str, ip: IPAddress, port: int) -> bool:
        """Whether this host may be connected to at this IP address."""
        return self.names(host, port) or is_public(ip)


def check_reach(host: str, port: int, shown: str, settings: Settings) -> None:
    """Refuse what can be refused without asking a name server.

    Args:
        host: a name or an IP address, as it stands in the URL (ASCII).
        port: to be connected to.
        shown: the address that led here, as messages may show it.
        settings: hold what the operator allows.

    Raises:
        SourceRefusedError: it is no port of web servers, or the host is an IP address that is not
            public.
    """
    reach = Reach.of(settings)
    if not reach.takes_port(host, port):
        raise SourceRefusedError(
            f"{shown} leads to port {port} of {host}; expected one of {sorted(PORTS)}, others must "
            f"be named in SEEDVR2_FETCH_ALLOW ({host}:{port})"
        )
    ip = _literal(host)
    if ip is not None and not reach.takes_ip(host, ip, port):
        raise _not_public(host, port, shown)


async def resolve(
    host: str, port: int, shown: str, settings: Settings, *, seconds: float
) -> list[str]:
    """Find the IP addresses to connect to, at most three, IPv4 first.

    Args:
        host: a name or an IP address that `check_reach` has let through.
        port: to be connected to.
        shown: the address that led here, as messages may show it.
        settings: hold what the operator allows.
        seconds: the longest wait for the name server.

    Raises:
        SourceRefusedError: one of the host's IP addresses is not public, even if others are.
        SourceUnavailableError: the host has none, or the name server does not answer.
    """
    found = await _look_up(host, port, shown, seconds)
    reach = Reach.of(settings)
    if not all(reach.takes_ip(host, ip, port) for ip in found):
        raise _not_public(host, port, shown)
    # Many machines resolve names to IPv6 addresses but have no route to them.
    found.sort(key=lambda ip: ip.version)
    return [str(ip) for ip in found[:_MAX_IPS]]


def is_public(ip: IPAddress) -> bool:
    """Whether anyone on the internet could connect to it.

    An IPv6 address that wraps an IPv4 address does not count as public.
    """
    if isinstance(ip, IPv4Address):
        return ip.is_global and not any(ip in net for net in _NOT_PUBLIC_4)
    inside = ip in _PUBLIC_6 and not any(ip in net for net in _NOT_PUBLIC_6)
    return inside and ip.is_global


async def _look_up(host: str, port: int, shown: str, seconds: float) -> list[IPAddress]:
    """Every IP address of a host, in the resolver's order, without repetitions.

    This runs in a daemon thread, because the event loop's own resolver cannot be abandoned: closing
    the loop waits for it, however long the name server keeps silent.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str] | Exception] = loop.create_future()

    def tell(found: list[str] | Exception) -> None:
        if not answer.done():
            answer.set_result(found)

    def ask() -> None:
        found: list[str] | Exception
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [str(entry[4][0]) for entry in entries]
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that is empty or too long
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed; nobody waits for the answer
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            found = await answer
    except TimeoutError as error:
        raise SourceUnavailableError(
            f"{shown}: no answer from the name server about {host} in {seconds:g} s; try again"
        ) from error
    if isinstance(found, Exception) or not found:
        raise SourceUnavailableError(f"{shown}: the host name {host} is not known")
    return [ip_address(text) for text in dict.fromkeys(found)]


def _literal(host: str) -> IPAddress | None:
    """The IP address that a URL names directly, also in old spellings (127.1, 0x7f000001)."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _not_public(host: str, port: int, shown: str) -> SourceRefusedError:
    return SourceRefusedError(
        f"{shown} leads to {host}:{port}, which is no public address; "
        "SEEDVR2_FETCH_ALLOW must name it if it may be fetched from"
    )


def _host_and_port(entry: str) -> tuple[str, int | None]:
    """Split host[:port]; a bare IPv6 address has no port."""
    entry = entry.strip().lower()
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        host, port = entry, ""
    return host, int(port) if port.isdigit() else None
