"""The gateway: real uvicorn on loopback, a real Prefect server behind it, runs in every state."""

from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from tasks.run.routing import route_key
from tasks.settings import Settings
from tests.kits.http.gateway import (
    PLANNED,
    URL,
    VIDEO,
    intake_files,
    job_run,
    record_progress,
    record_result,
    set_state,
    submit,
)

pytestmark = pytest.mark.usefixtures("on_the_server")


@pytest.mark.parametrize(
    ("resolution", "gpu", "pool"),
    [
        ("720p", "H100", "h100"),
        ("1080P", "H100", "h100"),
        ("2K", "H200", "h200"),
        ("short:1440", "H200", "h200"),
        ("2X", "H200", "h200"),  # nobody knows how large the video at an address is
        ("1920x1080", "H100", "h100"),
    ],
)
def test_a_job_is_created_on_the_deployment_for_its_resolution(
    client: httpx.Client, resolution: str, gpu: str, pool: str
) -> None:
    answer = client.post("/upscale", json={"video_url": URL, "resolution": resolution, "seed": 7})
    told = answer.json()
    assert (answer.status_code, told["status"], told["gpu_type"]) == (202, "pending", gpu)
    run = job_run(told["job_id"])
    assert run.work_pool_name == pool
    wanted = {"video_url": URL, "resolution": resolution.lower(), "seed": 7}
    assert wanted.items() <= run.parameters.items()


def test_the_largest_seed_arrives_as_it_is(client: httpx.Client) -> None:
    assert job_run(submit(client, seed=2**64 - 1)).parameters["seed"] == 2**64 - 1


def test_the_old_wavelet_is_auto_and_the_answer_says_so(client: httpx.Client) -> None:
    old = {
        "video_url": URL,
        "model": "seedvr2_ema_7b_fp16.safetensors",
        "color_correction": "wavelet",
    }
    told = client.post("/upscale", json=old).json()
    assert "wavelet" in told["notes"][0]
    parameters = job_run(told["job_id"]).parameters
    assert (parameters["color_correction"], parameters["model"]) == ("auto", "seedvr2-7b")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "exactly one source"),
        ({"video_url": URL, "video_base64": "AAAA"}, "exactly one source"),
        ({"video_url": URL, "resolution": "8k"}, "resolution"),
        ({"video_url": URL, "frames": 3}, "frames"),
        ({"video_url": "ftp://example.org/a.mp4"}, "ftp"),
        ({"video_url": "http://user:pw@example.org/a"}, "user name"),
        ({"video_url": "upload:nonsense"}, "upload"),
        ({"video_url": f"upload:{'0' * 64}/a.mp4"}, "no upload"),
        ({"video_path": "/etc/passwd"}, "local files are off"),
        ({"video_base64": "not base64!"}, "not base64"),
        ({"video_url": URL, "batch_size": 0}, "batch_size"),
    ],
)
def test_a_bad_request_is_refused_in_words(
    client: httpx.Client, settings: Settings, fields: dict[str, object], named: str
) -> None:
    before = intake_files(settings)
    answer = client.post("/upscale", json=fields)
    assert (answer.status_code, named in answer.json()["detail"]) == (422, True), answer.text
    assert not [name for name in intake_files(settings) if name.endswith(".part")]
    assert len(intake_files(settings)) - len(before) in (0, 1)


def test_the_same_key_gives_the_same_job(client: httpx.Client) -> None:
    key = {"Idempotency-Key": f"order-{uuid4()}"}
    body = {"video_url": URL, "resolution": "2k"}
    first, again = (client.post("/upscale", json=body, headers=key) for _ in range(2))
    assert first.json()["job_id"] == again.json()["job_id"]
    for changed in ({**body, "seed": 5}, {"video_url": URL}, {**body, "video_url": f"{URL}?b"}):
        other = client.post("/upscale", json=changed, headers=key)
        assert (other.status_code, first.json()["job_id"] in other.text) == (409, True)
    key = {"Idempotency-Key": f"order-{uuid4()}"}
    client.post("/upscale", json={**body, "seed": 5}, headers=key)
    assert client.post("/upscale", json=body, headers=key).status_code == 409
    assert submit(client) != submit(client)


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        (StateType.SCHEDULED, "Scheduled", "pending"),
        (StateType.SCHEDULED, "Late", "pending"),
        (StateType.SCHEDULED, "AwaitingRetry", "pending"),
        (StateType.PENDING, "Pending", "pending"),
        (StateType.RUNNING, "Running", "processing"),
        (StateType.CANCELLING, "Cancelling", "processing"),
        (StateType.COMPLETED, "Completed", "completed"),
        (StateType.FAILED, "Failed", "failed"),
        (StateType.FAILED, "TimedOut", "failed"),
        (StateType.CRASHED, "Crashed", "failed"),
        (StateType.CANCELLED, "Cancelled", "cancelled"),
    ],
)
def test_every_state_has_its_word(
    client: httpx.Client, kind: StateType, name: str, status: str
) -> None:
    job = submit(client)
    set_state(job, kind, name, message="what happened")
    told = client.get(f"/status/{job}").json()
    assert (told["job_id"], told["status"], told["state"]) == (job, status, name)
    ended_badly = status in ("failed", "cancelled")
    assert told["error"] == ("what happened" if ended_badly else None)
    assert job in [
        j["job_id"] for j in client.get("/jobs", params={"status": status}).json()["jobs"]
    ]


