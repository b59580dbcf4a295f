"""Routing: the site's table, the `route` flow on a real server, and finding a job by an id."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.route import route
from flows.upscale import upscale
from seedvr2_core.errors import InvalidRequestError
from tasks.run.routing import (
    LABEL_RESOLUTION,
    LABEL_ROUTED_FROM,
    check_pool,
    create_job,
    deployment_for,
    find_job,
    resolutions_of,
    wants_size,
)
from tasks.settings import Settings, use_settings

URL = "https://example.org/clip.mp4"


@pytest.fixture(autouse=True)
def environment_decides() -> None:
    """Read settings from the environment, whatever an earlier test set."""
    use_settings(None)


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    """A client of the test server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployed(client: SyncPrefectClient) -> Iterator[dict[str, UUID]]:
    """Two deployments of `upscale` of this test's own, and a table that names them."""
    pool = WorkPoolCreate(name="routing-pool", type="process", base_job_template={})
    with contextlib.suppress(ObjectAlreadyExists):  # an earlier test of this session made it
        client.create_work_pool(pool)
    flow_id = client.create_flow(upscale)
    ids = {
        f"upscale/{name}": client.create_deployment(
            flow_id,
            name,
            work_pool_name=pool.name,
            parameter_openapi_schema=parameter_schema(upscale).model_dump(),
            enforce_parameter_schema=True,
        )
        for name in ("routed-small", "routed-large")
    }
    use_settings(Settings(deployments="*=upscale/routed-small, 4k=upscale/routed-large"))  # type: ignore[arg-type]
    yield ids
    use_settings(None)


def routed(**parameters: object) -> tuple[UUID, UUID]:
    """Run the flow in this process; returns its own id and the id of the job it created."""
    state = route(video_url=URL, **parameters, return_state=True)
    assert state.is_completed(), state
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id, UUID(str(state.result()))


def test_the_default_table_knows_every_resolution() -> None:
    assert deployment_for("720p") == deployment_for("1080P") == "upscale/h100"
    assert deployment_for("2k") == deployment_for("4K") == "upscale/h200"
    assert deployment_for("short:1080") == "upscale/h100"
    assert deployment_for("Short:2160") == "upscale/h200"
    assert resolutions_of("upscale/h200") == ("2k", "4k")
    assert resolutions_of("upscale/local") == ()


def test_factors_and_boxes_go_by_the_pixels_that_come_out() -> None:
    for resolution, size, name in (
        ("2x", (640, 360), "h100"),
        ("2X", (1920, 1080), "h200"),
        ("0.5x", (3840, 2160), "h100"),
        ("3840x2160", (4, 3), "h200"),
        ("3840x2160", (100, 9), "h100"),
        ("short:1440", (1, 1), "h100"),
        ("short:1080", (21, 9), "h200"),
        # Not known: the most that can come out; of a shorter side, what a 16:9 picture has.
        ("0.5x", None, "h200"),
        ("1920x1080", None, "h100"),
        ("1920x1440", None, "h200"),
        ("short:1080", None, "h100"),
    ):
        assert deployment_for(resolution, size) == f"upscale/{name}", (resolution, size)


def test_the_size_is_looked_at_only_where_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [wants_size(name) for name in ("1080p", "2x", "640x360", "short:720")] == [
        *(False, True, True, True)
    ]
    monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", "*=upscale/local")
    assert not wants_size("2x")
    assert deployment_for("2x") == "upscale/local"
    monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", "720p=upscale/small,1080p=upscale/middle")
    assert wants_size("2x")
    assert deployment_for("2x") == "upscale/middle", "the largest that there is"
    with pytest.raises(InvalidRequestError, match=r"makes this picture 3840x2160.*there is one"):
        deployment_for("2x", (1920, 1080))


def test_a_pool_refuses_the_pixels_that_it_does_not_make() -> None:
    use_settings(Settings(resolutions=("720p", "1080p")))
    for resolution, size in (
        *(("2x", None), ("2x", (640, 360)), ("1080p", (4, 3)), ("0.5x", (3840, 2160))),
        # So much wider than 16:9 that it has more pixels; a door that did not know sent it here.
        ("short:1080", (21, 9)),
        ("short:1440", (1, 1)),
    ):
        check_pool(resolution, size)
    with pytest.raises(
        InvalidRequestError, match=r"takes 720p, 1080p, got 2x, which makes this picture 3840x2160"
    ):
        check_pool("2x", (1920, 1080))
    with pytest.raises(InvalidRequestError, match="got 4k; start the run"):
        check_pool("4k")
    use_settings(Settings(resolutions=("2k", "4k")))
    check_pool("2x", (160, 90))  # from a door that did not know
    use_settings(None)


def test_a_site_changes_the_table_by_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", " *=upscale/h100, 4K = upscale/big ")
    assert deployment_for("2k") == "upscale/h100"
    assert deployment_for("4k") == "upscale/big"
    monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", "720p=upscale/h100")
    with pytest.raises(InvalidRequestError, match=r"4k.*there is one for 720p.*DEPLOYMENTS"):
        deployment_for("4k")


