"""Requests to addresses that strangers chose: where they may lead and what may come back.

`check_url` turns a string into an `Address`, which is parsed and checked once. The client connects
only to IP addresses that were checked (`public_ips.py`), and checks every redirect like the first
address. It sends no credentials, takes no proxy from the environment and asks for unencoded bytes.
No message and no log line shows a query string or a user name: signed addresses carry their secret
there.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx

from seedvr2_core.errors import InvalidVideoError, SourceRefusedError, SourceUnavailableError
from tasks.net.answers import content_length, is_web_page, may_heal, status_text
from tasks.net.public_ips import check_reach, resolve
from tasks.net.trusted import hide_addresses_in_logs, tls_context
from tasks.setting_groups.store import NAMES_OF_SCHEMES
from tasks.settings import Settings

MAX_REDIRECTS = 5
ANSWER_SECONDS = 60.0
"""Limit for everything up to the end of an answer's headers, redirects included. Without it a
server could send its headers byte by byte for ever."""
MAX_URL = 8192
"""Characters of an address."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHOWN_SCHEMES = (*_DEFAULT_PORTS, *NAMES_OF_SCHEMES)
_MAX_SHOWN = 200
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.I | re.ASCII)
# The client reads a port as Python reads an int: with a sign, or in the digits of any script.
_PORT = re.compile(r"(?:.*\]|[^:]*|.*@[^:]*)(?::[0-9]{0,1000})?", re.S)
_RESOLVE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An http or https address that `check_url` has let through."""

    given: str = field(repr=False)
    """As it was given, without white space around it. It may hold a secret."""
    url: httpx.URL = field(repr=False)
    """The same, parsed. It may hold a secret."""
    shown: str
    """The same for messages: printable, without user, query and fragment."""
    host: str
    """Host name or IP address as it goes over the wire: ASCII, IPv6 without brackets."""
    port: int
    """Port to connect to; the default of the scheme if the address names none."""


def shown_url(url: str) -> str:
    """The address as messages may show it: printable, without user, query and fragment."""
    url = "".join(c if c.isprintable() else "?" for c in url.strip())
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "the address"
    if parts.scheme not in _SHOWN_SCHEMES or not host:
        return f"{parts.scheme}: address" if parts.scheme else "the address"
    host = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


def check_url(url: str, settings: Settings) -> Address:
    """Parse an address and refuse it if it may not be asked for. Asks no name server.

    Raises:
        SourceRefusedError: the scheme is not http or https, there is a user name or password, the
            port or the IP address may not be connected to, or it is no address at all.
    """
    shown = shown_url(url)
    if len(url) > MAX_URL:
        raise SourceRefusedError(
            f"{shown} has {len(url)} characters; at most {MAX_URL} are taken as an address"
        )
    given = url.strip()
    parsed = _parse(given, shown)
    host = parsed.raw_host.decode("ascii")
    port = _DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
    if not host:
        raise SourceRefusedError(f"{shown} names no host; expected http(s)://host/path")
    if not _is_host(host):
        raise SourceRefusedError(f"{shown} cannot be read as an address; its host is no host name")
    if not 0 < port < 2**16:
        raise SourceRefusedError(f"{host} is asked for at port {str(port)[:10]}; 1 to 65535")
    if parsed.userinfo:
        raise SourceRefusedError(
            f"{shown} carries a user name or password, which are not sent; use a signed address"
        )
    check_reach(host, port, shown, settings)
    return Address(given=given, url=parsed, shown=shown, host=host, port=port)


@contextlib.asynccontextmanager
async def open_answer(
    address: Address,
    settings: Settings,
    *,
    headers: Mapping[str, str],
    timeout: httpx.Timeout,
) -> AsyncIterator[httpx.Response]:
    """GET an address, following redirects; judging the answer's status is left to the caller.

    The body is not read yet; errors while the caller reads it are translated as well.

    Raises:
        SourceRefusedError: it redirects to an address that may not be asked for, or too often; its
            certificate is not trusted; or its host has an IP address that is not public.
        SourceUnavailableError: no connection, no answer in time, or a cut answer.
    """
    with _translated_errors(address):
        async with _client(address, settings, timeout) as client:
            request = client.build_request("GET", address.url, headers=headers)
            answer = await _headers_of(client, request, max_redirects=MAX_REDIRECTS)
            if answer.next_request is not None:
                await answer.aclose()
                raise SourceRefusedError(
                    f"{address.shown} redirects more than {MAX_REDIRECTS} times"
                )
            try:
                yield answer
            finally:
                await answer.aclose()


async def post(
    address: Address,
    content: bytes,
    settings: Settings,
    *,
    headers: Mapping[str, str],
    timeout: httpx.Timeout,
) -> int:
    """POST to an address and return the answer's status; redirects are not followed.

    Raises:
        SourceRefusedError: its certificate is not trusted, or its host has an IP address that is
            not public.
        SourceUnavailableError: no connection, or no answer in time.
    """
    with _translated_errors(address):
        async with _client(address, settings, timeout) as client:
            request = client.build_request("POST", address.url, headers=headers, content=content)
            answer = await _headers_of(client, request, max_redirects=0)
            await answer.aclose()  # only the status matters, so the body is not read
            return answer.status_code


async def put(
    address: Address,
    content: AsyncIterator[bytes],
    settings: Settings,
    *,
    headers: Mapping[str, str],
    timeout: httpx.Timeout,
) -> httpx.Response:
    """PUT something large to an address; redirects are not followed.

    How long that takes in all is not limited: a slow line goes on, and `timeout` ends what hangs.

    Returns:
        The answer without its body.

    Raises:
        SourceRefusedError, SourceUnavailableError: as `post` does.
    """
    with _translated_errors(address):
        async with _client(address, settings, timeout) as client:
            request = client.build_request("PUT", address.url, headers=headers, content=content)
            answer = await client.send(request, stream=True)
            await answer.aclose()
            return answer


async def check_reachable(url: str, settings: Settings) -> None:
    """Check an address and resolve its host as a request would, but connect to nothing.

    Raises:
        SourceRefusedError: it may not be asked for.
        SourceUnavailableError: its host is not known, or the name server does not answer.
    """
    address = check_url(url, settings)
    await resolve(address.host, address.port, address.shown, settings, seconds=_RESOLVE_SECONDS)


def check_answer(answer: httpx.Response, address: Address, settings: Settings) -> None:
    """Judge by its status and headers whether an answer can be a video.

    Raises:
        SourceRefusedError: it will never be one: 4xx, a web page, encoded, too large.
        SourceUnavailableError: it may be one later: 408, 425, 429, 5xx.
        InvalidVideoError: it is empty.
    """
    shown = address.shown
    _check_status(answer.status_code, shown)
    if is_web_page(answer):
        raise SourceRefusedError(
            f"{shown} serves a web page, not a video; pass the address of the file itself"
        )
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SourceRefusedError(
            f"{shown} serves encoded bytes ({encoding[:20]!r}) though plain ones were asked for"
        )
    num_bytes = content_length(answer)
    if num_bytes == 0:
        raise InvalidVideoError(f"{shown} serves an empty file (0 bytes), not a video")
    if num_bytes is not None:
        check_size(num_bytes, address, settings)


def check_size(num_bytes: int, address: Address, settings: Settings) -> None:
    """Refuse a source that is larger than SEEDVR2_FETCH_MAX_BYTES.

    Raises:
        SourceRefusedError: with both numbers.
    """
    if num_bytes > settings.fetch_max_bytes:
        raise SourceRefusedError(
            f"{address.shown} holds {num_bytes} bytes or more, at most {settings.fetch_max_bytes} "
            "are taken (SEEDVR2_FETCH_MAX_BYTES)"
        )


def _parse(given: str, shown: str) -> httpx.URL:
    """Parse an address; refuse what is none and every scheme but http and https."""
    try:
        parsed = httpx.URL(given)
        if not _PORT.fullmatch(urlsplit(given).netloc):
            raise ValueError("the port is no number")
    except (httpx.InvalidURL, ValueError):
        # Not chained: the text of the cause may quote a password as a "port".
        raise SourceRefusedError(
            f"{shown} cannot be read as an address; expected http(s)://host/path"
        ) from None
    if parsed.scheme not in _DEFAULT_PORTS:
        kind = f"{parsed.scheme[:20]}: addresses" if parsed.scheme else "addresses without a scheme"
        raise SourceRefusedError(f"{kind} are not fetched; expected http:// or https://")
    return parsed


def _is_host(host: str) -> bool:
    """Whether this could be a name in the DNS, or is an IP address."""
    labels = host.removesuffix(".").split(".")
    return ":" in host or (len(host) <= 254 and all(map(_LABEL.fullmatch, labels)))


def _check_status(status: int, shown: str) -> None:
    """Refuse every status but 200 and 206."""
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    if may_heal(status):
        raise SourceUnavailableError(f"{shown} answered {status_text(status)}; try again")
    raise SourceRefusedError(
        f"{shown} answered {status_text(status)}; expected 200 OK, check the address"
    )


async def _headers_of(
    client: httpx.AsyncClient, request: httpx.Request, *, max_redirects: int
) -> httpx.Response:
    """Send a request and wait for the headers of the answer, at most ANSWER_SECONDS.

    Redirects are followed here and not by the client, which would read and decode their bodies,
    however large they are.
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


