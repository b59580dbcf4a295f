"""A job that is asked for once more: one that failed, and the whole video of a preview."""

from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from deployments.gateway.auth import digest
from seedvr2_core.errors import BudgetError, in_full
from tasks.run.failures import OVER_BUDGET
from tasks.settings import Settings
from tests.kits.factories import preview_part
from tests.kits.http.gateway import URL, gateway, job_run, record_result, set_state, submit

pytestmark = pytest.mark.usefixtures("on_the_server")
SHOWN: dict[str, Any] = preview_part().model_dump(mode="json")


def test_a_failed_job_is_tried_again_with_what_is_kept(client: httpx.Client) -> None:
    job = submit(client, resolution="2k", seed=7, fresh=True)
    refused = client.post(f"/retry/{job}")
    assert (refused.status_code, "is pending" in refused.text) == (409, True)
    set_state(job, StateType.FAILED, message="broken")
    again = client.post(f"/retry/{job}")
    told = again.json()
    assert (again.status_code, told["deployment"]) == (202, "upscale/h200"), told
    run, before = job_run(told["job_id"]), job_run(job)
    assert run.id != before.id
    expected = {"video_url": URL, "resolution": "2k", "seed": 7, "fresh": False}
    assert run.parameters.items() >= expected.items()
    assert [t for t in run.tags if "caller" in t] == [t for t in before.tags if "caller" in t]
    assert client.post(f"/retry/{job}").json()["job_id"] == told["job_id"], "asked twice"


def test_only_its_caller_tries_a_job_again(settings: Settings, api_url: str) -> None:
    tokens = (digest("one"), digest("two"))
    closed = settings.model_copy(update={"gateway_tokens": tokens})
    with gateway(closed, api_url) as client:
        one, two = ({"Authorization": f"Bearer {name}"} for name in ("one", "two"))
        job = client.post("/upscale", json={"video_url": URL}, headers=one).json()["job_id"]
        set_state(job, StateType.FAILED)
        assert client.post(f"/retry/{job}", headers=two).status_code == 404
        assert client.get(f"/preview/{job}", headers=two).status_code == 404
        again = client.post(f"/retry/{job}", headers=one).json()["job_id"]
        assert client.get(f"/status/{again}", headers=one).status_code == 200
        with get_client(sync_client=True) as prefect:
            assert "caller:" in str(prefect.read_flow_run(UUID(again)).tags)


def stopped_at_its_limit(client: httpx.Client, **limits: float) -> str:
    """A job that its caller's limit has stopped."""
    job = submit(client, seed=7, **limits)
    told = in_full(BudgetError("the job has spent 4 s, and max_seconds allows 5 s"))
    set_state(job, StateType.FAILED, name=OVER_BUDGET, message=told)
    return job


def test_a_job_that_its_limit_has_stopped_needs_another_one(client: httpx.Client) -> None:
    job = stopped_at_its_limit(client, max_seconds=5)
    assert client.get(f"/status/{job}").json()["error_code"] == "over_budget"
    refused = client.post(f"/retry/{job}")
    assert refused.status_code == 409
    for words in ("max_seconds", "max_price", "no_limit=true"):
        assert words in refused.json()["detail"]
    larger = client.post(f"/retry/{job}", params={"max_seconds": 60.5})
    assert larger.status_code == 202, larger.text
    assert larger.json()["notes"] == [f"tries job {job} again with max_seconds 60.5"]
    parameters = job_run(larger.json()["job_id"]).parameters
    assert (parameters["max_seconds"], parameters["seed"]) == (60.5, 7)
    again = client.post(f"/retry/{job}", params={"max_seconds": 60.5}).json()["job_id"]
    assert again == larger.json()["job_id"], "asked twice"
    none = client.post(f"/retry/{job}", params={"no_limit": True}).json()
    assert none["job_id"] != again
    assert none["notes"] == [f"tries job {job} again with no limit"]
    assert not {"max_seconds", "max_price"} & job_run(none["job_id"]).parameters.keys()