@pytest.mark.parametrize("table", ["8k=upscale/h100", "720p", "720p=h100", "720p=a/b/c"])
def test_a_table_that_means_nothing_is_refused(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", table)
    with pytest.raises(ValidationError, match=r"upscale/h100|known"):
        Settings()


def test_route_has_the_form_of_upscale() -> None:
    form = parameter_schema(route).model_dump()
    assert form == parameter_schema(upscale).model_dump()
    resolution = form["properties"]["resolution"]
    assert resolution["examples"][:5] == ["720p", "1080p", "2k", "4k", "short:720"]
    assert all(re.search(resolution["pattern"], one) for one in ("4k", "1.5x", "1920X1080"))
    assert "seedvr2-7b-sharp" in form["properties"]["model"]["enum"]
    for name in ("video_url", "video_path", "video_base64", "output_url", "callback_url"):
        field = form["properties"][name]
        assert (field["type"], field["default"], "anyOf" in field) == ("string", "", False)
    assert "https://example.org/clip.mp4" in form["properties"]["video_url"]["description"]
    undescribed = [name for name, field in form["properties"].items() if "description" not in field]
    assert not undescribed
    assert "deployment for its resolution" in (route.description or "")


@pytest.mark.long
def test_route_creates_the_job_on_the_deployment_for_its_resolution(
    client: SyncPrefectClient, deployed: dict[str, UUID]
) -> None:
    for resolution, name in (("4K", "routed-large"), ("720p", "routed-small")):
        route_id, job_id = routed(resolution=resolution, seed=2**40)
        job = client.read_flow_run(job_id)
        assert job.deployment_id == deployed[f"upscale/{name}"]
        assert job.state is not None
        assert job.state.is_scheduled()
        assert (job.parameters["video_url"], job.parameters["seed"]) == (URL, 2**40)
        assert job.parameters["resolution"] == resolution.lower()
        assert job.labels[LABEL_RESOLUTION] == resolution.lower()
        assert job.labels[LABEL_ROUTED_FROM] == str(route_id)
        state = client.read_flow_run(route_id).state
        assert state is not None
        assert state.message == f"job {job_id} on upscale/{name}"


@pytest.mark.long
def test_route_looks_at_a_source_that_is_here(
    client: SyncPrefectClient, deployed: dict[str, UUID], demo_clip: Path
) -> None:
    settings = Settings(
        deployments="*=upscale/routed-small, 4k=upscale/routed-large",  # type: ignore[arg-type]
        allow_local_files=True,
    )
    use_settings(settings)
    for asked, name in (
        ({"video_path": str(demo_clip), "resolution": "4X"}, "routed-small"),
        ({"video_path": str(demo_clip), "resolution": "12x"}, "routed-large"),
        ({"video_url": URL, "resolution": "1x"}, "routed-large"),
    ):
        state = route(**asked, return_state=True)
        job = client.read_flow_run(UUID(str(state.result())))
        assert job.deployment_id == deployed[f"upscale/{name}"], asked
        assert job.parameters["resolution"] == asked["resolution"].lower()
    state = route(video_path=str(demo_clip), resolution="8000x8000", return_state=True)
    assert state.is_failed()
    assert "8000x4500, 36000000 pixels; at most 33177600" in str(state.message)


def test_ids_resolve_to_the_job(client: SyncPrefectClient, deployed: dict[str, UUID]) -> None:
    route_id, job_id = routed(resolution="2k")
    found, itself = find_job(route_id), find_job(job_id)
    assert found is not None
    assert itself is not None
    assert found.id == itself.id == job_id
    assert find_job(uuid4()) is None


def test_a_route_that_is_tried_again_gives_the_same_job(
    client: SyncPrefectClient, deployed: dict[str, UUID]
) -> None:
    route_id, job_id = routed(resolution="2k")
    _, again = create_job({"video_url": URL, "resolution": "2k"}, "2k", routed_from=route_id)
    assert again.id == job_id


@pytest.mark.long
def test_a_form_that_is_left_empty_is_refused_at_once_in_one_sentence(
    client: SyncPrefectClient, deployed: dict[str, UUID]
) -> None:
    for flow, form in ((route, {"video_url": "", "callback_url": ""}), (upscale, {})):
        state = flow(**form, return_state=True)
        assert state.is_failed()
        assert str(state.message).startswith("exactly one source is needed"), state.message
        assert state.state_details.flow_run_id is not None
        assert client.read_flow_run(state.state_details.flow_run_id).run_count == 1


def test_what_older_clients_leave_out_as_null_is_empty(
    client: SyncPrefectClient, deployed: dict[str, UUID]
) -> None:
    _, job_id = routed(resolution="2k", video_path=None, callback_url=None)
    assert client.read_flow_run(job_id).parameters.get("video_path", "") == ""


def test_a_refused_request_has_no_job_and_its_id_says_so(
    client: SyncPrefectClient, deployed: dict[str, UUID]
) -> None:
    state = route(resolution="2k", return_state=True)
    assert state.is_failed()
    assert "exactly one source" in (state.message or "")
    assert state.state_details.flow_run_id is not None
    found = find_job(state.state_details.flow_run_id)
    assert found is not None
    assert found.id == state.state_details.flow_run_id


def test_a_missing_deployment_says_what_to_do(in_api: None) -> None:
    use_settings(Settings(deployments={"720p": "upscale/nowhere"}))
    with pytest.raises(InvalidRequestError, match=r"'upscale/nowhere'.*make deploy"):
        route(video_url=URL, resolution="720p")
    use_settings(None)
