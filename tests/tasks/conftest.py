"""Settings that are put back, a silent run logger, a real HTTP server and a real edge."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks.run.record import shown_to
from tasks.schemas import JoinedVideo
from tasks.settings import Settings, use_settings
from tasks.storage import public
from tests.kits.factories import Audience
from tests.kits.http.edge import Edge, edge_settings, faulty_edge, made_video
from tests.kits.http.video_server import VideoServer


@pytest.fixture
def audience() -> Iterator[Audience]:
    """Follows the jobs of a test."""
    audience = Audience()
    with shown_to(audience):
        yield audience


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
def edge(shared_edge: Edge, tmp_path: Path) -> Edge:
    """The module's edge without faults, and in force the settings that lead to it.

    Names in storage are the test's own: its folder there is named as its directory is.
    """
    shared_edge.switch()
    shared_edge.app.seen.clear()
    use_settings(edge_settings(shared_edge, tmp_path))
    return shared_edge


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the public address follow each other in a tenth of the time."""
    monkeypatch.setattr(public, "_PAUSES", (0.1, 0.2, 0.4, 0.8))


@pytest.fixture
def video(tmp_path: Path) -> JoinedVideo:
    """A job's finished file."""
    return made_video(tmp_path)


@pytest.fixture
def settings(server: VideoServer, settings_with: Callable[..., Settings]) -> Settings:
    """The server may be reached although it is private."""
    return settings_with(fetch_allow=(server.host,))


@pytest.fixture(autouse=True)
def _no_run_logger() -> Iterator[None]:
    """Tasks are called here without a run."""
    with disable_run_logger():
        yield
