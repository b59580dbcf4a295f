"""What tests of containers share: one build of the images for all files of a run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.containers.engine import KEPT


@pytest.fixture(scope="session")
def docker_data() -> Iterator[Path]:
    """Where an engine keeps its images; removed at the end, for it takes 6 GB."""
    if kept := os.environ.get(KEPT):
        yield Path(kept)
        return
    folder = Path(tempfile.mkdtemp(prefix="seedvr2-test-docker-"))
    yield folder
    shutil.rmtree(folder)
