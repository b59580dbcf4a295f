"""Which events our servers send again to a worker whose clock is wrong."""

import asyncio
import contextlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter

from deployments.host.installation import is_healthy
from deployments.host.prefect_server import HEARD_AGAIN
from tasks.recovery.states import HEARD_SECONDS
from tests.kits.prefect_home import prepare_home
from tests.kits.processes import ROOT, ends_with_us, free_port
from tests.kits.server import eventually

NAME = "seedvr2-test.heard"
SERVERS = {
    "of serve": ("deployments.host.prefect_server", f"--parent={os.getpid()}", "--full"),
    "of compose": ("deployments.docker.guarded_prefect",),
}


async def _heard(url: str, *, behind: timedelta) -> set[str]:
    """What a listener hears at first whose clock is so much behind."""
    wanted = EventFilter(event=EventNameFilter(name=[NAME]))
    heard = set[str]()
    async with PrefectEventSubscriber(api_url=url, filter=wanted) as subscriber:
        await _connect(subscriber, behind)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                async for event in subscriber:
                    heard.add(event.resource.id)
    return heard


async def _connect(subscriber: PrefectEventSubscriber, behind: timedelta) -> None:
    """Connect as a machine does whose clock is so much behind."""
    subscriber._backfill_since = datetime.now(UTC) - behind - timedelta(minutes=1)  # type: ignore[assignment]
    await subscriber._reconnect()


@pytest.mark.long
@pytest.mark.parametrize("name", SERVERS)
def test_who_begins_to_listen_hears_of_the_last_minute_by_the_servers_clock(
    tmp_path: Path, name: str
) -> None:
    module, *options = SERVERS[name]
    port = str(free_port())
    environment = os.environ | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for one in ("PREFECT_API_URL", "PREFECT_SERVER_API_AUTH_STRING", *HEARD_AGAIN):
        environment.pop(one, None)
    prepare_home(tmp_path)
    command = [sys.executable, "-P", "-m", module, *options, "--port", port]
    url = f"http://127.0.0.1:{port}/api"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, preexec_fn=ends_with_us()
    ) as server:
        try:
            eventually(lambda: is_healthy(f"{url}/health"), "the server's start")
            now = datetime.now(UTC)
            ages = {"old": timedelta(minutes=5), "new": timedelta(seconds=15)}
            events = [
                {
                    "occurred": (now - age).isoformat(),
                    "event": NAME,
                    "resource": {"prefect.resource.id": what},
                    "id": f"00000000-0000-4000-8000-00000000000{number}",
                }
                for number, (what, age) in enumerate(ages.items())
            ]
            httpx.post(f"{url}/events", json=events, timeout=30).raise_for_status()
            asked = {"filter": {"event": {"name": [NAME]}}}

            def are_kept() -> bool:
                answer = httpx.post(f"{url}/events/filter", json=asked, timeout=30)
                return answer.raise_for_status().json()["total"] == len(events)

            eventually(are_kept, "the events are kept")
            assert asyncio.run(_heard(url, behind=timedelta(hours=1))) == {"new"}
        finally:
            server.kill()


def test_no_attempt_begins_while_its_cancellation_may_be_heard() -> None:
    (text,) = HEARD_AGAIN.values()
    assert float(text.removeprefix("PT").removesuffix("S")) < HEARD_SECONDS
