"""The work pools' templates, rendered by Prefect's own worker classes as for a real job."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from docker import DockerClient
from docker.types import HostConfig
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from pydantic import SecretStr, ValidationError

from deployments.deploy import apply
from deployments.deploy.apply import POOLS_DIR, pool_names, pool_template, pool_type
from deployments.deploy.operators import merge_template
from deployments.deploy.site import Site
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings, use_settings

IMAGE = {"image": "seedvr2:0123456789ab"}
GPU_POOLS = ("h100", "h200")
pytestmark = pytest.mark.usefixtures("in_api")


@pytest.fixture(autouse=True)
def environment_decides() -> None:
    """Forget settings that an earlier test has put in force."""
    use_settings(None)


@pytest.fixture(autouse=True)
def gpu_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's environment on a GPU host; a server that containers can reach by name."""
    monkeypatch.setenv("SEEDVR2_GPU", "1")
    monkeypatch.setenv("SEEDVR2_WORK_VOLUME", "seedvr2-work")
    monkeypatch.setenv("SEEDVR2_WEIGHTS_VOLUME", "/srv/weights")
    monkeypatch.delenv("SEEDVR2_NETWORK", raising=False)


def configured(pool: str, **variables: Any) -> DockerWorkerJobConfiguration:
    """The docker worker's configuration of one run."""
    values = IMAGE | variables
    configuration = asyncio.run(
        DockerWorkerJobConfiguration.from_template_and_values(pool_template(pool), values)
    )
    configuration.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="clip.mp4 -> 4k"))
    return configuration


def container(pool: str, **variables: Any) -> dict[str, Any]:
    """What the docker worker would hand to Docker; building it asks the engine nothing."""
    docker = DockerClient(base_url="tcp://127.0.0.1:1", version="1.44")
    variables["env"] = {"PREFECT_API_URL": "http://prefect:4200/api"} | variables.get("env", {})
    worker = DockerWorker(pool, test_mode=True)
    try:
        return worker._build_container_settings(docker, configured(pool, **variables))
    finally:
        docker.close()


@pytest.mark.parametrize("pool", GPU_POOLS)
def test_a_container_gets_the_workers_gpu_and_no_other(pool: str) -> None:
    settings = container(pool)
    assert settings["device_requests"] == [
        {"driver": "nvidia", "device_ids": ["1"], "capabilities": [["gpu"]]}
    ]
    assert settings["environment"]["SEEDVR2_DEVICE"] == "cuda:0"
    assert settings["image"] == IMAGE["image"]
    assert settings["command"] == "prefect flow-run execute"
    assert settings["name"] == "clip.mp4-4k"
    assert settings["network_mode"] is None


@pytest.mark.parametrize("pool", GPU_POOLS)
def test_docker_takes_the_settings(pool: str) -> None:
    settings = container(pool)
    keys = (
        "log_config",
        "device_requests",
        "shm_size",
        "init",
        "mem_limit",
        "memswap_limit",
        "cap_drop",
    )
    chosen = {key: settings[key] for key in (*keys, "security_opt", "privileged")}
    host = HostConfig(version="1.44", **chosen, binds=settings["volumes"])
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["1"]
    assert host["ShmSize"] == 8 * 2**30
    assert host["Init"] is True
    assert host["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "20m", "max-file": "5"},
    }
    assert settings["auto_remove"] is True
    assert host["Memory"] == host["MemorySwap"] >= 96 * 2**30
    assert host["Binds"] == [
        "seedvr2-work:/var/lib/seedvr2/work",
        "/srv/weights:/var/lib/seedvr2/weights",
        "1.SEEDVR2_GPU.cache:/var/cache/seedvr2",
    ]
    assert not settings["privileged"]


