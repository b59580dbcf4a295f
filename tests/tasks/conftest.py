"""Settings that are put back, a silent run logger, a real HTTP server and a real edge."""

from collections.abc import Callable, Iterator

import pytest
from prefect.logging import disable_run_logger

from tasks.settings import Settings
from tests.kits.http.edge import Edge, faulty_edge
from tests.kits.http.video_server import VideoServer


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


@pytest.fixture(scope="module")
def shared_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with faulty_edge(tmp_path_factory.mktemp("edge")) as edge:
        yield edge


@pytest.fixture
def settings(server: VideoServer, settings_with: Callable[..., Settings]) -> Settings:
    """The server may be reached although it is private."""
    return settings_with(fetch_allow=(server.host,))


@pytest.fixture(autouse=True)
def _no_run_logger() -> Iterator[None]:
    """Tasks are called here without a run."""
    with disable_run_logger():
        yield
