"""Settings of the gateway that the tests of this folder ask."""

import pytest

from tasks.settings import Settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(work_dir=tmp_path_factory.mktemp("gateway"), fetch_max_bytes=2_000_000)
