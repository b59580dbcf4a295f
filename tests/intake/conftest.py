"""What every hostile case is given, and what must hold after each: the canary saw nobody."""

import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from seedvr2_core.errors import SeedVR2Error
from tasks.net import public_ips
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings, use_settings
from tasks.sources import obtain_source
from tests.kits.hosts.memory import forget_peak, peak_kib
from tests.kits.http.intake import SECRET, Canary, HostileServer, Resolver, secrets_in

OWN_GROWTH_KIB = 32 * 1024
"""What one case may add to the largest size of this process, which stands for the flow process."""
CHILD_BYTES = 2**29
"""The private memory that a child may ask for: the least that can be set."""


@pytest.fixture(autouse=True)
def _memory_stays_bounded() -> Iterator[None]:
    """No source, however hostile, makes this process large; its children have a bound of their own.

    The kernel keeps the largest size that a process ever had, and is told to begin anew.
    """
    forget_peak()
    before = peak_kib()
    yield
    assert peak_kib() <= before + OWN_GROWTH_KIB


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    """Listens on a port that web servers may have, so that only its address is against it."""
    canary = Canary()
    monkeypatch.setattr(public_ips, "PORTS", public_ips.PORTS | {canary.port})
    yield canary
    visits = canary.visits()
    canary.close()
    assert visits == 0, "a private address was connected to"


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Names of the test's own; no other name has an address."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    yield resolver
    resolver.released.set()


@pytest.fixture
def server() -> Iterator[HostileServer]:
    server = HostileServer()
    yield server
    server.close()


@pytest.fixture
def settings_with(tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    """Settings with a work directory of the test's own and short limits, put in force."""

    def make(**fields: Any) -> Settings:
        limits = {"fetch_seconds": 20.0, "fetch_max_bytes": 2**20}
        limits["child_memory_bytes"] = CHILD_BYTES
        settings = Settings(**{"work_dir": tmp_path / "work", **limits, **fields})
        use_settings(settings)
        return settings

    with disable_run_logger():
        yield make


@pytest.fixture
def settings(settings_with: Callable[..., Settings]) -> Settings:
    return settings_with()


@pytest.fixture
def trusting(server: HostileServer, settings_with: Callable[..., Settings]) -> Settings:
    """The hostile server may be reached although it is private; nothing else."""
    return settings_with(fetch_allow=(server.host,))


Refused = Callable[..., SeedVR2Error]


@pytest.fixture
def refused(caplog: pytest.LogCaptureFixture) -> Refused:
    """Try a source and get the one error it is refused with, which tells no secret."""

    def attempt(settings: Settings, kind: type[SeedVR2Error], words: str, **given: Any) -> Any:
        if "video_url" in given and "?" not in given["video_url"]:
            given["video_url"] += f"?token={SECRET}"
        request = UpscaleRequest(**given)
        notes: list[str] = []
        with caplog.at_level(logging.DEBUG), pytest.raises(kind, match=words) as caught:
            obtain_source(request, settings, note=notes.append)
        assert type(caught.value) is kind
        told = "".join(traceback.format_exception(caught.value)) + repr(request) + " ".join(notes)
        assert SECRET not in told + caplog.text
        assert not secrets_in(settings.work_dir, SECRET)
        return caught.value

    return attempt


@pytest.fixture
def obtained(settings_with: Callable[..., Settings]) -> Callable[..., FetchedSource]:
    """Bring a source in that is to be taken."""

    def take(settings: Settings, **given: Any) -> FetchedSource:
        return obtain_source(UpscaleRequest(**given), settings, note=lambda line: None)

    return take
