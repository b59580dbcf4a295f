"""A gateway on loopback in front of the session's Prefect server, for whatever talks to one."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks.settings import Settings
from tests.kits.http.gateway import deployed, gateway
from tests.kits.http.video_server import VideoServer


@pytest.fixture(scope="module")
def on_the_server(api_url: str) -> Iterator[None]:
    """Deployments of the real flow, for jobs to be created on."""
    with deployed(api_url):
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The gateway's settings, without tokens."""
    return Settings(work_dir=tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def client(settings: Settings, api_url: str) -> Iterator[httpx.Client]:
    """A client of a gateway with these settings."""
    with gateway(settings, api_url) as client:
        yield client


@pytest.fixture
def videos(demo_clip: Path) -> Iterator[VideoServer]:
    """A server of videos, with the demo clip."""
    server = VideoServer()
    server.offer("/clip.mp4", content=demo_clip.read_bytes())
    yield server
    server.close()
