"""`make pools` and `make deploy` against a fresh Prefect server, and what that does by itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.kits.containers.stand_in import engine_without_images
from tests.kits.deployed import (
    OPERATORS,
    deployments,
    everything,
    post,
    resume,
    runs_of,
    set_by_an_operator,
)
from tests.kits.processes import free_port
from tests.kits.server import Alerts, eventually, prefect_server

ROOT = Path(__file__).parents[3]
URL = "https://example.org/clip.mp4"
CALLBACK_SECRET = "a-callback-secret-of-the-site"
IMAGE = "registry.example.org/seedvr2:0123456789ab"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def alerts() -> Iterator[Alerts]:
    """The receiver of this module's alerts."""
    alerts = Alerts()
    yield alerts
    alerts.close()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, alerts: Alerts) -> dict[str, str]:
    """The environment of a fresh server and of the commands that use it."""
    port = free_port()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SEEDVR2_")},
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_ENABLED": "0",
        "SEEDVR2_IMAGE": IMAGE,
        "SEEDVR2_ALERT_URL": alerts.url,
        "SEEDVR2_CALLBACK_SECRET": CALLBACK_SECRET,
    }


@pytest.fixture(scope="module")
def api(environment: dict[str, str]) -> Iterator[httpx.Client]:
    """A fresh server with all its services; a client of its REST API."""
    with prefect_server(environment) as client:
        yield client