def test_a_job_that_has_left_its_worker_says_for_what_it_waits(client: httpx.Client) -> None:
    job = submit(client)
    for message, told in (("waiting for job 1 (a.mp4)", "job 1 (a.mp4)"), ("re-queued", None)):
        set_state(job, StateType.SCHEDULED, "AwaitingRetry", message=message)
        assert client.get(f"/status/{job}").json()["waiting_for"] == told


def test_a_crashed_job_is_at_work_while_a_recovery_remains(client: httpx.Client) -> None:
    """The last one is counted before it begins: meanwhile the run is being brought back."""
    told = ((0, False), "processing"), ((1, False), "processing"), ((2, False), "failed")
    for (recoveries, recovering), status in (*told, ((2, True), "processing")):
        job = submit(client)
        labels = {"recoveries": recoveries, "recovering": recovering}
        with get_client(sync_client=True) as prefect:
            prefect.update_flow_run_labels(UUID(job), labels)
        set_state(job, StateType.CRASHED)
        assert client.get(f"/status/{job}").json()["status"] == status


def test_progress_and_result_are_read_from_artifacts(client: httpx.Client) -> None:
    job = submit(client)
    assert client.get(f"/status/{job}").json()["progress"] == 0
    set_state(job, StateType.RUNNING)
    record_progress(job, 12.5, "load")
    record_progress(job, 42.5, "restore")  # a second attempt's
    told = client.get(f"/status/{job}").json()
    assert (told["progress"], told["phase"], told["download_url"]) == (42.5, "restore", None)
    record_result(job)
    set_state(job, StateType.COMPLETED)
    told = client.get(f"/status/{job}").json()
    assert (told["status"], told["progress"]) == ("completed", 100)
    assert told["download_url"] == "https://cdn.example/clip_1080p_abc.mp4"
    assert (told["filename"], told["input_size_mb"]) == ("clip_1080p_abc.mp4", 1.5)
    assert (told["output_size_mb"], told["notes"]) == (12.25, ["a note"])
    assert told["elapsed_seconds"] >= 0
    assert told["gpu_type"] == "H100"


@pytest.mark.parametrize(
    "job_id", ["nonsense", "00000000-0000-4000-8000-000000000000", "1", "%2e%2e"]
)
def test_an_unknown_id_is_not_found(client: httpx.Client, job_id: str) -> None:
    assert client.get(f"/status/{job_id}").status_code == 404
    assert client.post(f"/cancel/{job_id}").status_code == 404


def test_the_run_of_another_flow_is_no_job(client: httpx.Client) -> None:
    from prefect import flow

    @flow(name="another")
    def another() -> None:
        """Does nothing."""

    with get_client(sync_client=True) as prefect:
        run = prefect.create_flow_run(another)
    assert client.get(f"/status/{run.id}").status_code == 404


def test_the_id_of_a_route_run_gives_its_job(client: httpx.Client) -> None:
    from flows.route import route

    with get_client(sync_client=True) as prefect:
        routed = prefect.create_flow_run(route, parameters={"video_url": URL})
        assert client.get(f"/status/{routed.id}").json()["job_id"] == str(routed.id)
        deployment = prefect.read_deployment_by_name("upscale/h200")
        job = prefect.create_flow_run_from_deployment(
            deployment.id, parameters={"video_url": URL}, idempotency_key=route_key(routed.id)
        )
    assert client.get(f"/status/{routed.id}").json()["job_id"] == str(job.id)


def test_cancel(client: httpx.Client) -> None:
    waiting, running, done = submit(client), submit(client), submit(client)
    told = client.post(f"/cancel/{waiting}")
    assert (told.status_code, told.json()["status"]) == (200, "cancelled")
    assert client.post(f"/cancel/{waiting}").status_code == 200
    with get_client(sync_client=True) as prefect:
        prefect.update_flow_run(UUID(running), infrastructure_pid="host:1")
    set_state(running, StateType.RUNNING)
    assert client.post(f"/cancel/{running}").json()["state"] == "Cancelling"
    set_state(done, StateType.COMPLETED)
    assert client.post(f"/cancel/{done}").status_code == 409


def test_jobs_come_newest_first_in_pages(client: httpx.Client) -> None:
    made = [submit(client) for _ in range(3)][::-1]
    listed = client.get("/jobs", params={"limit": 2}).json()
    assert [job["job_id"] for job in listed["jobs"]] == made[:2]
    rest = client.get("/jobs", params={"limit": 1, "offset": 2}).json()
    assert [job["job_id"] for job in rest["jobs"]] == made[2:]
    assert client.get("/jobs", params={"limit": 0}).status_code == 422
    assert client.get("/jobs", params={"status": "lost"}).status_code == 422


