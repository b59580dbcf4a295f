"""The way a request takes: to IP addresses that were checked, never to a name.

It sits below the HTTP client, so each redirect passes here too.
"""

import contextlib
import functools
import ssl

import httpx

from tasks.net.public_ips import addresses_of
from tasks.settings import Settings

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


@functools.cache
def trusted() -> ssl.SSLContext:
    """Certifi's authorities, or those SSL_CERT_FILE names; reading them takes a while."""
    return httpx.create_ssl_context()
