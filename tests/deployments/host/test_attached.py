"""A module that runs attached to another process."""

import os
import shlex
import subprocess
from pathlib import Path

from deployments.host.attached import PID_VARIABLE, attached
from tests.kits.processes import ROOT


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_attached_becomes_the_module(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text("import sys; print(__name__, *sys.argv[1:])")
    done = run(tmp_path, *attached("told", "a", "--b"))
    assert done.stdout == "__main__ a --b\n", done.stderr


def test_attached_to_a_parent_that_is_gone_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text("print('ran')")
    done = run(tmp_path, *attached("told", parent=2**22))
    assert (done.returncode, done.stdout) == (1, "")


def test_it_tells_the_module_its_own_process_id(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(
        f"import os; print(os.environ['{PID_VARIABLE}'] == str(os.getpid()))"
    )
    assert run(tmp_path, *attached("told")).stdout == "True\n"


def test_it_listens_to_sigint_where_a_script_in_the_background_has_started_it(
    tmp_path: Path,
) -> None:
    """Such a script's programs ignore it, and Prefect's worker ends by no other signal."""
    (tmp_path / "told.py").write_text("import signal; print(signal.getsignal(signal.SIGINT))")
    script = tmp_path / "script.sh"
    script.write_text(f"{shlex.join(attached('told', parent=''))} & wait\n")
    assert "default_int_handler" in run(tmp_path, "sh", str(script)).stdout


def test_without_an_id_the_present_parent_is_meant(tmp_path: Path) -> None:
    """So a worker that was started by hand, and has no such variable, can run flows too."""
    (tmp_path / "told.py").write_text("print('ran')")
    assert run(tmp_path, *attached("told", parent="")).stdout == "ran\n"


def test_the_collector_waits_until_a_flow_begins_and_works_in_it(tmp_path: Path) -> None:
    """In the engine's process alone: a worker's would keep its garbage for days."""
    told = "import gc; print(gc.isenabled())"
    (tmp_path / "told.py").write_text(told)
    assert run(tmp_path, *attached("told")).stdout == "True\n"
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "__init__.py").write_text("")
    begin = "from tasks.run.begin import begin_run; begin_run(None, {}); print(gc.isenabled())"
    (tmp_path / "prefect" / "engine.py").write_text(f"{told}\n{begin}")
    command = attached("prefect.engine")
    assert run(tmp_path, *command).stdout.splitlines() == ["False", "True"]
