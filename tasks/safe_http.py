"""GET requests to addresses that strangers chose: where they may lead and what may come back.

The client connects only to public addresses, checked at connect time for every redirect
(httpx-secure), or to the hosts that `SEEDVR2_FETCH_ALLOW` names. It sends no credentials, takes no
proxy from the environment and asks for unencoded bytes. No message and no log line shows a query
string or user part: signed addresses carry their secret there.
"""

import contextlib
import functools
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from http.client import responses
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from urllib.parse import urlsplit

import httpx
from httpx_secure import SSRFProtectionError, httpx_ssrf_protection

from seedvr2_core.errors import InvalidVideoError, SourceRefusedError, SourceUnavailableError
from tasks.settings import Settings

MAX_REDIRECTS = 5

IPAddress = IPv4Address | IPv6Address

_SCHEMES = ("http", "https")
_WEB_PAGES = ("text/html", "application/xhtml+xml")
_MAY_HEAL = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_MAX_SHOWN = 200

# Everything public in IPv6 lies here; 64:ff9b::/96 (NAT64) and ::/96 (IPv4) do not.
_IPV6_PUBLIC = IPv6Network("2000::/3")
# Ranges inside it that wrap an IPv4 address: 6to4 and Teredo.
_IPV6_WRAPPERS = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))


def shown_url(url: str) -> str:
    """The address as messages may show it: printable, without user, query and fragment."""
    url = "".join(c if c.isprintable() else "?" for c in url.strip())
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "the address"
    if parts.scheme not in _SCHEMES or not host:
        return f"{parts.scheme}: address" if parts.scheme else "the address"
    host = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


def check_url(url: str) -> httpx.URL:
    """Parse an address that may be asked for.

    Raises:
        SourceRefusedError: another scheme than http and https, a user part, or no address at all.
    """
    shown = shown_url(url)
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, UnicodeError):
        # Not chained: its text may quote a password as a "port".
        raise SourceRefusedError(
            f"{shown} cannot be read as an address; expected http(s)://host/path"
        ) from None
    if parsed.scheme not in _SCHEMES:
        kind = f"{parsed.scheme[:20]}: addresses" if parsed.scheme else "addresses without a scheme"
        raise SourceRefusedError(f"{kind} are not fetched; expected http:// or https://")
    if not parsed.host:
        raise SourceRefusedError(f"{shown} names no host; expected http(s)://host/path")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise SourceRefusedError(f"{parsed.host} is asked for at port {parsed.port}; 1 to 65535")
    if parsed.userinfo:
        raise SourceRefusedError(
            f"{shown} carries a user name or password, which are not sent; use a signed address"
        )
    return parsed


@contextlib.asynccontextmanager
async def open_answer(
    url: str,
    settings: Settings,
    *,
    headers: Mapping[str, str],
    timeout: httpx.Timeout,
) -> AsyncIterator[httpx.Response]:
    """Ask for an address, following redirects; the answer's status is the caller's to judge.

    The body is not read; errors while the caller reads it are translated as well.

    Raises:
        SourceRefusedError: the address, or one it redirects to, is not one to connect to.
        SourceUnavailableError: no connection, no answer in time, or a cut answer.
    """
    target = check_url(url)
    shown = shown_url(url)
    try:
        async with (
            _client(settings, timeout) as client,
            client.stream("GET", target, headers=headers) as answer,
        ):
            yield answer
    except SSRFProtectionError as error:
        raise SourceRefusedError(
            f"{shown} leads to {error.hostname}:{error.port}, which is no public address; "
            "SEEDVR2_FETCH_ALLOW must name it if it may be fetched from"
        ) from error
    except httpx.TooManyRedirects as error:
        raise SourceRefusedError(f"{shown} redirects more than {MAX_REDIRECTS} times") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise SourceRefusedError(f"{shown} redirects to no http or https address") from error
    except httpx.TimeoutException as error:
        raise SourceUnavailableError(f"{shown} did not answer in time; try again") from error
    except httpx.ConnectError as error:
        raise SourceUnavailableError(f"no connection for {shown}: {error}; try again") from error
    except httpx.RequestError as error:
        # Its text may quote what the server sent.
        raise SourceUnavailableError(
            f"the connection to {shown} broke off ({type(error).__name__}); try again"
        ) from error


