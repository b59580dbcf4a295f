"""Settings that are put back, a silent run logger, and a real HTTP server."""

from collections.abc import Callable, Iterator

import pytest
from prefect.logging import disable_run_logger

from tasks.settings import Settings
from tests.kits.video_server import VideoServer


@pytest.fixture
def server() -> Iterator[VideoServer]:
    server = VideoServer()
    yield server
    server.close()


@pytest.fixture
def other_server() -> Iterator[VideoServer]:
    server = VideoServer()
    yield server
    server.close()


@pytest.fixture
def settings(server: VideoServer, settings_with: Callable[..., Settings]) -> Settings:
    """The server may be reached although it is private."""
    return settings_with(fetch_allow=(server.host,))


@pytest.fixture(autouse=True)
def _no_run_logger() -> Iterator[None]:
    """Tasks are called here without a run."""
    with disable_run_logger():
        yield