def test_new_limits_are_checked_and_are_all_that_there_are(
    settings: Settings, api_url: str
) -> None:
    priced = settings.model_copy(update={"hour_price": 3.6})
    with gateway(priced, api_url) as client:
        job = stopped_at_its_limit(client, max_seconds=5)
        told = client.post(f"/retry/{job}", params={"max_price": 2}).json()
        parameters = job_run(told["job_id"]).parameters
        assert parameters["max_price"] == 2
        assert "max_seconds" not in parameters, "the new limit stands in the old one's place"
    with gateway(settings, api_url) as client:
        for params, words in (
            ({"max_price": 2}, "what an hour costs"),
            ({"max_seconds": 9, "no_limit": True}, "give a limit, or none"),
            ({"max_seconds": 0}, "max_seconds"),
            ({"max_seconds": "inf"}, "max_seconds"),
            ({"max_price": "nan"}, "max_price"),
        ):
            refused = client.post(f"/retry/{job}", params=params)
            assert (refused.status_code, words in refused.json()["detail"]) == (422, True), params
        broken = submit(client, max_seconds=5)
        set_state(broken, StateType.FAILED, message="broken")
        kept = client.post(f"/retry/{broken}").json()["job_id"]
        assert job_run(kept).parameters["max_seconds"] == 5


def previewed(client: httpx.Client, **options: Any) -> str:
    """A completed preview."""
    job = submit(client, preview="1s@2", **options)
    record_result(job, preview=SHOWN)
    set_state(job, StateType.COMPLETED)
    return job


def test_a_preview_becomes_the_whole_video_with_the_same_options(client: httpx.Client) -> None:
    job = previewed(client, resolution="2k", seed=7, fresh=True, tags="trailer")
    told = client.get(f"/status/{job}").json()
    assert told["whole_with"] == f"whole/{job}"
    assert told["preview"]["of_segments"] == 4
    answer = client.post(f"/{told['whole_with']}")
    whole = answer.json()
    assert (answer.status_code, whole["deployment"]) == (202, "upscale/h200"), whole
    run, before = job_run(whole["job_id"]), job_run(job)
    expected = {"video_url": URL, "resolution": "2k", "seed": 7, "preview": "", "fresh": False}
    assert run.parameters.items() >= expected.items()
    assert sorted(run.tags) == sorted(before.tags)
    assert client.post(f"/whole/{job}").json()["job_id"] == whole["job_id"], "asked twice"
    assert client.get(f"/status/{whole['job_id']}").json()["whole_with"] is None


def test_only_a_completed_preview_has_a_whole_video(client: httpx.Client) -> None:
    waiting = submit(client, preview="1s@2")
    refused = client.post(f"/whole/{waiting}")
    assert (refused.status_code, "completed first" in refused.text) == (409, True)
    assert client.get(f"/status/{waiting}").json()["whole_with"] is None
    film = submit(client, preview="1s@2")  # the whole video was there already
    record_result(film)
    set_state(film, StateType.COMPLETED)
    refused = client.post(f"/whole/{film}")
    assert (refused.status_code, "is no preview" in refused.text) == (409, True)
    assert client.get(f"/status/{film}").json()["whole_with"] is None


def test_nobody_else_makes_the_whole_video(settings: Settings, api_url: str) -> None:
    tokens = (digest("one"), digest("two"))
    closed = settings.model_copy(update={"gateway_tokens": tokens})
    with gateway(closed, api_url) as client:
        client.headers["Authorization"] = "Bearer one"
        job = previewed(client)
        others = {"Authorization": "Bearer two"}
        assert client.post(f"/whole/{job}", headers=others).status_code == 404
        whole = client.post(f"/whole/{job}").json()["job_id"]
        assert client.get(f"/status/{whole}", headers=others).status_code == 404
        assert client.get(f"/status/{whole}").status_code == 200
