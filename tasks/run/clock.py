"""The time by the clock of Prefect's server: the only one by which it is decided what is due.

The server lets no run begin before its time, by its own clock. A machine whose clock is an hour
ahead would else put off by an hour whatever it wants to be done soon.
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectException


def server_now(client: SyncPrefectClient) -> datetime:
    """The server's time, less than two seconds late; ours where it does not tell its own.

    Args:
        client: of the server, which is asked once.
    """
    try:
        return parsedate_to_datetime(client.hello().headers["date"])
    except (httpx.HTTPError, PrefectException, KeyError, ValueError):
        return datetime.now(UTC)


def due_in(seconds: float) -> datetime:
    """The server's time in so many seconds."""
    with get_client(sync_client=True) as client:
        return server_now(client) + timedelta(seconds=seconds)
