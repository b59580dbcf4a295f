"""An HTTP client for addresses that the operator chose: the storage and its public address.

Requests to addresses that strangers chose go through `tasks/net/untrusted.py`.
"""

import functools
import logging
import ssl

import httpx


def open_client(*, follow_redirects: bool) -> httpx.Client:
    """A client that logs no addresses."""
    hide_addresses_in_logs()
    return httpx.Client(verify=tls_context(), follow_redirects=follow_redirects)


def hide_addresses_in_logs() -> None:
    """Silence the client's log lines: they show whole addresses, and a signed address is a key."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The certificate authorities that are trusted: certifi's, or those that SSL_CERT_FILE names.

    All clients share one context, because reading the authorities takes a while.
    """
    return httpx.create_ssl_context()