def test_a_sent_video_goes_where_its_pixels_come_out(
    client: httpx.Client, settings: Settings, demo_clip: Path
) -> None:
    """The demo clip has 320x180. What is too large for all is refused, and nothing is kept."""
    content, before = demo_clip.read_bytes(), intake_files(settings)
    for resolution, pool in (("4x", "h100"), ("12x", "h200"), ("1920x1920", "h100")):
        answer = client.put("/upscale/a.mp4", params={"resolution": resolution}, content=content)
        assert answer.status_code == 202, answer.text
        assert answer.json()["deployment"] == f"upscale/{pool}"
        assert job_run(answer.json()["job_id"]).parameters["resolution"] == resolution
    refused = client.put("/upscale/b.mp4", params={"resolution": "8000x8000"}, content=content)
    assert refused.status_code == 422
    assert "8000x4500, 36000000 pixels; at most 33177600" in refused.json()["detail"]
    assert len(intake_files(settings)) == len(before) + 1


def test_plan_is_arithmetic(client: httpx.Client) -> None:
    told = client.get("/plan", params={"width": 320, "height": 180, "resolution": "4K"}).json()
    assert (told["width"], told["height"], told["deployment"]) == (3840, 2160, "upscale/h200")
    assert (told["model_width"], told["model_height"], told["notes"]) == (3840, 2192, [])
    small = client.get("/plan", params={"width": 1920, "height": 1080, "resolution": "720p"})
    assert "scaled down" in small.json()["notes"][0]
    pal = client.get("/plan", params={"width": 640, "height": 480, "resolution": "720p"}).json()
    assert (pal["width"], pal["height"]) == (1108, 832)
    assert "short:720 makes it 960x720" in pal["notes"][0]
    pal = client.get(
        "/plan", params={"width": 640, "height": 480, "resolution": "short:720"}
    ).json()
    assert (pal["width"], pal["height"], pal["notes"]) == (960, 720, [])
    for resolution, size, name in (
        ("2x", (1280, 960), "h100"),
        ("1280x720", (960, 720), "h100"),
        ("4x", (2560, 1920), "h200"),
    ):
        asked = {"width": 640, "height": 480, "resolution": resolution}
        told = client.get("/plan", params=asked).json()
        assert (told["width"], told["height"]) == size
        assert told["deployment"] == f"upscale/{name}"
    large = client.get("/plan", params={"width": 1920, "height": 1080, "resolution": "8x"})
    assert large.status_code == 422
    assert "15360x8640, 132710400 pixels" in large.json()["detail"]
    assert client.get("/plan", params={"width": 0, "height": 180}).status_code == 422
    assert (
        client.get("/plan", params={"width": 9, "height": 9, "resolution": "8k"}).status_code == 422
    )


def test_health_needs_no_token(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_job_says_what_it_makes_and_of_what(client: httpx.Client) -> None:
    job = submit(client, video_url=f"{URL}?token=secret", model="span")
    told = client.get(f"/status/{job}").json()
    assert (told["source_name"], told["engine"]) == ("clip.mp4", "span")
    assert (told["width"], told["height"], told["frames"]) == (None, None, None)
    record_progress(job, 10, job=PLANNED)
    told = client.get(f"/status/{job}").json()
    assert (told["engine"], told["input_size_mb"]) == ("lanczos", 1.5)
    assert (told["width"], told["height"], told["frames"]) == (1920, 1080, 75)
    record_progress(job, 20, job='{"of": "a newer version"}')
    assert client.get(f"/status/{job}").json()["engine"] == "span"
    record_result(job, engine="lanczos", width=1918, height=1080, frames=74)
    told = client.get(f"/status/{job}").json()
    assert (told["engine"], told["width"], told["frames"]) == ("lanczos", 1918, 74)


def test_the_source_of_an_upload_has_the_name_it_was_sent_with(client: httpx.Client) -> None:
    told = client.put("/upscale/my%20clip.mp4", content=VIDEO).json()
    assert client.get(f"/status/{told['job_id']}").json()["source_name"] == "my clip.mp4"


def test_a_waiting_job_says_how_many_are_in_front(client: httpx.Client) -> None:
    first, second, elsewhere, third = (
        submit(client, resolution=name) for name in ("4k", "4k", "720p", "4k")
    )
    before = client.get(f"/status/{first}").json()["position"]
    listed = {j["job_id"]: j["position"] for j in client.get("/jobs").json()["jobs"]}
    assert [listed[job] for job in (first, second, third)] == [before, before + 1, before + 2]
    assert listed[elsewhere] != before + 2, "another pool has a queue of its own"
    set_state(second, StateType.RUNNING)
    assert client.get(f"/status/{second}").json()["position"] is None
    assert client.get(f"/status/{third}").json()["position"] == before + 1
