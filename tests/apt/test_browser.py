"""What people see in Prefect's UI, in a real browser: the run form, a run with its record.

Needs Debian's package `chromium`. Pages are kept under pytest's --basetemp, to be looked at.
"""

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tasks.request.sections import SECTIONS
from tests.kits.processes import ends_with_us, free_port, kill_tree
from tests.kits.server import eventually, prefect_server

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "deployments" / "demo" / "bunny_320x180.mp4"
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a fresh server with its UI, and of a worker."""
    home = tmp_path_factory.mktemp("service")
    port = free_port()
    edge = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SEEDVR2_", "PREFECT_"))}
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "SEEDVR2_WORK_DIR": str(home / "work"),
        "SEEDVR2_DEPLOYMENTS": "*=upscale/local",
        "SEEDVR2_SEGMENT_SECONDS": "0.05",
        "SEEDVR2_IMAGE": "seedvr2:test",
        "SEEDVR2_PUBLIC_URL": f"http://127.0.0.1:{edge}",
    }


@pytest.fixture(scope="module")
def api(environment: dict[str, str]) -> Iterator[httpx.Client]:
    """The server after `make deploy`, with a worker on the pool `local`."""
    with prefect_server(environment, ui=True) as client:
        deploy = [sys.executable, "-m", "deployments.deploy", "deploy"]
        subprocess.run(deploy, env=environment, cwd=ROOT, check=True, capture_output=True)
        start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
        tied = ends_with_us()
        worker = subprocess.Popen(
            [*start, "--type", "process"], env=environment, cwd=ROOT, preexec_fn=tied
        )
        port = environment["SEEDVR2_PUBLIC_URL"].rpartition(":")[2]
        root = f"{environment['SEEDVR2_WORK_DIR']}/output"
        serve = [sys.executable, "-m", "deployments.edge", "--port", port, "--root", root]
        edge = subprocess.Popen(serve, env=environment, cwd=ROOT, preexec_fn=tied)
        yield client
        for process in (worker, edge):
            kill_tree(process.pid)  # Prefect's worker does not always end on SIGTERM
            process.wait(60)


def deployment_id(api: httpx.Client) -> str:
    """Of upscale/local."""
    return api.get("/deployments/name/upscale/local").raise_for_status().json()["id"]


@pytest.fixture(scope="module")
def run(api: httpx.Client) -> dict[str, Any]:
    """A job that has come to its end."""
    asked = {"video_path": str(CLIP), "resolution": "720p", "model": "lanczos"}
    body = {"parameters": asked, "state": {"type": "SCHEDULED"}}
    found = ended_run(api, body)
    assert found["state"]["type"] == "COMPLETED", found["state"]
    return found


def ended_run(api: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """Create a run and wait for its end."""
    path = f"/deployments/{deployment_id(api)}/create_flow_run"
    job = api.post(path, json=body).raise_for_status().json()["id"]

    def ended() -> dict[str, Any] | None:
        found = api.get(f"/flow_runs/{job}").raise_for_status().json()
        return found if found["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    return eventually(ended, "the job's end")


def browse(api: httpx.Client, page: str, picture: Path, *, height: int = 1400) -> str:
    """Open a page of the UI, take its picture, return its text as HTML."""
    assert CHROMIUM is not None
    url = str(api.base_url).removesuffix("/").removesuffix("/api") + page
    profile = picture.with_suffix(".profile")
    common = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={profile}", f"--window-size=1400,{height}", "--virtual-time-budget=20000",
    ]  # fmt: skip
    quiet = {"capture_output": True, "text": True, "timeout": 180, "check": True}
    subprocess.run([*common, f"--screenshot={picture}", url], **quiet)  # type: ignore[call-overload]
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (height, 1400)
    assert len(np.unique(pixels)) > 16, f"{picture} shows nothing"
    return subprocess.run([*common, "--dump-dom", url], **quiet).stdout  # type: ignore[call-overload]


def test_the_form_offers_lists_and_help(api: httpx.Client, tmp_path: Path) -> None:
    page = f"/deployments/deployment/{deployment_id(api)}/run"
    seen = browse(api, page, tmp_path / "form.png", height=2200)
    text = html.unescape(re.sub(r"<[^>]*>", "", seen))
    words = ("Source: video_url", "Result: resolution", "Details: color_correction", "720p to 4k")
    for word in (*words, "http(s) address"):
        assert word in text, f"{word} is not on the form ({tmp_path})"
    places = [text.index(f"{heading}: {names[0]}") for heading, names in SECTIONS.items()]
    assert places == sorted(places), "the sections stand in the order of use"
    assert "None" not in text, "a switch between types stands in front of a field"


def test_a_runs_page_shows_its_tasks(
    api: httpx.Client, run: dict[str, Any], tmp_path: Path
) -> None:
    seen = browse(api, f"/runs/flow-run/{run['id']}", tmp_path / "run.png")
    assert run["name"] in seen.replace("-&gt;", "->")
    assert "Completed" in seen
    told = browse(api, f"/runs/flow-run/{run['id']}?tab=Details", tmp_path / "details.png")
    assert "1280x720, 75 frames" in told, "the state says what came out"


def test_a_job_of_many_segments_can_be_read(
    api: httpx.Client, run: dict[str, Any], tmp_path: Path
) -> None:
    """Its task runs are counted as people count, and the log has about a line for each."""
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    found = api.post("/task_runs/filter", json=of_run).raise_for_status().json()
    names = [one["name"] for one in found if one["name"].startswith("segment ")]
    assert len(names) >= 25
    assert set(names) == {f"segment {k} of {len(names)}" for k in range(1, len(names) + 1)}
    wanted = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200}
    lines = api.post("/logs/filter", json=wanted).raise_for_status().json()
    told = "\n".join(line["message"] for line in lines)
    assert len(lines) <= len(names) + 30, told
    seen = browse(api, f"/runs/flow-run/{run['id']}?tab=Task%20Runs", tmp_path / "tasks.png")
    assert f"of {len(names)}" in seen


def test_a_failed_runs_page_has_one_sentence_and_no_traceback(
    api: httpx.Client, tmp_path: Path
) -> None:
    for number, asked in enumerate(({}, {"video_url": "http://127.0.0.1:9/clip.mp4"})):
        failed = ended_run(api, {"parameters": asked})
        assert failed["state"]["type"] == "FAILED"
        seen = html.unescape(browse(api, f"/runs/flow-run/{failed['id']}", tmp_path / "f.png"))
        words = "exactly one source is needed" if not number else "leads to port 9 of 127.0.0.1"
        assert words in seen, f"{words} is not on the page ({tmp_path})"
        wanted = {"logs": {"flow_run_id": {"any_": [failed["id"]]}}}
        lines = api.post("/logs/filter", json=wanted).raise_for_status().json()
        assert not [line for line in lines if "Traceback" in line["message"]]


def test_deployments_are_told_apart_by_their_names(api: httpx.Client, tmp_path: Path) -> None:
    seen = browse(api, "/deployments", tmp_path / "deployments.png")
    for word in ("auto", "lost-runs", "local"):
        assert word in seen, f"{word} is not on the page ({tmp_path})"
    found = api.post("/deployments/filter", json={}).json()
    names = [one["name"] for one in found if "upscale_part" not in one["entrypoint"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("upscale-progress", ["done: 75 of 75 frames", "bunny_320x180_720p_", "100%"]),
        (
            "upscale-result",
            [
                *("bunny_320x180_720p_", "1280x720, 75 frames", "engine lanczos"),
                *("filename", "segments_reused", 'alt="before and after"', ">report</a>"),
            ],
        ),
    ],
)
def test_an_artifacts_page_tells(
    api: httpx.Client, run: dict[str, Any], tmp_path: Path, key: str, words: list[str]
) -> None:
    wanted = {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": [key]}}
    found = api.post("/artifacts/filter", json={"artifacts": wanted}).raise_for_status().json()
    seen = browse(api, f"/artifacts/artifact/{found[0]['id']}", tmp_path / "artifact.png")
    for word in words:
        assert word in html.unescape(seen), f"{word} is not on the page ({tmp_path})"
