"""compose.yaml read by Compose itself (Debian: docker-compose), as an operator would fill it in."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kits.processes import ROOT

DEPLOYMENTS = ROOT / "deployments"
FILLED = {
    "SEEDVR2_IMAGE": "seedvr2:0123456789ab",
    "POSTGRES_PASSWORD": "abc123",
    "PREFECT_AUTH": "operator:a-password",
}
pytestmark = pytest.mark.apt


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A folder with the stack, and the two samples filled in."""
    text = (DEPLOYMENTS / "compose.yaml").read_text()
    # Debian's Compose is a version 1, which takes the project's name from the folder alone.
    (tmp_path / "compose.yaml").write_text(text.replace("\nname: seedvr2\n", "\n", 1))
    lines = (DEPLOYMENTS / "env.sample").read_text().splitlines()
    filled = [f"{line}{FILLED.get(line.rstrip('='), '')}" for line in lines]
    (tmp_path / ".env").write_text("\n".join(filled))
    site = (DEPLOYMENTS / "site.env.sample").read_text()
    (tmp_path / "site.env").write_text(
        site + "SEEDVR2_KEEP_DAYS=30\nBUNNY_STORAGE_KEY={{ prefect.blocks.secret.bunny }}\n"
        "SEEDVR2_CALLBACK_SECRET='it has $pecial # signs'\n"
    )
    return tmp_path


def compose_command() -> list[str]:
    """Compose as a program of its own, or else as Docker's plugin."""
    found = shutil.which("docker-compose")
    if found is None and shutil.which("docker") is None:
        pytest.skip("Compose is not installed (Debian: docker-compose)")
    return [found] if found else ["docker", "compose"]


def config(stack: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = compose_command()
    if subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
        pytest.skip("Compose is not installed (Debian: docker-compose)")
    return subprocess.run(
        [*command, *options, "config"], cwd=stack, capture_output=True, text=True, timeout=60
    )


def read(stack: Path, *options: str) -> dict[str, Any]:
    done = config(stack, *options)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_compose_takes_it_and_every_service_gets_the_site(stack: Path) -> None:
    services = read(stack, "--profile", "h100", "--profile", "h200")["services"]
    assert len(services) == 9
    for name, service in services.items():
        if name != "postgres":
            given = service["environment"]
            assert str(given["SEEDVR2_KEEP_DAYS"]) == "30", name
            assert given["BUNNY_STORAGE_KEY"] == "{{ prefect.blocks.secret.bunny }}"
            # `config` doubles each dollar, so that its output is a valid Compose file.
            secret = given["SEEDVR2_CALLBACK_SECRET"].replace("$$", "$")
            assert secret == "it has $pecial # signs"


@pytest.mark.parametrize("volume", ["seedvr2-work", "/mnt/shared/seedvr2"])
def test_the_work_volume_may_be_a_volume_or_a_folder(stack: Path, volume: str) -> None:
    with (stack / ".env").open("a") as env:
        env.write(f"\nSEEDVR2_WORK_VOLUME={volume}\n")
    services = read(stack, "--profile", "h100")["services"]
    for name in ("worker-cpu", "gateway", "edge", "check-volumes"):
        (mount,) = services[name]["volumes"]
        shown = mount if isinstance(mount, str) else f"{mount['source']}:{mount['target']}"
        assert shown.startswith(f"{volume}:/var/lib/seedvr2/work"), name
    assert services["worker-h100"]["environment"]["SEEDVR2_WORK_VOLUME"] == volume


def test_what_is_not_filled_in_is_named(stack: Path) -> None:
    (stack / ".env").write_text("")
    done = config(stack)
    assert done.returncode != 0
    assert "set it to what make image built" in done.stderr or "letters and digits" in done.stderr