@pytest.mark.parametrize("pool", GPU_POOLS)
@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("SEEDVR2_GPU", "SEEDVR2_GPU"),
        ("SEEDVR2_WORK_VOLUME", ":/var/lib/seedvr2/work"),
        ("SEEDVR2_WEIGHTS_VOLUME", ":/var/lib/seedvr2/weights"),
    ],
)
def test_a_worker_that_does_not_say_which_gpu_or_volume_is_refused(
    pool: str, variable: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(ValidationError, match=told):
        configured(pool)
    monkeypatch.setenv(variable, "")
    with pytest.raises(ValidationError, match=told):
        configured(pool)


def test_a_run_cannot_choose_its_gpu() -> None:
    asked = {"$SEEDVR2_GPU": "0", "$SEEDVR2_WORK_VOLUME": "/"}
    settings = container("h100", **asked)
    assert settings["device_requests"][0]["device_ids"] == ["1"]
    assert settings["volumes"][0] == "seedvr2-work:/var/lib/seedvr2/work"


def test_a_container_joins_the_workers_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDVR2_NETWORK", "seedvr2_default")
    assert container("h100")["network_mode"] == "seedvr2_default"


def env_of(pool: str, **variables: Any) -> dict[str, str]:
    """What the template itself puts into a job's environment."""
    kind = pool_type(pool_template(pool))
    classes = {"docker": DockerWorkerJobConfiguration, "process": ProcessJobConfiguration}
    values = variables | (IMAGE if kind == "docker" else {})
    made = asyncio.run(classes[kind].from_template_and_values(pool_template(pool), values))
    return {name: value for name, value in made.env.items() if value is not None}


@pytest.mark.parametrize("pool", ["h100", "h200", "cpu", "local"])
def test_the_flow_understands_what_the_template_sets(
    pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: v for name, v in env_of(pool).items() if name.startswith("SEEDVR2_")}
    fields = {f"SEEDVR2_{name.upper()}" for name in Settings.model_fields}
    assert set(given) <= fields
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    gpu_pool = pool in GPU_POOLS
    assert settings.device == ("cuda:0" if gpu_pool else "cpu" if pool == "cpu" else "auto")
    assert settings.allow_local_files == settings.allow_cpu_engine == (pool == "local")
    taken = {"h100": ("720p", "1080p"), "h200": ("2k", "4k")}
    assert settings.resolutions == taken.get(pool, ("720p", "1080p", "2k", "4k"))


def test_a_site_with_one_kind_of_gpu_changes_the_table_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", "*=upscale/h100")
    assert env_of("h100")["SEEDVR2_RESOLUTIONS"] == "720p,1080p,2k,4k"


def test_a_run_may_add_environment_and_nothing_that_breaks_out() -> None:
    asked = {
        "env": {"TZ": "UTC"},
        "privileged": True,
        "volumes": ["/:/host"],
        "command": "sh",
        "container_create_kwargs": {"pid_mode": "host"},
    }
    settings = container("h100", **asked)
    assert settings["environment"]["TZ"] == "UTC"
    assert settings["environment"]["SEEDVR2_RESOLUTIONS"] == "720p,1080p"
    assert settings["privileged"] is False
    assert "/:/host" not in settings["volumes"]
    assert settings["command"] == "prefect flow-run execute"
    assert "pid_mode" not in settings


def test_a_key_comes_from_a_secret_block() -> None:
    Secret(value=SecretStr("s3cret-key")).save("test-storage-key", overwrite=True)
    asked = {"BUNNY_STORAGE_KEY": "{{ prefect.blocks.secret.test-storage-key }}"}
    assert container("h200", env=asked)["environment"]["BUNNY_STORAGE_KEY"] == "s3cret-key"


@pytest.mark.parametrize("pool", ["h100", "cpu"])
def test_a_job_gets_the_sites_settings_and_the_values_of_its_keys(pool: str) -> None:
    site = Site(
        values={
            "SEEDVR2_CALLBACK_SECRET": "a-secret-of-the-whole-site",
            "SEEDVR2_KEEP_DAYS": "30",
            "SEEDVR2_ALERT_URL": "https://chat.example/hook",
        }
    )
    assert site.save_keys() == ["seedvr2-callback-secret"]
    template, _ = merge_template(pool_template(pool), {}, site)
    kind = pool_type(template)
    classes = {"docker": DockerWorkerJobConfiguration, "process": ProcessJobConfiguration}
    values = {"env": {"TZ": "UTC"}} | (IMAGE if kind == "docker" else {})
    made = asyncio.run(classes[kind].from_template_and_values(template, values))
    assert made.env["SEEDVR2_CALLBACK_SECRET"] == "a-secret-of-the-whole-site"
    assert (made.env["SEEDVR2_KEEP_DAYS"], made.env["TZ"]) == ("30", "UTC")
    assert "SEEDVR2_ALERT_URL" not in made.env


def test_the_gpu_pools_differ_in_defaults_alone() -> None:
    small, large = (json.loads((POOLS_DIR / f"{pool}.json").read_text()) for pool in GPU_POOLS)
    assert small["job_configuration"] == large["job_configuration"]
    pairs = {
        name: (variable["default"], large["variables"]["properties"][name]["default"])
        for name, variable in small["variables"]["properties"].items()
        if variable != large["variables"]["properties"][name]
    }
    assert pairs == {"resolutions": ("720p,1080p", "2k,4k"), "mem_limit": ("96g", "192g")}


def test_every_placeholder_has_a_variable_and_every_variable_says_what_it_is() -> None:
    for pool in pool_names():
        template = json.loads((POOLS_DIR / f"{pool}.json").read_text())
        text = json.dumps(template["job_configuration"])
        variables = template["variables"]["properties"]
        used = {word.split("}}")[0].strip() for word in text.split("{{")[1:]}
        # Prefect refuses a template with an undeclared {{ $NAME }} too.
        assert used == set(variables) - {"env"}
        assert all(variable.get("description") for variable in variables.values())


def test_no_template_holds_a_secret() -> None:
    for path in Path(POOLS_DIR).glob("*.json"):
        text = path.read_text().lower()
        assert not [word for word in ("password", "token", "accesskey") if word in text], path


@pytest.mark.soak
def test_a_pool_of_another_type_is_refused(in_api: None) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="cpu", type="docker"))
        try:
            with pytest.raises(InvalidRequestError, match=r"of type docker.*delete cpu"):
                apply.apply_pools(client)
        finally:
            client.delete_work_pool("cpu")
