"""A video whose master was kept is coded again without a GPU, or moves on where it cannot be."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun

from flows.route import route
from flows.upscale import upscale
from seedvr2_core.errors import CheckpointError
from seedvr2_core.job.masters import Masters
from tasks import estimate
from tasks.job import again
from tasks.job.again import MasterNote, find_master, wish_of
from tasks.plan import place_of
from tasks.run import RESULT_KEY
from tasks.run.artifacts import newest_artifact, read_result
from tasks.run.routing import LABEL_ROUTED_FROM, find_job
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings, use_settings
from tests.kits.deployed import QUICK, attempt, deploy

pytestmark = pytest.mark.slow


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    """A client of the test server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def settings(
    client: SyncPrefectClient, settings_with: Callable[..., Settings], tmp_path: Path
) -> Settings:
    """Two deployments of this test's own: for jobs that restore, and for those that only code."""
    usual, coding = (f"{kind}-{uuid4()}" for kind in ("restoring", "coding"))
    for name in (usual, coding):
        deploy(client, upscale, name)
    return settings_with(
        allow_local_files=True,
        segment_seconds=1.5,
        deployments=dict.fromkeys(("720p", "1080p", "2k", "4k"), f"upscale/{usual}"),
        coding_deployment=f"upscale/{coding}",
    )


def run_on(client: SyncPrefectClient, deployment: str, **parameters: Any) -> FlowRun:
    found = client.read_deployment_by_name(deployment)
    return client.create_flow_run_from_deployment(found.id, parameters=parameters)


def deployment_of(client: SyncPrefectClient, run: FlowRun) -> str:
    assert run.deployment_id is not None
    return f"upscale/{client.read_deployment(run.deployment_id).name}"


def result_of(client: SyncPrefectClient, run_id: UUID) -> Mapping[str, Any]:
    result = read_result(newest_artifact(client, run_id, RESULT_KEY))
    assert result, "the run has published a result"
    return result


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on this machine has neither the engine's device nor its weights."""

    def refuse(*_: object, **__: object) -> None:
        raise CheckpointError("this machine has no engine")

    def call() -> None:
        monkeypatch.setattr(estimate, "choose_engine", refuse)
        monkeypatch.setattr(estimate, "known_weights", refuse)

    return call


@pytest.mark.long
def test_it_is_sent_there_and_made_there(
    client: SyncPrefectClient,
    settings: Settings,
    demo_clip: Path,
    no_engine: Callable[[], None],
    tmp_path: Path,
) -> None:
    assert settings.coding_deployment is not None
    usual = settings.deployments["720p"]
    asked: dict[str, Any] = {"video_path": str(demo_clip), **QUICK}
    first = run_on(client, usual, **asked, keep_master=True)
    assert attempt(client, first.id).is_completed()

    again_asked = {**asked, "codec": "hevc", "quality": 60}
    state = route(**again_asked, return_state=True)
    job = client.read_flow_run(UUID(str(state.result())))
    assert deployment_of(client, job) == settings.coding_deployment
    no_engine()
    state = attempt(client, job.id)
    assert state.is_completed(), state
    made = result_of(client, job.id)
    assert "all segments were coded again from the master, without the engine" in made["notes"]
    assert (made["codec"], made["device"], made["engine"]) == ("hevc", "cpu", "lanczos")

    other = {**asked, "resolution": "1080p"}
    assert place_of(UpscaleRequest(**other), settings) == usual, "other pixels are restored"
    assert place_of(UpscaleRequest(**again_asked, fresh=True), settings) == usual
    without = settings.model_copy(update={"coding_deployment": None})
    assert place_of(UpscaleRequest(**again_asked), without) == usual


@pytest.mark.long
@pytest.mark.parametrize("lost", ["all", "damaged", "other depth"])
def test_it_moves_on_where_the_master_does_not_serve(
    client: SyncPrefectClient,
    settings: Settings,
    demo_clip: Path,
    no_engine: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """Its caller holds the id of the first run, and is not told of the move."""
    assert settings.coding_deployment is not None
    usual = settings.deployments["720p"]
    asked: dict[str, Any] = {"video_path": str(demo_clip), **QUICK, "seed": len(lost)}
    first = run_on(client, usual, **asked, keep_master=True)
    assert attempt(client, first.id).is_completed()
    codec = "prores" if lost == "other depth" else "hevc"
    job = run_on(client, settings.coding_deployment, **asked, codec=codec, tags="mine")
    (folder,) = settings.masters_dir.iterdir()
    if lost == "all":
        shutil.rmtree(folder)
    if lost == "damaged":
        path = Masters(folder).video_path(1)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with monkeypatch.context() as here:
        here.setattr(estimate, "choose_engine", None)  # calling it would fail
        state = attempt(client, job.id)
    assert (state.name, state.is_completed()) == ("Moved", True), state
    found = find_job(job.id)
    assert found is not None
    assert found.id != job.id
    assert deployment_of(client, found) == usual
    assert found.labels[LABEL_ROUTED_FROM] == str(job.id)
    assert "mine" in found.tags
    assert found.parameters["codec"] == codec
    assert str(found.id) in str(state.message)

    state = attempt(client, found.id)
    assert state.is_completed(), state
    assert result_of(client, found.id)["codec"] == codec


def test_a_note_is_of_pixels_and_needs_every_segment(
    settings_with: Callable[..., Settings],
) -> None:
    settings = settings_with(coding_deployment="upscale/coding")
    base = {"video_url": "https://example.org/a.mp4", "model": "lanczos"}
    wish = wish_of(UpscaleRequest(**base))
    assert wish_of(UpscaleRequest(**base, video_path="", start="")) == wish, "as a flow has it"
    same = [
        *({"codec": "hevc"}, {"quality": 50}, {"container": "mkv"}, {"audio": "none"}),
        *({"grain": 0.5}, {"encoder": "nvenc"}, {"preset": "fast"}, {"keep_master": True}),
        *({"max_workers": 4}, {"tags": "x"}, {"fresh": True}),
    ]
    assert {wish_of(UpscaleRequest(**base, **more)) for more in same} == {wish}
    other = [
        *({"resolution": "2x"}, {"seed": 1}, {"strength": 0.5}, {"start": "1"}, {"end": "2"}),
        *({"deinterlace": "bob"}, {"batch_size": 50}, {"weights_file": "x.safetensors"}),
        *({"color_correction": "lab"}, {"temporal_overlap": 4}, {"stitch_mode": "later"}),
        *({"alpha": "flatten"}, {"fps": "24"}),
    ]
    assert len({wish_of(UpscaleRequest(**base, **more)) for more in other} | {wish}) == 14

    request = UpscaleRequest(**base)
    note = MasterNote(pixels_key="k", num_segments=2, engine="lanczos", weights_digest="")
    settings.again_dir.mkdir(parents=True)
    path = settings.again_dir / f"{wish}.json"
    path.write_bytes(again._NOTE.dump_json(note))
    masters = Masters(settings.masters_dir / "k")
    masters.path.mkdir(parents=True)
    masters.sidecar_path(0).write_bytes(b"{}")
    assert find_master(request, settings) is None
    masters.sidecar_path(1).write_bytes(b"{}")
    assert find_master(request, settings) == note
    for more in ({"fresh": True}, {"preview": "3s"}):
        assert find_master(UpscaleRequest(**base, **more), settings) is None
    path.write_bytes(b"{")
    assert find_master(request, settings) is None
    use_settings(None)
