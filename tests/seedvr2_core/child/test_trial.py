"""The trial of a device from a confined process, with what a CPU can show of it."""

import os
import sys
from pathlib import Path

import pytest

from seedvr2_core.child import trial
from seedvr2_core.child.trial import try_device

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.mark.long
@pytest.mark.slow
def test_a_confined_process_reaches_the_cpu() -> None:
    assert try_device("cpu", environment=ENVIRONMENT) == (True, "cpu")


@pytest.mark.long
@pytest.mark.slow
def test_a_device_that_is_not_there_is_told() -> None:
    reached, told = try_device("cuda:7", environment=ENVIRONMENT)
    assert not reached
    assert told
    assert "Traceback" not in told


@pytest.mark.slow
def test_what_confinement_breaks_is_told(tmp_path: Path) -> None:
    """A library of the device that needs the network, say: here torch itself does."""
    (tmp_path / "torch.py").write_text("import socket\nsocket.socket().connect(('127.0.0.1', 1))")
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    reached, told = try_device("cpu", environment=ENVIRONMENT | {"PYTHONPATH": path})
    assert (reached, "Permission denied" in told) == (False, True), told


def test_a_trial_that_hangs_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endless = tmp_path / "python"
    endless.write_text("#!/bin/sh\nexec sleep 60\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    monkeypatch.setattr(trial, "SECONDS", 0.2)
    assert try_device("cpu") == (False, "no answer within 0.2 s")
