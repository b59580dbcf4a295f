"""HTTP clients for addresses that the operator chose: a storage, and the public side of it.

Addresses that strangers chose go through `safe_http.py`.
"""

import functools
import logging
import ssl
from http.client import responses

import httpx


def open_client(*, follow_redirects: bool) -> httpx.Client:
    """A client whose log lines show no address: a signed one is a key."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx.Client(verify=_trusted(), follow_redirects=follow_redirects)


def status_text(status: int) -> str:
    """A status as messages show it: 404 Not Found. What the server called it is not repeated."""
    return f"{status} {responses.get(status, '')}".rstrip()


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Certifi's authorities, or those SSL_CERT_FILE names; reading them takes a while."""
    return httpx.create_ssl_context()


@functools.cache
def trusted() -> ssl.SSLContext:
    """Certifi's authorities, or those SSL_CERT_FILE names; reading them takes a while."""
    return httpx.create_ssl_context()
