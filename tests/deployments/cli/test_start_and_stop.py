"""How the installed script begins, and what Ctrl-C says: what a command keeps, and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import doctor, plan
from deployments.cli import jobs as cli_jobs
from deployments.cli.app import app
from deployments.gateway.client import GatewayClient
from deployments.host.exits import run_program
from tests.kits.processes import ROOT

JOB = "0d5c9a0e-8a3c-5c43-9a8e-3f0b7d1c2e55"
AT_THE_GATEWAY = {
    "submit": "interrupted; what was sent is kept: run it again to go on",
    "whole": "interrupted; the gateway may have made the job: run it again, it is the same job",
    "retry": "interrupted; the gateway may have made the job: run it again, it is the same job",
    "status": "interrupted; the job goes on: run it again to look",
    "jobs": "interrupted; all jobs go on: run it again to look",
    "logs": "interrupted; the job goes on: run it again to read on",
    "cancel": "interrupted; the job may be cancelled already: look with seedvr2 status",
    "delete": "interrupted; a part may be removed already: run it again to remove the rest",
}


def test_the_collector_works_again_once_the_command_runs() -> None:
    code = (
        "import gc\n"
        "from deployments.cli import __main__ as start\n"
        "import deployments.cli.app as app\n"
        "app.main = lambda: print(gc.isenabled())\n"
        "start.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_help_loads_neither_prefect_nor_the_gateways_client() -> None:
    code = (
        "import sys\n"
        "from deployments.cli.__main__ import main\n"
        "sys.argv = ['seedvr2', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "loaded = {'prefect', 'torch', 'deployments.gateway.client', 'tasks.storage.open'}\n"
        "print(sorted(loaded & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "upscale" in done.stdout


def pressed(*_: object, **__: object) -> None:
    """In the place of the command's work."""
    raise KeyboardInterrupt


def said(*words: str) -> str:
    """What a command says that is interrupted."""
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 130, ended.output
    assert ended.stdout == ""
    return ended.stderr.strip()


@pytest.mark.parametrize(("name", "sentence"), AT_THE_GATEWAY.items(), ids=AT_THE_GATEWAY)
def test_a_command_that_talks_to_a_gateway(
    name: str, sentence: str, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GatewayClient, "_ask", pressed)
    given = {"submit": str(demo_clip), "jobs": None}.get(name, JOB)
    assert said(name, *([given] if given else [])) == sentence


def test_a_plan_makes_nothing(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "planned_summary", pressed)
    told = said("plan", str(demo_clip), "--work-dir", str(tmp_path))
    assert told == "interrupted; what was downloaded is kept, no job was begun: run it again"


def test_a_look_at_the_machine_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", pressed)
    told = said("doctor", "--work-dir", str(tmp_path))
    assert told == "interrupted; it only looks, nothing was changed: run it again"


def test_before_the_command_is_there() -> None:
    """While its modules are loaded, which takes as long as a finger needs."""
    code = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'deployments.cli.app':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "from deployments.cli.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (
        130,
        "",
        "interrupted; nothing had begun: run it again\n",
    )


def test_while_the_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the command's start and its work, and after it has told its result."""
    monkeypatch.setattr(cli_jobs, "open_gateway", pressed)
    assert said("status", JOB) == "interrupted: run it again to go on"
    with pytest.raises(SystemExit, match="130"):
        run_program(pressed)
