"""Fixtures that every test may use: the shared case set, the demo clip, an ffmpeg process."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports Prefect: its database and profiles of the tests are not the user's.
os.environ["PREFECT_HOME"] = _HOME = tempfile.mkdtemp(prefix="seedvr2-test-prefect-")
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
os.environ.pop("PREFECT_API_URL", None)
# A script's program in the background begins with Ctrl-C ignored, and hands that on: what the tests
# start and interrupt would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything loads torch: tensors here are tiny, and there are as many tests at once as cores.
# More threads would wait for each other; where a job asks for them, they wait without spinning.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# A report costs each job a child process of its own; tests of reports turn them on.
os.environ["SEEDVR2_REPORT"] = "false"
# Before anything loads Triton, as torch may: without a GPU its kernels run in the interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

import imageio_ffmpeg
import pytest

if TYPE_CHECKING:
    from tasks.settings import Settings
    from tests.kits.http.s3 import S3

ROOT = Path(__file__).parents[1]
FIRST = (
    *("walkthrough", "e2e", "faults", "flows", "tasks/child", "deployments", "benchmarks"),
    *("seedvr2_core/engines", "seedvr2_core/vae", "seedvr2_core/kernels", "seedvr2_core/api"),
)
"""Folders with files that take half a minute or more. They come first, so that no process of the
run is left with one of them when the others have nothing more to do."""
DEMO_CLIP = ROOT / "deployments" / "demo" / "bunny_320x180.mp4"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A Prefect server takes ten seconds to start: whatever needs one is slow. Long files first."""
    first = tuple(str(ROOT / "tests" / folder) for folder in FIRST)
    items.sort(key=lambda item: not str(item.path).startswith(first))
    for item in items:
        if "api_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def pytest_unconfigure() -> None:
    """The tests' own home goes with them."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_settings_stay() -> Iterator[None]:
    """What a test lets this process use is gone after it."""
    from tasks.settings import use_settings

    yield
    use_settings(None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads decides bits: a test finds one, whatever ran before it."""
    _take_one_thread()
    yield
    _take_one_thread()


def _take_one_thread() -> None:
    if torch := sys.modules.get("torch"):  # most tests never load it
        torch.set_num_threads(1)


@pytest.fixture
def settings_with(tmp_path: Path) -> "Callable[..., Settings]":
    """Make settings with a work directory of the test's own, and put them in force."""
    from tasks.settings import Settings, use_settings

    def make(**fields: Any) -> Settings:
        settings = Settings(**{"work_dir": tmp_path / "work", **fields})
        use_settings(settings)
        return settings

    return make


@pytest.fixture(scope="session")
def demo_clip() -> Path:
    """Three seconds, 320x180, 25 fps, with sound."""
    return DEMO_CLIP


@pytest.fixture(scope="session")
def shared() -> Path:
    """The full case set; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("SEEDVR2_SHARED", ROOT.parent / "shared"))
    if not (folder / "clips").is_dir():
        pytest.skip("the shared case set is not on this machine (SEEDVR2_SHARED)")
    return folder


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run an ffmpeg process: the oracle, independent of PyAV's libraries."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y"]
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, check=True, timeout=120
        )

    return run


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A real S3-compatible server for all tests that need one; it starts with the first."""
    from tests.kits.http.s3 import s3_server

    with s3_server() as url:
        yield url


@pytest.fixture
def s3(s3_url: str) -> "Iterator[S3]":
    """A bucket of the test's own, and a line to it that can have faults."""
    from tests.kits.http.s3 import bucket_on

    with bucket_on(s3_url) as s3:
        yield s3


@pytest.fixture(scope="session")
def api_url() -> Iterator[str]:
    """A real Prefect server for all tests that need one."""
    from tests.kits.server import small_server

    with small_server(Path(_HOME)) as url:
        yield url


@pytest.fixture
def in_api(api_url: str) -> Iterator[None]:
    """Flows that run in this process are recorded in the test server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api_url}):
        yield
