"""`seedvr2 doctor`: what this machine can run, checked by trying."""

import importlib.metadata
import os
import platform
import shutil

from pydantic import BaseModel

from seedvr2_core.engine import ENGINES
from seedvr2_core.errors import SeedVR2Error
from tasks.locks import has_flock
from tasks.settings import Settings

LOW_DISK_BYTES = 5 * 10**9
PACKAGES = ("prefect", "torch", "av", "moviepy", "httpx")


class Check(BaseModel):
    """One line of the report."""

    name: str
    ok: bool
    told: str


class Report(BaseModel):
    """The whole report."""

    checks: list[Check]
    engines: list[str]
    """Engines that run here."""

    @property
    def usable(self) -> bool:
        """Whether a job can run at all."""
        return bool(self.engines) and all(check.ok for check in self.checks)

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<10} {check.told}"
            for check in self.checks
        ]
        return "\n".join([*lines, f"      engines    {', '.join(self.engines) or 'none'}"])


def examine(settings: Settings) -> Report:
    """Try everything a job needs."""
    checks = [_check_python(), _check_packages(), _check_devices(), *_check_work_dir(settings)]
    engines, engine_checks = _check_engines()
    return Report(checks=[*checks, *engine_checks], engines=engines)


def _check_python() -> Check:
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(name="python", ok=platform.system() == "Linux", told=told)


def _check_packages() -> Check:
    told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return Check(name="packages", ok=True, told=told)


def _check_devices() -> Check:
    import torch

    gpus = [
        f"{torch.cuda.get_device_name(i)} "
        f"({torch.cuda.get_device_properties(i).total_memory / 1e9:.0f} GB)"
        for i in range(torch.cuda.device_count())
    ]
    cpu = f"{len(os.sched_getaffinity(0))} CPU cores"
    return Check(name="devices", ok=True, told=", ".join([*gpus, cpu]))


def _check_work_dir(settings: Settings) -> list[Check]:
    folder = settings.work_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        locks = has_flock(folder)
    except OSError as error:
        return [Check(name="work dir", ok=False, told=f"{folder} cannot be written: {error}")]
    free = shutil.disk_usage(folder).free
    locking = "locks work" if locks else "its file system has no locks: choose another work dir"
    return [
        Check(name="work dir", ok=locks, told=f"{folder}, {locking}"),
        Check(name="disk", ok=free > LOW_DISK_BYTES, told=f"{free / 1e9:.0f} GB free"),
    ]


def _check_engines() -> tuple[list[str], list[Check]]:
    """Engines whose weights are there, and a failed check for each one that lacks them."""
    engines, checks = [], []
    for spec in ENGINES.values():
        if spec.test_only:
            continue
        try:
            spec.weight_files(None)
            engines.append(spec.name)
        except SeedVR2Error as error:
            checks.append(Check(name=spec.name, ok=False, told=str(error)))
    return engines, checks
