"""Requests to addresses that strangers chose: where they may lead and what may come back.

The client connects only to IP addresses that were checked (`public_ips.py`), anew for every
redirect. It sends no credentials, takes no proxy from the environment and asks for unencoded bytes.
No message and no log line shows a query string or user part: signed addresses carry their secret
there.
"""

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from http import HTTPStatus
from http.client import responses
from urllib.parse import urlsplit

import httpx

from seedvr2_core.errors import InvalidVideoError, SourceRefusedError, SourceUnavailableError
from tasks.net.public_ips import addresses_of, check_reach
from tasks.net.trusted import trusted
from tasks.settings import Settings

MAX_REDIRECTS = 5
ANSWER_SECONDS = 60.0
"""For the way to an answer's headers, redirects included, however slowly they drip."""
MAX_URL = 8192

_SCHEMES = ("http", "https")
_WEB_PAGES = ("text/html", "application/xhtml+xml")
_MAX_SHOWN = 200
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.I | re.ASCII)
_RESOLVE_SECONDS = 10.0


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


def check_url(url: str, settings: Settings) -> httpx.URL:
    """Parse an address that may be asked for; asks no name server.

    Raises:
        SourceRefusedError: another scheme than http and https, a user part, a port or an IP address
            that is not to be reached, or no address at all.
    """
    shown = shown_url(url)
    if len(url) > MAX_URL:
        raise SourceRefusedError(
            f"{shown} has {len(url)} characters; at most {MAX_URL} are taken as an address"
        )
    try:
        parsed = httpx.URL(url.strip())
        port = port_of(parsed)
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
    if not _is_host(host_of(parsed)):
        raise SourceRefusedError(f"{shown} cannot be read as an address; its host is no host name")
    if not 0 < port < 2**16:
        raise SourceRefusedError(f"{parsed.host} is asked for at port {port}; 1 to 65535")
    if parsed.userinfo:
        raise SourceRefusedError(
            f"{shown} carries a user name or password, which are not sent; use a signed address"
        )
    check_reach(host_of(parsed), port, shown, settings)
    return parsed


@contextlib.asynccontextmanager
async def open_answer(
    url: str,
    settings: Settings,
    *,
    headers: Mapping[str, str],
    timeout: httpx.Timeout,
) -> AsyncIterator[httpx.Response]:
    """GET an address, following redirects; the answer's status is the caller's to judge.

    The body is not read; errors while the caller reads it are translated as well.

    Raises:
        SourceRefusedError: the address, or one it redirects to, is not one to connect to.
        SourceUnavailableError: no connection, no answer in time, or a cut answer.
    """
    target = check_url(url, settings)
    with _in_our_words(shown_url(url)):
        async with _client(url, settings, timeout) as client:
            request = client.build_request("GET", target, headers=headers)
            answer = await _headers_of(client, request, max_redirects=MAX_REDIRECTS)
            if answer.next_request is not None:
                await answer.aclose()
                raise SourceRefusedError(
                    f"{shown_url(url)} redirects more than {MAX_REDIRECTS} times"
                )
            try:
                yield answer
            finally:
                await answer.aclose()


async def post(
    url: str,
    content: bytes,
    settings: Settings,
    *,
    headers: Mapping[str, str],
    timeout: httpx.Timeout,
) -> int:
    """POST to an address and give the answer's status; redirects are not followed.

    Raises:
        SourceRefusedError: the address is not one to connect to.
        SourceUnavailableError: no connection, or no answer in time.
    """
    target = check_url(url, settings)
    with _in_our_words(shown_url(url)):
        async with _client(url, settings, timeout) as client:
            request = client.build_request("POST", target, headers=headers, content=content)
            answer = await _headers_of(client, request, max_redirects=0)
            await answer.aclose()  # its body is nobody's business
            return answer.status_code


async def check_reachable(url: str, settings: Settings) -> None:
    """Look at an address as a connection would, without making one.

    Raises:
        SourceRefusedError: it is not one to connect to.
        SourceUnavailableError: its name is not known, or the name server does not answer.
    """
    parsed = check_url(url, settings)
    host, port = host_of(parsed), port_of(parsed)
    await addresses_of(host, port, shown_url(url), settings, seconds=_RESOLVE_SECONDS)


