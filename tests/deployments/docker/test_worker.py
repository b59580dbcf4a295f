"""Our docker worker where no engine is needed; tests/apt/containers has real ones."""

import asyncio
import re

import pytest
from prefect_docker.worker import DockerWorker

from deployments.docker.worker import SelfRemovingDockerWorker, advice_for
from tests.kits.containers.stand_in import engine_without_images


def set_up() -> None:
    """What `prefect worker start` does first."""

    async def worker() -> None:
        async with SelfRemovingDockerWorker("a-pool", create_pool_if_not_found=False):
            raise AssertionError("it does not end")

    asyncio.run(worker())


def test_a_worker_without_an_engine_ends_before_it_takes_a_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(SystemExit) as ended:
        set_up()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert re.match(r"error: this worker cannot reach Docker: .*DOCKER_GID in \.env", told)
    assert "Traceback" not in told


def test_a_worker_with_an_engine_goes_on_to_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    async def prefect(worker: DockerWorker) -> None:
        raise LookupError("Prefect asked")

    monkeypatch.setattr(DockerWorker, "setup", prefect)
    with engine_without_images() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        with pytest.raises(LookupError, match="Prefect asked"):
            set_up()


@pytest.mark.parametrize(
    ("told", "advice"),
    [
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "nvidia-ctk"),
        ("nvidia-container-cli: device error: 9: unknown device: unknown", "SEEDVR2_GPU"),
        ("pull access denied for seedvr2, repository does not exist", "make image"),
        ("network seedvr2 not found", "SEEDVR2_NETWORK"),
        ("write /var/lib/docker/x: no space left on device", "docker system df"),
    ],
)
def test_what_the_engine_says_becomes_advice(told: str, advice: str) -> None:
    found = advice_for(told)
    assert found is not None
    assert advice in found


def test_what_we_do_not_know_gets_no_advice() -> None:
    assert advice_for("something new") is None