def _client(address: Address, settings: Settings, timeout: httpx.Timeout) -> httpx.AsyncClient:
    """A client for one request, whose only way out is the checked transport."""
    hide_addresses_in_logs()
    return httpx.AsyncClient(
        transport=_CheckedTransport(address, settings),
        # A proxy would connect in our place, to IP addresses that nobody checked.
        trust_env=False,
        timeout=timeout,
        headers={"Accept": "*/*", "Accept-Encoding": "identity"},
    )


class _CheckedTransport(httpx.AsyncBaseTransport):
    """Checks where each request leads and connects to no IP address that was not checked.

    A host is resolved here, once a request, and the connection goes to the IP address that was
    found: a second answer of the name server changes nothing. The server still sees the host's name
    in the request, and its TLS certificate must be for that name.
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        """Begin with `address`, which is checked already; redirects may lead to others."""
        self._first = address
        self._settings = settings
        self._inner = httpx.AsyncHTTPTransport(
            verify=tls_context(),
            trust_env=False,
            # A client makes one request; a connection that is kept could only be closed by the
            # server just when it is used again.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the first IP address of its host that takes a connection.

        Raises:
            SourceRefusedError, SourceUnavailableError: as `check_url` and `resolve` do.
        """
        address = self._first
        if request.url != address.url:  # a redirect
            address = check_url(str(request.url), self._settings)
        seconds = request.extensions["timeout"]["connect"]
        ips = await resolve(
            address.host, address.port, self._first.shown, self._settings, seconds=seconds
        )
        seconds /= len(ips)
        for ip in ips[:-1]:
            with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._send_to(ip, request, address.host, seconds)
        return await self._send_to(ips[-1], request, address.host, seconds)

    async def _send_to(
        self, ip: str, request: httpx.Request, host: str, seconds: float
    ) -> httpx.Response:
        """Send the same request to one IP address; `seconds` limit the connecting."""
        timeout = request.extensions["timeout"] | {"connect": seconds}
        aimed = httpx.Request(
            request.method,
            request.url.copy_with(host=ip),
            headers=request.headers,  # Host is among them
            stream=request.stream,
            extensions=request.extensions | {"sni_hostname": host, "timeout": timeout},
        )
        return await self._inner.handle_async_request(aimed)

    async def aclose(self) -> None:
        """Close open connections."""
        await self._inner.aclose()


@contextlib.contextmanager
def _translated_errors(address: Address) -> Iterator[None]:
    """Turn the client's errors into ours.

    Their texts may quote what a server sent, so most are left out of the message.
    """
    shown = address.shown
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


def _distrust(error: BaseException | None) -> str | None:
    """Why the certificate was not accepted; None if the error is about something else."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None
