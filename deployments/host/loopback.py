"""Requests to this machine never go through a proxy; those to the outside may.

HTTP_PROXY and its like apply to every address that NO_PROXY does not name. A proxy cannot reach our
own servers on loopback, and it has no business with what we say to them.
"""

import os
from collections.abc import Iterable, MutableMapping
from ipaddress import ip_address

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on, or a host to ask, is this machine alone."""
    try:
        return host.lower() == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def keep_loopback_direct(
    environment: MutableMapping[str, str] = os.environ, also: Iterable[str] = ()
) -> None:
    """Add loopback to NO_PROXY, for this process and for all that it starts.

    Args:
        environment: it is changed in place.
        also: further hosts that are asked directly.
    """
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    names += [name for name in (*LOOPBACK, *also) if name not in names]
    # Python and curl prefer the one in lower case, others read only the other.
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(names)
