"""The name by which two processes know that they see the same files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.host import machine
from deployments.host.machine import this_machine
from tests.kits.processes import ROOT


def test_two_processes_of_one_machine_agree(tmp_path: Path) -> None:
    code = "from deployments.host.machine import this_machine; print(this_machine())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == this_machine()


def test_another_boot_or_another_root_is_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = this_machine()
    root = os.stat(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(machine.os, "stat", lambda path: root)
        assert this_machine() != here
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(machine, "_BOOT_ID", tmp_path / "boot_id")
    assert this_machine() != here
