"""Jobs in containers for real: Docker's engine, our image, a worker on the host, a Prefect server.

There is no GPU here, so that the pool's template is applied without its request for one; all else
is as shipped. One test makes the request and reads how it is refused.
"""

import contextlib
import json
import os
import re
from pathlib import Path

import pytest

from deployments.deploy.apply import pool_template
from tests.kits.containers.docker_host import USER, DockerHost
from tests.kits.containers.engine import Engine
from tests.kits.containers.image import IMAGE, SECRET_FILES
from tests.kits.processes import mounted
from tests.kits.server import eventually

INSTALLED = """
import importlib.metadata, json
found = {one.name: one.version for one in importlib.metadata.distributions()}
del found["seedvr2-prefect"]
print(json.dumps(found))
"""
pytestmark = [pytest.mark.apt, pytest.mark.timeout(2400)]


def test_the_image_is_what_it_says(docker: Engine) -> None:
    found = docker.client.images.get(IMAGE)
    assert found.attrs["Config"]["User"] == str(USER)
    assert not found.attrs["Config"]["Volumes"], "unnamed volumes would be left behind"
    assert docker.run(IMAGE, "id", "-u") == str(USER)
    # The CPU's build of torch, Triton, gcc, and a base of Debian's: a tenth more than measured.
    assert found.attrs["Size"] < 3.4e9, found.attrs["Size"]
    bill = json.loads(docker.run(IMAGE, "cat", "/opt/seedvr2/sbom.cdx.json"))
    versions = {part["name"]: part["version"] for part in bill["components"]}
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "seedvr2-prefect",
    )
    installed = json.loads(docker.run(IMAGE, "python", "-c", INSTALLED))
    assert installed.items() <= versions.items()
    assert len(installed) > 100
    listed = docker.run(IMAGE, "find", "/opt/seedvr2/src", "-name", "*.env*")
    for secret in SECRET_FILES:
        assert Path(secret).name not in [Path(line).name for line in listed.splitlines()]
    writable = docker.run(
        *(IMAGE, "find", "/opt", "/usr", "-writable", "-not", "-type", "l", "-print"),
        options=("--user", str(USER)),
    )
    assert writable == ""


def test_a_job_runs_to_its_end_and_its_container_is_gone(host: DockerHost) -> None:
    run = host.submit("/long.mp4")
    attributes = host.container_at_work(run).attrs
    assert attributes["Config"]["User"] == str(USER)
    assert attributes["HostConfig"]["ReadonlyRootfs"]
    assert attributes["HostConfig"]["CapDrop"] == ["ALL"]
    assert attributes["HostConfig"]["LogConfig"]["Config"]["max-size"] == "20m"
    state = host.end_of(run)
    assert state["type"] == "COMPLETED", state
    host.all_gone()
    assert list((host.work / "output").glob("*.mp4"))
    # What it wrote is in Prefect, and in the worker's own log.
    assert "segment" in host.logs(run)
    assert host.logs(run).splitlines()[-1] in host.told()


def test_cancel_ends_the_container(host: DockerHost) -> None:
    run = host.submit("/long.mp4")
    host.container_at_work(run)
    host.cancel(run)
    assert host.end_of(run)["type"] == "CANCELLED"
    host.all_gone()


def test_a_container_that_is_killed_is_told_at_once(host: DockerHost) -> None:
    run = host.submit("/long.mp4")
    host.container_at_work(run).kill()
    state = host.end_of(run)
    assert state["type"] == "CRASHED"
    assert "137" in state["message"]
    host.all_gone()


def test_the_memory_limit_is_told(host: DockerHost) -> None:
    run = host.submit("/long.mp4", mem_limit="250m")
    state = host.end_of(run)
    assert state["type"] in ("CRASHED", "FAILED")
    told = "137" if state["type"] == "CRASHED" else "SIGKILL .+ because memory ran out"
    assert re.search(told, state["message"]), state["message"]
    host.all_gone()


def test_a_job_outlives_its_worker(host: DockerHost) -> None:
    run = host.submit("/long.mp4")
    host.container_at_work(run)
    host.kill_worker()
    host.start_worker()
    assert host.end_of(run)["type"] == "COMPLETED"
    host.all_gone()
    second = host.submit()
    assert host.end_of(second)["type"] == "COMPLETED", "the new worker takes new runs"


def test_a_disk_that_fills_up_stops_the_job_and_the_same_request_goes_on(host: DockerHost) -> None:
    host.kill_worker()
    with mounted(host.folder / "small", size="400m") as small:
        os.chown(small, USER, USER)
        host.start_worker(SEEDVR2_WORK_VOLUME=str(small))
        run = host.submit("/long.mp4", crf=20)
        host.container_at_work(run)
        eventually(
            lambda: len(list(small.glob("jobs/*/segments/[0-9]*.json"))) >= 2, "two segments"
        )
        others = fill(small)
        state = host.end_of(run)
        assert state["type"] == "FAILED"
        assert "make room and run" in state["message"], state["message"]
        assert "finished segments are kept" in state["message"]
        host.all_gone()
        kept = [path.name for path in small.glob("jobs/*/segments/[0-9]*.json")]
        assert not list(small.glob("output/*"))
        others.unlink()
        again = host.submit("/long.mp4", crf=20)
        assert host.end_of(again)["type"] == "COMPLETED", host.logs(again)
        (result,) = small.glob("jobs/*/result.json")
        assert json.loads(result.read_text())["segments_reused"] >= len(kept) >= 2
        host.all_gone()
        host.kill_worker()
    host.start_worker()


def fill(folder: Path) -> Path:
    """Take all room of a file system, as files of others do; returns the file that has it."""
    others = folder / "of-others"
    with others.open("wb") as file, contextlib.suppress(OSError):
        while file.write(bytes(2**16)):
            file.flush()
    return others


def test_a_host_without_the_nvidia_runtime_says_so(host: DockerHost) -> None:
    shipped = pool_template("h100")["job_configuration"]["container_create_kwargs"]
    pool = host.server.client.get("/work_pools/h100").json()
    before = json.dumps(pool["base_job_template"])
    template = json.loads(before)
    template["job_configuration"]["container_create_kwargs"] = shipped
    changed = host.server.client.patch("/work_pools/h100", json={"base_job_template": template})
    assert changed.is_success
    try:
        state = host.end_of(host.submit())
    finally:
        host.server.client.patch("/work_pools/h100", json={"base_job_template": json.loads(before)})
    assert state["type"] == "CRASHED"
    assert "Docker on this host has no NVIDIA runtime" in state["message"]
    assert "nvidia-ctk" in state["message"]
    host.all_gone()
