"""One gateway process takes all hostile requests of a file.

After each request it must have grown by less than GROWTH_KIB since its start, kept no file, and
connected to no private address.
"""

from collections.abc import Iterator

import pytest

from tests.kits.http.intake import Canary
from tests.kits.http.victim import GROWTH_KIB, Victim


@pytest.fixture(scope="package")
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


@pytest.fixture(scope="package")
def process(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("hostile")
    victim = Victim(
        folder,
        PREFECT_API_URL=api_url,
        SEEDVR2_WORK_DIR=str(folder),
        SEEDVR2_CALLBACK_SECRET="a-secret-of-the-test",
        SEEDVR2_FETCH_MAX_BYTES="2000000",
    )
    yield victim
    told = victim.end()
    assert "Traceback" not in told


@pytest.fixture
def victim(process: Victim, canary: Canary) -> Iterator[Victim]:
    yield process
    assert process.files() == []
    assert process.peak_kib() - process.at_start < GROWTH_KIB
    assert canary.visits() == 0
