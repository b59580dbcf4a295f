"""Every fault of a storage or CDN: the state it ends in, the sentence, how often bytes were sent.

The tasks run in a real flow on a real server, with their own retries at a quicker pace; the whole
upscale flow meets the edge in the tests marked soak, and so do most faults: what each looks like
to the tasks is in tests/tasks as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import Artifact, State
from prefect.runtime import flow_run
from pydantic import SecretStr

from flows.upscale import upscale
from tasks.run.artifacts import PROGRESS_KEY, RESULT_KEY, newest_artifact, read_result
from tasks.run.record import JobProgress, keep_record, shown_to
from tasks.schemas import JoinedVideo, PlannedJob
from tasks.settings import Settings, use_settings
from tasks.storage import public
from tasks.upload import upload
from tasks.verify import verify
from tests.kits.http.edge import KEY, Edge, faulty_edge, made_video
from tests.kits.server import eventually

pytestmark = pytest.mark.usefixtures("in_api")
SIZE = 300_000


@flow(name="deliver", persist_result=False)
def deliver(video: JoinedVideo) -> str:
    """What the upscale flow does in its end."""
    quick: Any = {"retry_delay_seconds": 0.05}
    with keep_record():
        stored = upload.with_options(**quick)(video, "a.mp4")
        return verify.with_options(**quick)(stored, video).name


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault and how a delivery under it must end."""

    faults: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    told: str = ""
    """Part of the failed state's message; "": Completed."""
    received: int = 1
    """Whole files that came in."""
    cut: bool = False
    """Part of one more came in."""
    retries: int = 0
    """Failed attempts of the upload."""
    soak: bool = True
    """Only in `make soak`; its parts are in tests/tasks all the same."""


CASES = {
    "no fault": Case(soak=False),
    "429 burst": Case(faults={"refusals": [429] * 3}, retries=3, soak=False),
    "429 burst that says when": Case(faults={"refusals": [429] * 8, "retry_after": 0}),
    "429 for ever": Case(
        faults={"refusals": [429] * 99}, told="429 Too Many Requests; try again", received=0
    ),
    "5xx burst": Case(faults={"refusals": [500, 502, 503]}, retries=3),
    "5xx for ever": Case(faults={"refusals": [503] * 99}, told="503 Service Unav", received=0),
    "wrong key": Case(
        settings={"bunny_storage_key": SecretStr("another-key")},
        told="BUNNY_STORAGE_KEY must be the password of the storage zone zone",
        received=0,
        soak=False,
    ),
    "no key": Case(
        settings={"bunny_storage_key": None}, told="needs BUNNY_STORAGE_KEY, which", received=0
    ),
    "bad request": Case(
        faults={"refusals": [400], "refuse": ["PUT"]}, told="other bytes than the", received=0
    ),
    "storage full": Case(
        faults={"refusals": [507], "refuse": ["PUT"]}, told="the storage is full", received=0
    ),
    "cut in mid-upload": Case(faults={"cut_uploads": 1}, cut=True, retries=1),
    "lost answer": Case(faults={"lost_answers": 1}, retries=1, soak=False),
    "slow both ways": Case(faults={"bytes_per_second": 1_000_000}),
    "wrong checksum told": Case(faults={"checksum": "wrong"}, told="has the wrong sha256"),
    "no checksum told": Case(faults={"checksum": "none"}, told="got none yet"),
    "late replica": Case(faults={"replica_seconds": 0.6}),
    "late replica behind a remembered 404": Case(
        faults={"replica_seconds": 0.3, "negative_cache_seconds": 0.8}
    ),
    "page for what is missing, then there": Case(
        faults={"replica_seconds": 0.6, "page": "missing"}
    ),
    "cut in mid-download": Case(faults={"cut_downloads": 2}),
    "never there": Case(faults={"public_status": 404}, told="answers 404 Not Found, though the"),
    "page for ever": Case(
        faults={"page": "always"}, told="with a web page where the video", soak=False
    ),
    "wrong bytes": Case(faults={"show": "other bytes"}, told="shows other bytes than were"),
    "wrong length": Case(
        faults={"show": "other length"}, told="with 299999 bytes, expected 300000"
    ),
    "401 in public": Case(faults={"public_status": 401}, told="answers 401 Unauthorized though"),
    "403 in public": Case(
        faults={"public_status": 403}, told="asks for a token that is not given", soak=False
    ),
    "token": Case(
        faults={"token_key": "t" * 20}, settings={"bunny_token_key": SecretStr("t" * 20)}
    ),
    "wrong token": Case(
        faults={"token_key": "t" * 20},
        settings={"bunny_token_key": SecretStr("other" * 4)},
        told="does not take the one it gets",
    ),
}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with faulty_edge(tmp_path_factory.mktemp("edge")) as edge:
        yield edge


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "_PAUSES", (0.1, 0.2, 0.4))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.soak if case.soak else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_every_fault_ends_in_the_right_state(edge: Edge, tmp_path: Path, case: Case) -> None:
    edge.app.seen.clear()
    edge.switch(**case.faults)
    fields = {"bunny_root_dir": tmp_path.name, "verify_seconds": 10.0} | case.settings
    if case.told:
        fields["verify_seconds"] = 0.3
    use_settings(edge.settings(tmp_path / "work", **fields))
    state: State[str] = deliver(made_video(tmp_path, SIZE), return_state=True)
    if case.told:
        assert state.is_failed()
        assert case.told in (state.message or "")
        assert KEY not in (state.message or "")
    else:
        assert state.is_completed(), state.message
    more = edge.app.received() - case.received * SIZE
    assert 0 < more < SIZE if case.cut else more == 0
    attempts = [seen for seen in edge.app.seen if seen.method in ("PUT", "DESCRIBE")]
    if not case.told and not case.settings:
        failed = [seen for seen in attempts if seen.status is None or seen.status >= 429]
        waited = len(case.faults.get("refusals", ())) if "retry_after" in case.faults else 0
        assert len(failed) - waited == case.retries
    methods = [seen.method for seen in edge.app.seen]
    assert "GET" not in methods or "PUT" in methods[: methods.index("GET")]