@contextlib.contextmanager
def _in_our_words(shown: str) -> Iterator[None]:
    """Translate the client's errors; their texts may quote what a server sent, so few are kept."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise SourceRefusedError(f"{shown} redirects to no http or https address") from None
    except httpx.TimeoutException as error:
        raise SourceUnavailableError(f"{shown} did not answer in time; try again") from error
    except httpx.ConnectError as error:
        if distrust := _distrust(error):
            raise SourceRefusedError(
                f"{shown}: the server's certificate is not trusted ({distrust})"
            ) from error
        raise SourceUnavailableError(f"no connection for {shown}: {error}; try again") from error
    except httpx.RequestError as error:
        raise SourceUnavailableError(
            f"the connection to {shown} broke off ({type(error).__name__}); try again"
        ) from None


async def _headers_of(
    client: httpx.AsyncClient, request: httpx.Request, *, max_redirects: int
) -> httpx.Response:
    """Send a request and wait for the headers, within a time of its own.

    Redirects are followed here: the client would read their bodies, however large, and decode them.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            for _ in range(max_redirects):
                answer = await client.send(request, stream=True)
                if answer.next_request is None:
                    return answer
                await answer.aclose()
                request = answer.next_request
            return await client.send(request, stream=True)
    except TimeoutError as error:
        raise httpx.ReadTimeout("the headers took too long", request=request) from error


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


def may_heal(status: int) -> bool:
    """Whether the same request may get another answer later."""
    soon = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
    return status in soon or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _check_status(status: int, shown: str) -> None:
    """Refuse every answer but 200 and 206."""
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    answered = f"{shown} answered {status} {responses.get(status, '')}".rstrip()
    if may_heal(status):
        raise SourceUnavailableError(f"{answered}; try again")
    raise SourceRefusedError(f"{answered}; expected 200 OK, check the address")


def _client(url: str, settings: Settings, timeout: httpx.Timeout) -> httpx.AsyncClient:
    """A client that cannot be led to private addresses."""
    # Both print whole addresses, at INFO and DEBUG.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)

    async def check_hop(request: httpx.Request) -> None:
        """Every redirect obeys the rules of the first address."""
        check_url(str(request.url), settings)

    return httpx.AsyncClient(
        transport=CheckedTransport(shown_url(url), settings),
        # A proxy would connect in our place, to addresses that nobody checked.
        trust_env=False,
        timeout=timeout,
        headers={"Accept": "*/*", "Accept-Encoding": "identity"},
        event_hooks={"request": [check_hop]},
    )


def _is_host(host: str) -> bool:
    """Whether it could be a name in the DNS, or is an IP address."""
    labels = host.removesuffix(".").split(".")
    return ":" in host or (len(host) <= 254 and all(map(_LABEL.fullmatch, labels)))


def _distrust(error: BaseException | None) -> str | None:
    """Why a certificate was not taken, if that is what the error is about."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


_DEFAULT_PORTS = {"http": 80, "https": 443}


class CheckedTransport(httpx.AsyncBaseTransport):
    """Connects to addresses that were checked; the server is told the name, and TLS holds it to it.

    The name is resolved once a request, here; what is below gets IP addresses only.
    """

    def __init__(self, shown: str, settings: Settings) -> None:
        """Let nothing be reached that these settings do not allow; messages call it `shown`."""
        self._shown = shown
        self._settings = settings
        self._inner = httpx.AsyncHTTPTransport(
            verify=trusted(),
            trust_env=False,
            # One request a client: a kept connection only brings the race of a server closing it.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Ask the addresses of the request's host, one after the other, until one is connected.

        Raises:
            SourceRefusedError, SourceUnavailableError: as `addresses_of` does.
        """
        host, port = host_of(request.url), port_of(request.url)
        seconds = request.extensions["timeout"]["connect"]
        addresses = await addresses_of(host, port, self._shown, self._settings, seconds=seconds)
        for address in addresses[:-1]:
            with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._ask(request, host, address, seconds / len(addresses))
        return await self._ask(request, host, addresses[-1], seconds / len(addresses))

    async def _ask(
        self, request: httpx.Request, host: str, address: str, seconds: float
    ) -> httpx.Response:
        """The same request at one address."""
        timeout = request.extensions["timeout"] | {"connect": seconds}
        aimed = httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,  # Host among them
            stream=request.stream,
            extensions=request.extensions | {"sni_hostname": host, "timeout": timeout},
        )
        return await self._inner.handle_async_request(aimed)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()


def host_of(url: httpx.URL) -> str:
    """Host as it goes over the wire: ASCII, IPv6 without brackets."""
    return url.raw_host.decode("ascii")


def port_of(url: httpx.URL) -> int:
    """Port that is connected to; 0 for schemes that are refused anyway."""
    return _DEFAULT_PORTS.get(url.scheme, 0) if url.port is None else url.port