def command(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run what `make pools` or `make deploy` runs."""
    return subprocess.run(
        [sys.executable, "-m", "deployments.deploy", name],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def deployed(api: httpx.Client, environment: dict[str, str]) -> httpx.Client:
    """The server after the first `make deploy`."""
    done = command("deploy", environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deployment route/auto created" in done.stdout + done.stderr
    return api


def test_a_fresh_server_gets_all_of_it(deployed: httpx.Client) -> None:
    there = everything(deployed)
    pools = {name: pool["type"] for name, pool in there["work_pools"].items()}
    assert pools == {"h100": "docker", "h200": "docker", "cpu": "process", "local": "process"}
    names = {
        *("upscale/h100", "upscale/h200", "upscale/local", "upscale/coding"),
        *("upscale-part/h100", "upscale-part/h200", "upscale-part/local"),
        *("route/auto", "recover/lost-runs", "fetch-source/cpu"),
    }
    assert set(there["deployments"]) == names
    for name, item in there["deployments"].items():
        assert "seedvr2" in item["tags"], name
        assert item["description"], name
        assert item["pull_steps"] in (None, []), name
        assert item["enforce_parameter_schema"], name
        assert item["entrypoint"].startswith("flows."), name
    schedules = {name: len(item["schedules"]) for name, item in there["deployments"].items()}
    assert schedules == dict.fromkeys(names, 0) | {"recover/lost-runs": 1}
    for name in ("upscale/h200", "upscale-part/h200"):
        assert there["deployments"][name]["job_variables"]["image"] == IMAGE
    queues = post(deployed, "/work_pools/h100/queues/filter")
    order = [q["name"] for q in sorted(queues, key=lambda queue: queue["priority"])]
    assert order == ["high", "default", "low", "parts"], "a free worker takes a job first"
    assert there["deployments"]["upscale-part/h100"]["work_queue_name"] == "parts"
    assert len(there["automations"]) == 6
    assert all(item["enabled"] for item in there["automations"].values())


def test_the_form_has_lists_defaults_and_help(deployed: httpx.Client) -> None:
    for name in ("upscale/h100", "upscale/local", "route/auto"):
        fields = deployments(deployed)[name]["parameter_openapi_schema"]["properties"]
        examples = fields["resolution"]["examples"]
        assert examples[:5] == ["720p", "1080p", "2k", "4k", "short:720"]
        assert fields["resolution"]["default"] == "1080p"
        for field in ("model", "stitch_mode", "color_correction", "preset"):
            assert len(fields[field]["enum"]) > 1, field
        assert all(field.get("description") for field in fields.values()), name
    asked = deployments(deployed)["recover/lost-runs"]["parameter_openapi_schema"]
    assert (list(asked["properties"]), asked.get("required")) == (["run_id"], None)


def test_the_schedule_makes_runs_that_look_for_lost_ones(deployed: httpx.Client) -> None:
    """Prefect's scheduler fails in silence where a dependency of its server is too new."""

    def scheduled() -> list[dict[str, Any]]:
        runs = runs_of(deployed, "recover/lost-runs")
        return [run["parameters"] for run in runs if run["auto_scheduled"]]

    assert eventually(scheduled, "a scheduled run", seconds=120)[0] == {}


def leave_what_the_last_version_made(api: httpx.Client) -> None:
    """A deployment with its old name, and an automation that is gone."""
    flow_id = deployments(api)["recover/lost-runs"]["flow_id"]
    post(api, "/deployments/", {"name": "auto", "flow_id": flow_id})
    trigger = {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1, "within": 0}
    post(
        api,
        "/automations/",
        {
            "name": "seedvr2: heartbeat lost -> Crashed",
            "trigger": trigger,
            "actions": [{"type": "do-nothing"}],
        },
    )


def test_once_more_changes_nothing_that_an_operator_set(
    deployed: httpx.Client, environment: dict[str, str]
) -> None:
    deployed.patch("/work_pools/h100", json={"concurrency_limit": 3, "is_paused": True})
    late = everything(deployed)["automations"]["seedvr2: late run -> alert"]["id"]
    deployed.patch(f"/automations/{late}", json={"enabled": False})
    set_by_an_operator(deployed)
    before = everything(deployed)
    leave_what_the_last_version_made(deployed)
    done = command("deploy", environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deployment route/auto is up to date" in done.stdout + done.stderr
    after = everything(deployed)
    for kind, items in before.items():
        assert set(after[kind]) == set(items)
        assert len(post(deployed, f"/{kind}/filter")) == len(items)
    for kind in ("work_pools", "deployments"):
        assert {n: i["id"] for n, i in after[kind].items()} == {
            n: i["id"] for n, i in before[kind].items()
        }
    pool = after["work_pools"]["h100"]
    assert (pool["concurrency_limit"], pool["is_paused"]) == (3, True)
    assert len(after["deployments"]["recover/lost-runs"]["schedules"]) == 1
    assert not after["automations"]["seedvr2: late run -> alert"]["enabled"]
    deployed.patch(f"/automations/{late}", json={"enabled": True})
    assert pool["base_job_template"] == before["work_pools"]["h100"]["base_job_template"]
    for name in ("upscale/h100", "recover/lost-runs"):
        told = {key: after["deployments"][name][key] for key in OPERATORS}
        assert told == {key: before["deployments"][name][key] for key in OPERATORS}, name
    assert not after["deployments"]["recover/lost-runs"]["schedules"][0]["active"]
    for told in (
        "kept mem_limit = '200g'",
        "kept TZ in the environment",
        "kept concurrency_limit, env, ",
    ):
        assert told in done.stderr
    resume(deployed)


def test_the_sites_keys_are_in_secret_blocks_and_pools_refer_to_them(
    deployed: httpx.Client,
) -> None:
    for pool in ("h100", "cpu"):
        template = deployed.get(f"/work_pools/{pool}").json()["base_job_template"]
        given = template["variables"]["properties"]["env"]["default"]
        reference = "{{ prefect.blocks.secret.seedvr2-callback-secret }}"
        assert given["SEEDVR2_CALLBACK_SECRET"] == reference
        assert CALLBACK_SECRET not in json.dumps(template)
    block = "/block_types/slug/secret/block_documents/name/seedvr2-callback-secret"
    found = deployed.get(block, params={"include_secrets": True}).json()
    assert found["data"]["value"] == CALLBACK_SECRET


def test_a_plain_prefect_deploy_leaves_a_good_site_as_it_is(
    deployed: httpx.Client, environment: dict[str, str]
) -> None:
    plain = {k: v for k, v in environment.items() if k != "SEEDVR2_IMAGE"}
    before = everything(deployed)["deployments"]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        env=plain,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode != 0
    assert "SEEDVR2_IMAGE is not set" in done.stdout + done.stderr
    assert "make deploy" in done.stdout + done.stderr
    after = everything(deployed)["deployments"]
    updated = {name for name, item in after.items() if item["updated"] != before[name]["updated"]}
    assert not updated & {"upscale/h100", "upscale/h200"}
    assert after["upscale/h100"]["job_variables"]["image"] == IMAGE


def send(api: httpx.Client, name: str, resource: dict[str, str], **more: object) -> None:
    """POST an event, as a webhook's sender does."""
    event = {"event": name, "resource": resource, "id": str(uuid4()), **more}
    post(api, "/events", [{"occurred": datetime.now(UTC).isoformat(), **event}])


def request_event(api: httpx.Client, label: str, /, **payload: object) -> None:
    """Ask for a job by an event."""
    resource = {"prefect.resource.id": f"upscale.request.{uuid4()}", "resolution": label}
    send(api, "upscale.requested", resource, payload=payload)


def test_an_event_starts_a_job_on_the_right_pool_with_typed_parameters(
    deployed: httpx.Client,
) -> None:
    large = {"video_url": URL + "?large", "seed": 7, "fresh": True, "resolution": "720p"}
    request_event(deployed, "4K", **large)
    request_event(deployed, "720p", video_url=URL + "?small", temporal_overlap=8)
    request_event(deployed, "1.5X", video_url=URL + "?own")
    for name, expected in (
        ("route/auto", {"video_url": URL + "?own", "resolution": "1.5x"}),
        ("upscale/h200", large | {"resolution": "4k"}),
        ("upscale/h100", {"video_url": URL + "?small", "temporal_overlap": 8}),
    ):
        runs = eventually(lambda name=name: runs_of(deployed, name), f"a job on {name}")
        assert len(runs) == 1
        assert runs[0]["parameters"].items() >= expected.items()
        pool = "cpu" if name == "route/auto" else name.removeprefix("upscale/")
        assert runs[0]["work_pool_name"] == pool
        assert runs[0]["state_type"] == "SCHEDULED"
    assert runs_of(deployed, "upscale/h100")[0]["parameters"]["resolution"] == "720p"


def test_only_known_scalars_of_an_event_become_parameters_and_none_is_a_template(
    deployed: httpx.Client,
) -> None:
    taken = {"video_url": URL + "?{{ event.id }}", "crf": 20, "fresh": False, "preset": "fast"}
    template = {"__prefect_kind": "jinja", "template": "{{ event.resource }}"}
    request_event(
        deployed,
        "2k",
        **taken,
        seed=template,
        model=["lanczos"],
        temporal_overlap=None,
        unknown="x",
        __prefect_kind="jinja",
        template="{{ event.id }}",
    )

    def made() -> list[dict[str, Any]]:
        runs = runs_of(deployed, "upscale/h200")
        return [r["parameters"] for r in runs if r["parameters"]["video_url"] == taken["video_url"]]

    assert eventually(made, "a job", seconds=60)[0] == taken | {"resolution": "2k"}


def test_a_bad_event_starts_nothing_and_leaves_a_trace(deployed: httpx.Client) -> None:
    before = len(runs_of(deployed, "upscale/h200"))
    request_event(deployed, "2k", video_url=URL, seed="not a number")
    failed = {"filter": {"event": {"name": ["prefect.automation.action.failed"]}}}
    events = eventually(lambda: post(deployed, "/events/filter", failed)["events"], "the refusal")
    assert "seed" in json.dumps(events[0]["payload"])
    assert len(runs_of(deployed, "upscale/h200")) == before


def running_job(api: httpx.Client) -> UUID:
    """Create a run of upscale/local in the state Running."""
    made = post(
        api,
        f"/deployments/{deployments(api)['upscale/local']['id']}/create_flow_run",
        {"parameters": {"video_url": URL}, "name": 'a "quoted" name'},
    )
    state = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
    post(api, f"/flow_runs/{made['id']}/set_state", state)
    return UUID(made["id"])


def of_upscale(api: httpx.Client) -> list[dict[str, str]]:
    """How Prefect's events of a run name its flow."""
    flow_id = deployments(api)["upscale/local"]["flow_id"]
    return [
        {
            "prefect.resource.id": f"prefect.flow.{flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": "upscale",
        }
    ]


def test_a_crashed_run_starts_recover(deployed: httpx.Client) -> None:
    run_id = running_job(deployed)
    post(deployed, f"/flow_runs/{run_id}/set_state", {"state": {"type": "CRASHED"}})
    asked = {"run_id": str(run_id)}
    eventually(
        lambda: asked in [run["parameters"] for run in runs_of(deployed, "recover/lost-runs")],
        "a run of recover",
    )


def test_alerts_are_posted(deployed: httpx.Client, alerts: Alerts) -> None:
    run_id = running_job(deployed)
    run = {
        "prefect.resource.id": f"prefect.flow-run.{run_id}",
        "prefect.resource.name": 'a "quoted" name',
    }
    send(deployed, "prefect.flow-run.Late", run, related=of_upscale(deployed))
    pool = {"prefect.resource.id": f"prefect.work-pool.{uuid4()}", "prefect.resource.name": "h200"}
    send(deployed, "prefect.work-pool.not-ready", pool)
    expected = [
        {"text": 'seedvr2: run a "quoted" name is late: no worker took it'},
        {"text": "seedvr2: work pool h200 has no worker"},
    ]
    eventually(lambda: all(text in alerts.bodies for text in expected), f"alerts: {alerts.bodies}")


@pytest.mark.soak
def test_a_process_worker_runs_a_deployed_flow(
    deployed: httpx.Client, environment: dict[str, str]
) -> None:
    """The module entrypoint, with no pull step, in the environment that the template sets."""
    route = deployments(deployed)["route/auto"]["id"]
    asked = {"parameters": {"video_url": URL + "?routed", "resolution": "2k"}}
    made = post(deployed, f"/deployments/{route}/create_flow_run", asked)
    subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--run-once"],
        env=environment,
        capture_output=True,
        timeout=200,
        check=True,
    )
    ended = deployed.get(f"/flow_runs/{made['id']}").json()
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert ended["state"]["message"].endswith(" on upscale/h200")
    jobs = [r for r in runs_of(deployed, "upscale/h200") if r["idempotency_key"]]
    routed = [r for r in jobs if r["idempotency_key"] == f"route:{made['id']}"]
    assert [run["parameters"]["video_url"] for run in routed] == [URL + "?routed"]


@pytest.mark.soak
def test_a_gpu_worker_that_names_no_gpu_runs_nothing_and_says_why(
    deployed: httpx.Client, environment: dict[str, str]
) -> None:
    """The docker worker itself: it gives up before it asks an engine for anything."""
    deployed.patch("/work_pools/h100", json={"is_paused": False})
    path = f"/deployments/{deployments(deployed)['upscale/h100']['id']}/create_flow_run"
    made = post(deployed, path, {"parameters": {"video_url": URL, "resolution": "720p"}})
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "h100"]
    with engine_without_images() as engine:
        volumes = {"SEEDVR2_WORK_VOLUME": "work", "SEEDVR2_WEIGHTS_VOLUME": "weights"}
        subprocess.run(
            [*worker, "--type=docker", "--run-once"],
            env=environment | volumes | {"DOCKER_HOST": engine},
            capture_output=True,
            timeout=200,
        )
    ended = deployed.get(f"/flow_runs/{made['id']}").json()
    assert ended["state_type"] == "CRASHED", ended["state"]
    assert "SEEDVR2_GPU" in ended["state"]["message"]


def test_without_a_server_the_command_says_so(environment: dict[str, str]) -> None:
    nowhere = environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = command("pools", nowhere)
    assert (done.returncode, "no Prefect server answers" in done.stderr) == (2, True)
    del nowhere["PREFECT_API_URL"]
    done = command("deploy", nowhere)
    assert (done.returncode, "PREFECT_API_URL is not set" in done.stderr) == (2, True)