class Watcher:
    """Reads the run's progress artifact in the middle of the upload."""

    def __init__(self) -> None:
        self.read: Artifact | None = None

    def planned(self, job: PlannedJob) -> None:
        """Not of interest."""

    def progressed(self, progress: JobProgress) -> None:
        if self.read is None and progress.detail == "2 of 3 MB":
            self.read = eventually(self._upload_artifact, "the progress artifact")

    def _upload_artifact(self) -> Artifact | None:
        of_run = {"flow_run_id": {"any_": [UUID(flow_run.id)]}, "key": {"any_": [PROGRESS_KEY]}}
        with get_client(sync_client=True) as client:
            found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(of_run))
        return next((one for one in found if "2 of 3 MB" in str(one.description)), None)


@pytest.mark.long
@pytest.mark.slow
def test_the_record_shows_the_upload(edge: Edge, tmp_path: Path) -> None:
    edge.switch()
    use_settings(edge.settings(tmp_path / "work", bunny_root_dir=tmp_path.name))
    watcher = Watcher()
    with shown_to(watcher):
        deliver(made_video(tmp_path, 3_000_000))
    assert watcher.read
    assert (watcher.read.metadata_ or {})["phase"] == "upload"
    assert watcher.read.data == 99.0


@pytest.mark.slow
def test_without_credentials_no_work_is_begun(demo_clip: Path, tmp_path: Path) -> None:
    use_settings(Settings(work_dir=tmp_path, allow_local_files=True, storage="bunny"))
    state = upscale(video_path=str(demo_clip), model="lanczos", return_state=True)
    assert state.is_failed()
    assert "needs BUNNY_STORAGE_ZONE, which is not set" in (state.message or "")
    assert list(tmp_path.iterdir()) == []


# --- the whole flow -------------------------------------------------------------------------------


def run(edge: Edge, clip: Path, work_dir: Path, **fields: Any) -> State[Any]:
    """The upscale flow with quick settings."""
    settings = edge.settings(
        work_dir,
        allow_local_files=True,
        allow_cpu_engine=True,
        bunny_root_dir=work_dir.name,
        **fields,
    )
    use_settings(settings)
    options: Any = {"model": "lanczos", "resolution": "720p", "preset": "ultrafast"}
    return upscale(video_path=str(clip), **options, return_state=True)


def result_artifact(job_id: str) -> dict[str, Any]:
    """What a client reads."""
    with get_client(sync_client=True) as client:
        return dict(read_result(newest_artifact(client, UUID(job_id), RESULT_KEY)))


def received_of(edge: Edge, filename: str) -> int:
    """Bytes of the video that came in; its picture is stored beside it."""
    puts = [seen for seen in edge.app.seen if seen.method == "PUT"]
    return sum(seen.received for seen in puts if seen.path.endswith(f"/{filename}"))


@pytest.mark.soak
def test_a_bad_day_is_outlasted(edge: Edge, demo_clip: Path, tmp_path: Path) -> None:
    edge.app.seen.clear()
    edge.switch(
        # The first is spent on the look at the door.
        refusals=[500, 429, 503],
        lost_answers=1,
        replica_seconds=1.0,
        negative_cache_seconds=1.0,
        cut_downloads=1,
    )
    state = run(edge, demo_clip, tmp_path)
    assert state.is_completed(), state.message
    result = state.result()
    told = result_artifact(result.job_id)
    assert told["cdn_url"] == f"{edge.url}/{tmp_path.name}/{result.filename}"
    stored = (edge.root / tmp_path.name / result.filename).read_bytes()
    assert received_of(edge, result.filename) == len(stored)


@pytest.mark.soak
def test_a_closed_pull_zone_costs_no_second_upload(
    edge: Edge, demo_clip: Path, tmp_path: Path
) -> None:
    edge.app.seen.clear()
    edge.switch(public_status=403)
    state = run(edge, demo_clip, tmp_path)
    assert state.is_failed()
    assert "though the file is in storage: the pull zone asks for a token" in (state.message or "")
    edge.switch()
    state = run(edge, demo_clip, tmp_path)
    assert state.is_completed(), state.message
    assert state.result().segments_reused == 1
    stored = (edge.root / tmp_path.name / state.result().filename).read_bytes()
    assert received_of(edge, state.result().filename) == len(stored)
