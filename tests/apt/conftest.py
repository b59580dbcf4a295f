"""What these tests share: one build of the images, and the script that judges pages."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.containers.engine import KEPT

AXE = "axe-core@4.14.1"


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The script of axe-core; None where npm cannot install it."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        return None
    done = subprocess.run(
        [npm, "install", "--no-save", "--ignore-scripts", "--prefix", str(folder), AXE],
        capture_output=True,
        timeout=180,
    )
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    return script.read_text() if done.returncode == 0 and script.is_file() else None


@pytest.fixture(scope="session")
def docker_data() -> Iterator[Path]:
    """Where an engine keeps its images; removed at the end, for it takes 6 GB."""
    if kept := os.environ.get(KEPT):
        yield Path(kept)
        return
    folder = Path(tempfile.mkdtemp(prefix="seedvr2-test-docker-"))
    yield folder
    shutil.rmtree(folder)