def check_answer(answer: httpx.Response, url: str, settings: Settings) -> None:
    """Judge an answer by its status line and headers.

    Raises:
        SourceRefusedError: it will never be a video: 4xx, a web page, encoded, too large.
        SourceUnavailableError: it may be one later: 408, 425, 429, 5xx.
        InvalidVideoError: it is empty.
    """
    shown = shown_url(url)
    _check_status(answer.status_code, shown)
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _WEB_PAGES:
        raise SourceRefusedError(
            f"{shown} serves a web page, not a video; pass the address of the file itself"
        )
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SourceRefusedError(
            f"{shown} serves encoded bytes ({encoding[:20]!r}) though plain ones were asked for"
        )
    length = content_length(answer)
    if length == 0:
        raise InvalidVideoError(f"{shown} serves an empty file (0 bytes), not a video")
    if length is not None:
        check_size(length, shown, settings)


def check_size(num_bytes: int, shown: str, settings: Settings) -> None:
    """Refuse sources over the limit."""
    if num_bytes > settings.fetch_max_bytes:
        raise SourceRefusedError(
            f"{shown} holds {num_bytes} bytes or more, at most {settings.fetch_max_bytes} are "
            "taken (SEEDVR2_FETCH_MAX_BYTES)"
        )


def content_length(answer: httpx.Response) -> int | None:
    """Bytes in this answer's body, if it says so."""
    told = answer.headers.get("content-length", "")
    return int(told) if told.isascii() and told.isdigit() else None


def may_reach(allowed: tuple[str, ...]) -> Callable[[str, IPAddress, int], bool]:
    """The rule for connections: public addresses, and what the operator allows by name.

    Args:
        allowed: host or host:port, as they stand in the URL; IPv6 with a port in brackets.
    """
    entries = {_host_and_port(entry) for entry in allowed}

    def rule(hostname: str, address: IPAddress, port: int) -> bool:
        host = hostname.lower()
        return (host, None) in entries or (host, port) in entries or _is_public(address)

    return rule


def _check_status(status: int, shown: str) -> None:
    """Refuse every answer but 200 and 206."""
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    answered = f"{shown} answered {status} {responses.get(status, '')}".rstrip()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _MAY_HEAL:
        raise SourceUnavailableError(f"{answered}; try again")
    raise SourceRefusedError(f"{answered}; expected 200 OK, check the address")


def _client(settings: Settings, timeout: httpx.Timeout) -> httpx.AsyncClient:
    """A client that cannot be led to private addresses."""
    # Both print whole addresses, at INFO and DEBUG.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    client = httpx.AsyncClient(
        # A proxy would connect in our place, to addresses that nobody checked.
        trust_env=False,
        verify=_trusted(),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=timeout,
        # One request a client: a kept connection only brings the race of a server closing it.
        limits=httpx.Limits(max_keepalive_connections=0),
        headers={"Accept": "*/*", "Accept-Encoding": "identity"},
        event_hooks={"request": [_check_hop]},
    )
    return httpx_ssrf_protection(
        client,
        check_globally_reachable=False,  # the rule does, and knows the exceptions
        custom_validator=may_reach(settings.fetch_allow),
    )


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Certifi's authorities, or those SSL_CERT_FILE names; reading them takes a while."""
    return httpx.create_ssl_context()


async def _check_hop(request: httpx.Request) -> None:
    """Every redirect obeys the rules of the first address."""
    check_url(str(request.url))


def _is_public(address: IPAddress) -> bool:
    """Whether anyone on the internet could reach it; wrapped IPv4 addresses count as private."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address not in _IPV6_PUBLIC or any(address in net for net in _IPV6_WRAPPERS):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


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
