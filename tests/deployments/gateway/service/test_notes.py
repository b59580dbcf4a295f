"""Tags and metadata of callers, and when outputs expire: through every door, and found again."""

import json
from pathlib import Path

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from deployments.gateway.auth import digest
from tasks.settings import Settings
from tests.kits.http.gateway import URL, gateway, job_run, set_state, submit

pytestmark = pytest.mark.usefixtures("on_the_server")
NOTED = {"order": 17, "customer": "Åse", "rush": True}


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()["jobs"]]


def test_every_kind_of_body_takes_them(client: httpx.Client) -> None:
    text = {"tags": "trailer, 4k master", "metadata": json.dumps(NOTED)}
    answers = [
        client.post(
            "/upscale",
            json={"video_url": URL, "tags": ["trailer", "4k master"], "metadata": NOTED},
        ),
        client.post("/upscale", json={"video_url": URL, **text}),
        client.post("/upscale", data=text, files={"video": b"video"}),
        client.put("/upscale/a.mp4", params=text, content=b"video"),
    ]
    for answer in answers:
        assert answer.status_code == 202, answer.text
        job = answer.json()["job_id"]
        told = client.get(f"/status/{job}").json()
        assert (told["tags"], told["metadata"]) == (["trailer", "4k master"], NOTED)
        run = job_run(job)
        assert {"trailer", "4k master"} <= set(run.tags), "they are tags in Prefect"
        assert json.loads(run.parameters["metadata"]) == NOTED
        (newest,) = client.get("/jobs?limit=1").json()["jobs"]
        assert newest.keys() >= {"tags", "metadata", "expires_at", "deleted_at"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tags": ["caller:0123456789ab"]}, "is no tag"),
        ({"tags": [f"tag {n}" for n in range(11)]}, "at most 10"),
        ({"tags": ["x" * 51]}, "at most 50"),
        ({"tags": 7}, "expected a list of texts"),
        ({"metadata": {"a": {"b": 1}}}, "a: expected a text, a number"),
        ({"metadata": {"a": "x" * 5000}}, "at most 4096"),
        ({"metadata": {str(n): n for n in range(21)}}, "at most 20"),
        ({"metadata": "no json"}, "no JSON"),
        ({"expires_in": -1}, "greater than or equal to 0"),
        ({"callback_events": "begun"}, "known are started, progress, ended"),
    ],
)
def test_what_is_refused(client: httpx.Client, fields: dict[str, object], words: str) -> None:
    answer = client.post("/upscale", json={"video_url": URL, **fields})
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_what_a_caller_notes_is_repeated_in_no_message(client: httpx.Client) -> None:
    answer = client.post("/upscale", json={"video_url": URL, "metadata": {"a": ["sekret42"]}})
    assert answer.status_code == 422
    assert "sekret42" not in answer.text


def test_jobs_are_found_by_their_tags_and_by_nobody_elses(tmp_path: Path, api_url: str) -> None:
    closed = Settings(work_dir=tmp_path, gateway_tokens=(digest("one"), digest("two")))
    with gateway(closed, api_url) as client:
        jobs = {}
        for token in ("one", "two"):
            headers = {"Authorization": f"Bearer {token}"}
            for tags in (["a"], ["a", "b"]):
                asked = {"video_url": URL, "tags": tags}
                answer = client.post("/upscale", json=asked, headers=headers)
                jobs[token, *tags] = answer.json()["job_id"]
        mine = {"Authorization": "Bearer one"}
        both = [jobs["one", "a", "b"], jobs["one", "a"]]
        assert ids(client.get("/jobs?tag=a", headers=mine)) == both
        assert ids(client.get("/jobs?tag=a&tag=b", headers=mine)) == both[:1]
        assert ids(client.get("/jobs?tag=c", headers=mine)) == []
        assert ids(client.get("/jobs?tag=a&status=failed", headers=mine)) == []
        theirs = f"caller:{digest('two')[:12]}"
        assert client.get("/jobs", params={"tag": theirs}, headers=mine).status_code == 422


def test_they_are_part_of_the_request_that_a_key_names(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "with notes"}
    asked = {"video_url": URL, "metadata": {"n": 1}}
    assert client.post("/upscale", json=asked, headers=key).status_code == 202
    assert client.post("/upscale", json=asked, headers=key).status_code == 202
    other = {**asked, "metadata": {"n": 2}}
    assert client.post("/upscale", json=other, headers=key).status_code == 409


def test_a_job_that_is_tried_again_keeps_them(client: httpx.Client) -> None:
    job = submit(client, tags=["kept"], metadata=NOTED, expires_in=60)
    set_state(job, StateType.FAILED)
    again = client.post(f"/retry/{job}").json()["job_id"]
    told = client.get(f"/status/{again}").json()
    assert (told["tags"], told["metadata"]) == (["kept"], NOTED)
    assert "kept" in job_run(again).tags
    assert job_run(again).parameters["expires_in"] == 60


def test_nonsense_from_other_doors_breaks_no_answer(client: httpx.Client) -> None:
    """A run that was started on Prefect's pages is checked when it runs, and is listed before."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as prefect:
        deployment = prefect.read_deployment_by_name("upscale/h100").id
        given = {"video_url": URL, "tags": "caller:x", "metadata": "[1"}
        run = prefect.create_flow_run_from_deployment(deployment, parameters=given)
    told = client.get(f"/status/{run.id}").json()
    assert (told["tags"], told["metadata"]) == (["caller:x"], {})
