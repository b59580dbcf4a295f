"""`seedvr2 submit` sends a file whose upload is disturbed: the whole command, a real gateway.

What its sender does alone is in test_resumable.py.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.gateway.uploads import sending
from tasks.settings import Settings
from tasks.sources.uploads import find_upload
from tests.kits.http.gateway import GatewayProcess, job_run
from tests.kits.http.s3 import line_to
from tests.kits.processes import free_port

pytestmark = pytest.mark.usefixtures("on_the_server")

HOSTILE = "<b> \u202e%2e%2e%2f\r\nX: y\x1b[31m;\"'$(id).mp4"
"""A name as a file system allows it: markup, codes, a line's end, a terminal's colours."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The gateway's settings, without tokens and limits."""
    return Settings(work_dir=tmp_path_factory.mktemp("gateway"))


@pytest.fixture
def clip(demo_clip: Path, tmp_path: Path) -> Path:
    """A video of more than 3 MB, sent in pieces of 1 MB."""
    path = tmp_path / HOSTILE
    path.write_bytes(demo_clip.read_bytes() + bytes(3_000_000))
    return path


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_PIECE_BYTES", 1_000_000)
    monkeypatch.setattr(sending, "_READ_BYTES", 100_000)
    monkeypatch.setattr(sending, "_AGAIN_SECONDS", (0.1,))


def submitted(url: str, clip: Path, settings: Settings) -> str:
    """Submit a file; returns what the command has said to people."""
    words = ["submit", str(clip), "--upload", "--gateway", url]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    reference = job_run(result.stdout.splitlines()[-1]).parameters["video_url"]
    assert find_upload(reference, settings).read_bytes() == clip.read_bytes()
    name = reference.partition("/")[2]
    assert name.isprintable()
    assert not set("/\\:<>%\r\n\x1b\u202e") & set(name)
    assert "\x1b" not in result.stderr
    return result.stderr


def test_a_connection_that_breaks_in_the_middle(
    client: httpx.Client, settings: Settings, clip: Path
) -> None:
    with line_to(str(client.base_url)) as line:
        line.fail("torn", "^PATCH", times=2)
        line.fail("lost", "^(PATCH|POST /upscale)", times=2)
        said = submitted(line.url, clip, settings)
        assert sorted(line.happened) == ["lost", "lost", "torn", "torn"]
        assert "it goes on there" in said
        made = [one for one in line.requests if one.startswith("POST /uploads")]
    assert len(made) == 1, "it is one upload from the first to the last byte"


@pytest.mark.long
@pytest.mark.slow
def test_a_gateway_that_is_killed_and_started_again(
    api_url: str, settings: Settings, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    variables = {"SEEDVR2_WORK_DIR": str(settings.work_dir), "PREFECT_API_URL": api_url}
    gateways = [GatewayProcess("--port", str(port), **variables)]
    offsets: list[int] = []

    def disturbed(real: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
        def piece(path: Path, offset: int, length: int) -> Iterator[bytes]:
            offsets.append(offset)
            for number, data in enumerate(real(path, offset, length)):
                if offset >= 1_000_000 and number == 5 and len(gateways) == 1:
                    gateways[0].process.kill()
                    gateways[0].process.communicate()
                    gateways.append(GatewayProcess("--port", str(port), **variables))
                yield data

        return piece

    monkeypatch.setattr(sending, "_piece", disturbed(sending._piece))
    said = submitted(f"http://127.0.0.1:{port}", clip, settings)
    gateways[-1].end()
    assert len(gateways) == 2
    assert "it goes on there" in said
    assert all(before <= after for before, after in itertools.pairwise(offsets))
    assert offsets.count(0) == 1, "what has come is not sent again"
    digest = hashlib.sha256(clip.read_bytes()).hexdigest()
    assert (settings.intake_dir / digest).is_file()
