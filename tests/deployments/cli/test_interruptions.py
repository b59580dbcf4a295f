"""Ctrl-C in each command: it says what is kept, and what to do then, as it is for this command."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import doctor, plan
from deployments.cli.app import app
from deployments.gateway.client import GatewayClient
from tests.kits.processes import ROOT

JOB = "0d5c9a0e-8a3c-5c43-9a8e-3f0b7d1c2e55"
AT_THE_GATEWAY = {
    "submit": "interrupted; what was sent is kept: run it again to go on",
    "whole": "interrupted; the gateway may have made the job: run it again, it is the same job",
    "status": "interrupted; the job goes on: run it again to look",
    "jobs": "interrupted; all jobs go on: run it again to look",
    "logs": "interrupted; the job goes on: run it again to read on",
    "cancel": "interrupted; the job may be cancelled already: look with seedvr2 status",
    "delete": "interrupted; a part may be removed already: run it again to remove the rest",
}


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
