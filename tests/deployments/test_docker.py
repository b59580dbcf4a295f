"""The image and the stack, parsed and linted: there is no Docker engine in the tests.

Every service's command is also run as a plain process: here with --help, for real in
test_apply.py, gateway/test_main.py and test_edge.py.
"""

import fnmatch
import functools
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import prefect.settings
import pytest
import yaml

from deployments.cli.selfcheck import DEMO_CLIP
from deployments.deploy.apply import POOLS_DIR, PREFECT_FILE, pool_template, pool_type
from deployments.deploy.site import VARIABLES, read_site
from deployments.host.quiet import LOG_HANDLER_VARIABLE
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deployments" / "docker" / "Dockerfile"
COMPOSE = ROOT / "deployments" / "compose.yaml"
OF_WORKERS = {"SEEDVR2_GPU", "SEEDVR2_WORK_VOLUME", "SEEDVR2_WEIGHTS_VOLUME", "SEEDVR2_NETWORK"}


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and their arguments, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in pairs]


def arguments_of(word: str) -> list[str]:
    """Arguments of every such instruction."""
    return [rest for instruction, rest in instructions() if instruction == word]


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    """compose.yaml, merges applied."""
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def services(stack: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Services by name."""
    return stack["services"]


def test_the_dockerfile_is_one_that_docker_reads() -> None:
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "HEALTHCHECK", "CMD"}
    assert {word for word, _ in instructions()} == known
    assert arguments_of("FROM") == ["${BASE_IMAGE} AS build", "build AS sbom", "${BASE_IMAGE}"]
    # A tag that says which Python and which Debian, and the digest that decides.
    (base,) = [rest for rest in arguments_of("ARG") if rest.startswith("BASE_IMAGE=")]
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    assert json.loads(arguments_of("CMD")[0])[0] == "seedvr2"
    assert all("sudo" not in run and "curl" not in run for run in arguments_of("RUN"))


def test_the_image_runs_as_nobody_special_and_is_checked() -> None:
    words = [word for word, _ in instructions()]
    assert arguments_of("USER") == ["10001"]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    assert any("useradd --uid 10001" in run for run in arguments_of("RUN"))
    code = json.loads(arguments_of("HEALTHCHECK")[0].partition("CMD ")[2])[2]
    compile(code, "healthcheck", "exec")
    assert "PREFECT_API_URL" in code


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    for copy in arguments_of("COPY"):
        if copy.startswith("--from="):
            continue
        for source in copy.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in sent, f"{source} is kept from Docker"
    packages = {"flows", "tasks", "seedvr2_core", "deployments", "seedvr2"}
    assert packages <= set(sent)
    assert "*" in ignored
    for secret in (".env", "weights.safetensors", ".git"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in sent)
    # What an operator fills in lies in a folder that is sent.
    assert {"**/.env", "**/*.env"} <= set(ignored)


@pytest.mark.parametrize(
    "path", [PREFECT_FILE, POOLS_DIR / "h100.json", DEMO_CLIP], ids=lambda path: path.name
)
def test_files_that_the_code_reads_are_in_the_image(path: Path) -> None:
    """They are no modules, so that no import would fail without them."""
    assert path.is_file()
    copied = [source for copy in arguments_of("COPY") for source in copy.split()[:-1]]
    assert any(path.is_relative_to(ROOT / source) for source in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    own = path.relative_to(ROOT).as_posix()
    patterns = [line for line in ignored if line[:1] not in ("#", "!", "*", "")]
    assert not any(own == pattern or own.startswith(f"{pattern}/") for pattern in patterns)


def test_the_image_has_the_folders_that_templates_mount() -> None:
    (made,) = [run for run in arguments_of("RUN") if "mkdir -p /var/lib" in run]
    volumes = set(re.search(r"mkdir -p ((?:/\S+ ?)+)", made)[1].split())  # pyright: ignore
    for pool in ("h100", "h200"):
        mounted = pool_template(pool)["job_configuration"]["volumes"]
        assert {volume.rpartition(":")[2] for volume in mounted} == volumes


def test_every_service_is_whole(stack: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    allowed = {
        *("image", "command", "environment", "volumes", "ports", "depends_on", "healthcheck"),
        *("init", "restart", "cap_drop", "security_opt", "group_add", "profiles"),
        *("logging", "env_file", "read_only", "tmpfs"),
    }
    for name, service in services.items():
        assert set(service) <= allowed, name
        for other, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in services[other], f"{name} waits for {other}"
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-([\w-]+)\}", r"\1", volume).split(":")[0]
            assert source.startswith("/") or source in stack["volumes"], volume
        assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert not service["image"].endswith(":latest")
        if name != "postgres":
            assert service["env_file"] == ["site.env"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["read_only"] is True, name
            assert service["image"].startswith("${SEEDVR2_IMAGE:?"), name


def test_services_that_serve_have_a_healthcheck(services: dict[str, dict[str, Any]]) -> None:
    for name in ("postgres", "server", "gateway", "edge"):
        test = services[name]["healthcheck"]["test"]
        assert test[0] == "CMD", name
        if test[1] == "python":
            compile(test[3], name, "exec")


def test_environments_name_what_somebody_reads(services: dict[str, dict[str, Any]]) -> None:
    ours = {f"SEEDVR2_{name.upper()}" for name in Settings.model_fields} | OF_WORKERS
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if variable.startswith("SEEDVR2_"):
                assert variable in ours, f"{name}: {variable}"
            # A value of Prefect's logging.yml has a variable that is no setting.
            if variable.startswith("PREFECT_") and variable != LOG_HANDLER_VARIABLE:
                assert hasattr(prefect.settings, variable), f"{name}: {variable}"
            if re.search("PASSWORD|AUTH|TOKEN", variable):
                assert str(value).startswith("${"), f"{name}: {variable} is written down"


def test_gpu_workers_give_the_templates_all_they_ask_for(
    services: dict[str, dict[str, Any]], stack: dict[str, Any]
) -> None:
    for pool in ("h100", "h200"):
        template = pool_template(pool)
        asked = set(re.findall(r"\{\{ \$(\w+) \}\}", json.dumps(template["job_configuration"])))
        service = services[f"worker-{pool}"]
        assert asked == OF_WORKERS
        assert asked <= set(service["environment"])
        assert "--limit 1 " in " ".join(service["command"])
        assert pool_type(template) in service["command"]
        assert service["environment"]["SEEDVR2_NETWORK"] == stack["networks"]["default"]["name"]


def test_whatever_works_on_jobs_has_the_work_volume(services: dict[str, dict[str, Any]]) -> None:
    """`recover`, in worker-cpu, looks for plans and outputs where gateway and jobs put them."""
    volume = "${SEEDVR2_WORK_VOLUME:-seedvr2-work}:/var/lib/seedvr2/work"
    for name in ("worker-cpu", "gateway", "edge", "check-volumes"):
        assert services[name]["volumes"] == [volume], name


def test_nothing_writes_to_the_volume_before_it_is_checked(
    services: dict[str, dict[str, Any]],
) -> None:
    def waits_for(name: str) -> set[str]:
        """The services that must have ended well before this one starts."""
        ended = {"service_completed_successfully"}
        others = services[name].get("depends_on", {})
        direct = {other for other, how in others.items() if how["condition"] in ended}
        return direct.union(*(waits_for(other) for other in direct))

    for name in ("worker-cpu", "worker-h100", "worker-h200", "gateway", "edge"):
        assert "check-volumes" in waits_for(name), name


def test_workers_tell_of_their_health_themselves(services: dict[str, dict[str, Any]]) -> None:
    for name in ("worker-cpu", "worker-h100", "worker-h200"):
        assert "--with-healthcheck" in services[name]["command"], name
        port = services[name]["environment"]["PREFECT_WORKER_WEBSERVER_PORT"]
        assert f":{port}/health" in services[name]["healthcheck"]["test"][3], name


def test_the_samples_name_all_that_compose_asks_for_and_settings_that_exist(
    tmp_path: Path,
) -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    shown = re.findall(r"^#?(\w+)=", (COMPOSE.parent / "env.sample").read_text(), re.M)
    assert set(shown) == asked
    sample = (COMPOSE.parent / "site.env.sample").read_text()
    for line in re.findall(r"^#?([A-Z_0-9]+)=", sample, re.M):
        assert line in VARIABLES, line
    filled = re.sub(r"^#([A-Z_0-9]+)=(\S.*)$", r"\1=\2", sample, flags=re.M)
    filled = filled.replace("#BUNNY_STORAGE_ZONE=", "BUNNY_STORAGE_ZONE=zone")
    site = tmp_path / "site.env"
    site.write_text(filled)
    assert len(read_site(site).values) >= 7
    assert read_site(COMPOSE.parent / "site.env.sample").values == {"SEEDVR2_GATEWAY_TOKENS": ""}


@pytest.mark.long
@pytest.mark.slow
def test_every_command_is_one_that_runs(services: dict[str, dict[str, Any]]) -> None:
    commands = sorted({tuple(s["command"]) for s in services.values() if "command" in s})
    assert len(commands) == 8
    for command in commands:  # one program has one help, whatever its options are
        told = _help_of(tuple(itertools.takewhile(lambda word: not word.startswith("--"), command)))
        options = [word for word in command if word.startswith("--")]
        assert all(option in told for option in options), (command, told)


@functools.cache
def _help_of(command: tuple[str, ...]) -> str:
    """A program's help text."""
    program = {"python": [sys.executable], "prefect": [sys.executable, "-m", "prefect"]}
    words = [*program[command[0]], *command[1:], "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
