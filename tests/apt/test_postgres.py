"""`seedvr2 serve` on PostgreSQL of Debian: killed under a job, backed up, restored."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.kits.containers.cluster import Postgres, postgres
from tests.kits.faults import SMALL_PICTURES, carrying
from tests.kits.server import Serve, eventually

pytestmark = [pytest.mark.apt, pytest.mark.timeout(1200)]
OPTIONS = ("--model", "sleep", "--resolution", "720p", "--preset", "ultrafast")
AWAY_SECONDS = 30.0


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@contextmanager
def serving(folder: Path, database: Postgres) -> Iterator[Serve]:
    """`serve` with its record in PostgreSQL."""
    folder.mkdir(exist_ok=True)
    serve = Serve(
        folder,
        **carrying(SMALL_PICTURES),
        PREFECT_SERVER_DATABASE_CONNECTION_URL=database.url,
    )
    try:
        yield serve.wait_until_ready()
        assert serve.stop() == 0, serve.said()
    finally:
        serve.close()


def ready(serve: Serve) -> httpx.Response:
    return httpx.get(f"{serve.urls['gateway']}/readyz", timeout=30)


def test_a_database_that_is_killed_and_restored(
    database: Postgres, demo_clip: Path, tmp_path: Path
) -> None:
    backup = database.folder / "prefect.dump"
    with serving(tmp_path, database) as serve:
        assert int(database.ask("SELECT count(*) FROM deployment")[0][0]) >= 4
        assert not (tmp_path / "prefect" / "prefect.db").exists(), "nothing is in SQLite"
        undisturbed = serve.submit(demo_clip, *OPTIONS)
        sha256 = _sha256_of(serve, serve.wait_for(undisturbed, "completed", "failed"))

        # Killed while a job works: it goes on, and its record catches up.
        job = serve.submit(demo_clip, *OPTIONS, "--fresh")
        eventually(lambda: (serve.status(job).get("frames_done") or 0) > 5, "the job's work")
        database.kill()
        assert eventually(lambda: ready(serve).status_code == 503, "the gateway's notice")
        told = ready(serve).json()["detail"]
        assert "database" in told or "prefect" in told
        time.sleep(AWAY_SECONDS)
        database.start()
        assert eventually(lambda: ready(serve).status_code == 200, "the server's way back")
        ended = serve.wait_for(job, "completed", "failed")
        assert ended["status"] == "completed", ended
        assert _sha256_of(serve, ended) == sha256, "the same bytes"
        database.dump(backup)

        # What comes after the backup is lost with the database.
        later = serve.submit(demo_clip, *OPTIONS, "--seed", "7")
        serve.wait_for(later, "completed", "failed")

    database.restore(backup)
    with serving(tmp_path, database) as serve:
        for known in (undisturbed, job):
            found = serve.status(known)
            assert (found["status"], found["download_url"] is not None) == ("completed", True)
            assert httpx.get(found["download_url"], timeout=60).is_success
        address = f"{serve.urls['gateway']}/status/{later}"
        assert httpx.get(address, timeout=60).status_code == 404
        again = serve.submit(demo_clip, *OPTIONS, "--seed", "7")
        ended = serve.wait_for(again, "completed", "failed")
        assert ended["status"] == "completed"
        assert ended["notes"] is not None


def _sha256_of(serve: Serve, job: dict[str, object]) -> str:
    """Digest of a job's output as its public address gives it."""
    answer = httpx.get(str(job["download_url"]), timeout=60)
    assert answer.is_success, job
    return hashlib.sha256(answer.content).hexdigest()
