"""`seedvr2 doctor`: finds out what this machine can run by trying it."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from pydantic import BaseModel

from deployments.cli.words import table
from deployments.host.exits import os_error_sentence
from seedvr2_core.child.confine import MISSING
from seedvr2_core.child.trial import try_device
from seedvr2_core.config import ENGINES
from seedvr2_core.engines import weight_files
from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files.locks import has_flock
from seedvr2_core.kernels.devices import gpu_name
from tasks.net.bucket import Bucket
from tasks.settings import Settings, child_environment
from tasks.storage.bunny import BunnyStorage
from tasks.storage.bunny_zone import read_zone

if TYPE_CHECKING:
    import torch

    from seedvr2_core.selfcheck.convolutions import ConvCheck, DeviceReport

LOW_DISK_BYTES = 5 * 10**9
"""Less free space than this is a failure."""
MOST_CLOCK_SECONDS = 60
"""Clocks that differ by more are a failure."""
PACKAGES = ("prefect", "torch", "av", "moviepy", "httpx")


class DoctorCheck(BaseModel, defer_build=True):
    """One check: a line of the report."""

    name: str
    ok: bool
    told: str
    """What was found, in a sentence for people."""
    notable: bool = False
    """Nothing is broken, but the user should know."""

    @property
    def mark(self) -> str:
        """The word that begins the line."""
        if not self.ok:
            return "FAIL"
        return "note" if self.notable else "ok"


class Report(BaseModel, defer_build=True):
    """All checks and what follows from them."""

    checks: list[DoctorCheck]
    engines: list[str]
    """Names of the engines that can run here."""

    @property
    def usable(self) -> bool:
        """Whether a job can run at all."""
        return bool(self.engines) and all(check.ok for check in self.checks)

    def as_text(self, columns: int | None = None) -> str:
        """The report for people: a line for each check, then the engines; at most so wide."""
        width = max(len(check.name) for check in self.checks)
        lines = [f"{check.mark:<4}  {check.name:<{width}}  {check.told}" for check in self.checks]
        runs = ", ".join(self.engines) or "none"
        lines.append(f"{'':4}  {'engines':<{width}}  {runs}")
        return table(lines, indent=width + 8, columns=columns)


def examine(settings: Settings) -> Report:
    """Check everything that a job needs."""
    checks = [
        _check_python(),
        _check_packages(),
        _check_devices(),
        *_check_untested(),
        driver_check(_driver_text(), _cuda_of_torch()),
        *_check_convolutions(),
        _check_confinement(settings),
        *_check_confined_devices(settings),
        *_check_warm(settings),
        *_check_work_dir(settings),
        _check_storage(settings),
        *_check_store(settings),
        *_check_clock(),
    ]
    engines, engine_checks = _check_engines(settings)
    return Report(checks=[*checks, *engine_checks], engines=engines)


def _check_python() -> DoctorCheck:
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return DoctorCheck(name="python", ok=platform.system() == "Linux", told=told)


def _check_packages() -> DoctorCheck:
    told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return DoctorCheck(name="packages", ok=True, told=told)


def _check_devices() -> DoctorCheck:
    import torch

    gpus = [
        f"{torch.cuda.get_device_name(i)} "
        f"({torch.cuda.get_device_properties(i).total_memory / 1e9:.0f} GB)"
        for i in range(torch.cuda.device_count())
    ]
    cpu = f"{len(os.sched_getaffinity(0))} CPU cores"
    return DoctorCheck(name="devices", ok=True, told=", ".join([*gpus, cpu]))


def _check_untested() -> list[DoctorCheck]:
    """Tell of the devices that nobody has tried the model on; they are used all the same."""
    from seedvr2_core.kernels.devices import untested_here

    return [
        DoctorCheck(name="untested", ok=True, notable=True, told=told) for told in untested_here()
    ]


MIN_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""Oldest NVIDIA driver for each major version of CUDA on Linux, from the release notes of the CUDA
toolkit (minor version compatibility). docs/operations.md states the one for our torch."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")


def driver_check(text: str | None, cuda: str | None) -> DoctorCheck:
    """Check that the GPU's driver is new enough for the CUDA that torch was built with.

    Args:
        text: what the kernel tells of the NVIDIA driver; None if there is none.
        cuda: CUDA version of torch, such as "12.8"; None for a build without CUDA.
    """
    needed = MIN_DRIVERS.get(int(cuda.partition(".")[0])) if cuda else None
    asked = f"torch with CUDA {cuda} needs {needed}" if needed else f"torch has CUDA {cuda}"
    if text is None:
        told = "no NVIDIA driver" if cuda is None else f"no NVIDIA driver; {asked} or newer"
        return DoctorCheck(name="driver", ok=True, notable=True, told=told)
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    found = match[1] if match else None
    if cuda is None:
        told = f"driver {found}, and torch is a build without CUDA: it cannot use the GPU"
        return DoctorCheck(name="driver", ok=True, notable=True, told=told)
    if found is None or needed is None:
        told = f"not checked: driver {found or 'of unknown version'}, CUDA {cuda}"
        return DoctorCheck(name="driver", ok=True, notable=True, told=told)
    ok = _version(found) >= _version(needed)
    told = f"NVIDIA {found}; {asked} or newer" + ("" if ok else ": install a newer driver")
    return DoctorCheck(name="driver", ok=ok, told=told)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _driver_text() -> str | None:
    try:
        return DRIVER_FILE.read_text()
    except OSError:
        return None


def _cuda_of_torch() -> str | None:
    import torch

    return torch.version.cuda


def _check_confinement(settings: Settings) -> DoctorCheck:
    """Let a process of its own take from itself what the child takes from itself."""
    if not settings.confine_children:
        told = "SEEDVR2_CONFINE_CHILDREN is off: who breaks into the child has network and rights"
        return DoctorCheck(name="child", ok=True, notable=True, told=told)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "seedvr2_core.child.confine"],
        capture_output=True,
        text=True,
        env=child_environment(),
        timeout=60,
    )
    lines = ended.stdout.splitlines()
    missing = [line.removeprefix(MISSING) for line in lines if line.startswith(MISSING)]
    held = [line for line in lines if not line.startswith(MISSING)]
    if ended.returncode:
        missing.append(ended.stderr.strip()[-200:])
    told = f"the child that reads videos has: {'; '.join(held) or 'nothing of this'}"
    if missing:
        told += f"; this kernel cannot give it: {'; '.join(missing)}"
    return DoctorCheck(name="child", ok=True, notable=bool(missing), told=told)


def _check_confined_devices(settings: Settings) -> list[DoctorCheck]:
    """Let a process that is confined as the child is work on every GPU: a line for each."""
    import torch

    if not settings.confine_children:
        return []
    checks: list[DoctorCheck] = []
    for device in (gpu_name(i) for i in range(torch.cuda.device_count())):
        reached, words = try_device(device, environment=child_environment())
        told = f"a confined child reached {device} ({words})"
        if not reached:
            told = (
                f"a confined child did not reach {device}: {words}; set "
                "SEEDVR2_CONFINE_CHILDREN=false and report this line"
            )
        checks.append(DoctorCheck(name="child", ok=reached, told=told))
    return checks


def _check_warm(settings: Settings) -> list[DoctorCheck]:
    """Tell of the engines that are kept loaded for the next job: a line for each."""
    from tasks.child.warm import warm_engines  # loads Prefect

    return [
        DoctorCheck(
            name="warm",
            ok=True,
            notable=True,
            told=f"process {found.pid} keeps {found.engine} loaded on {found.device} "
            f"({(found.device_bytes or found.host_bytes) / 1e9:.1f} GB) for "
            f"{found.seconds_left:.0f} s more, or until a job needs the device; "
            f"kill {found.pid} ends it now",
        )
        for found in warm_engines(settings)
    ]


def _check_convolutions() -> list[DoctorCheck]:
    """Run the model's convolutions on every GPU and compare results: a line for each dtype."""
    import torch

    if not torch.cuda.is_available():
        return [
            DoctorCheck(
                name="conv3d", ok=True, notable=True, told="convolutions not checked: no GPU"
            )
        ]
    from seedvr2_core.selfcheck.convolutions import DTYPES, check_device

    reports = [check_device(gpu_name(i)) for i in range(torch.cuda.device_count())]
    return [conv_check(report, dtype) for report in reports for dtype in DTYPES]


def conv_check(report: "DeviceReport", dtype: "torch.dtype") -> DoctorCheck:
    """Report on a GPU's convolutions in one dtype; the worst of them decides."""
    found = report.of(dtype)
    worst = min(found, key=lambda check: _WORST_FIRST.index(check.verdict))
    figures = ", ".join(map(_figures, found))
    versions = f"torch {report.torch_version}, cuDNN {report.cudnn_version}"
    told = {
        "ok": f"ok: {figures}",
        "slow": f"slow: {figures}; {worst.reason}: {versions} has no fast kernel here, "
        "try the build that the image pins",
        "wrong": f"WRONG: {figures}; {worst.reason}: do not restore videos with {versions} on "
        f"{report.kind}, install the build that the image pins",
        "failed": f"FAILED: {worst.reason} ({versions})",
        "unchecked": f"not checked, {worst.reason}; run it again when the GPU is free",
    }
    return DoctorCheck(
        name=f"conv {report.device} {worst.dtype}",
        ok=worst.verdict not in ("wrong", "failed"),
        notable=worst.verdict != "ok",
        told=told[worst.verdict],
    )


_WORST_FIRST = ("wrong", "failed", "unchecked", "slow", "ok")


def _figures(check: "ConvCheck") -> str:
    """Channels, speed and error of one convolution."""
    parts = [f"{check.shape.in_channels} channels"]
    if check.tflops is not None and check.share is not None:
        parts.append(f"{check.tflops:.0f} TFLOP/s ({check.share:.0%} of a matrix product)")
    if check.error is not None:
        parts.append(f"error {check.error:.1g}")
    return " ".join(parts)


def _check_work_dir(settings: Settings) -> list[DoctorCheck]:
    """Check that the work directory can be written, that file locks work there, and its space."""
    folder = settings.work_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        locks = has_flock(folder)
    except OSError as error:
        told = f"{folder} cannot be written: {os_error_sentence(error)}"
        return [DoctorCheck(name="work dir", ok=False, told=told)]
    free = shutil.disk_usage(folder).free
    locking = "locks work" if locks else "its file system has no file locks: choose another folder"
    return [
        DoctorCheck(name="work dir", ok=locks, told=f"{folder}, {locking}"),
        DoctorCheck(name="disk", ok=free > LOW_DISK_BYTES, told=f"{free / 1e9:.0f} GB free"),
    ]


def _check_storage(settings: Settings) -> DoctorCheck:
    """Check where outputs go; a storage elsewhere is asked whether it accepts the key."""
    if settings.storage == "local":
        url = settings.public_url
        links = f"links {url}" if url else "no links (SEEDVR2_PUBLIC_URL is not set)"
        told = f"local folder {settings.storage_dir}, {links}"
        return DoctorCheck(name="storage", ok=True, told=told)
    if settings.storage != "bunny":
        return _check_bucket("storage", settings.outputs_bucket, settings)
    try:
        zone = read_zone(settings)
        BunnyStorage(zone).stat("seedvr2-doctor.mp4")
    except SeedVR2Error as error:
        return DoctorCheck(name="storage", ok=False, told=str(error))
    signed = "signed links" if zone.token_key else "links"
    told = f"zone {zone.name} at {zone.storage_url} takes the key, {signed} at {zone.public_url}"
    return DoctorCheck(name="storage", ok=True, told=told)


def _check_store(settings: Settings) -> list[DoctorCheck]:
    """Check where work is kept in objects, if it is."""
    if settings.store is None:
        return []
    return [_check_bucket("store", settings.store, settings)]


def _check_bucket(name: str, address: str | None, settings: Settings) -> DoctorCheck:
    """Write an object, see that it is not written a second time, and remove it."""
    if address is None:
        told = f"SEEDVR2_{settings.storage.upper()}_OUTPUTS is not set"
        return DoctorCheck(name=name, ok=False, told=told)
    probe = f"seedvr2-doctor-{uuid.uuid4().hex}"
    try:
        bucket = Bucket(address, settings)
        bucket.create(probe, b"first")
        second = bucket.create(probe, b"second")
        bucket.delete(probe)
    except SeedVR2Error as error:
        return DoctorCheck(name=name, ok=False, told=str(error))
    if second:
        told = f"{address} knows no conditional writes, which SEEDVR2_STORE needs"
        return DoctorCheck(name=name, ok=name != "store", told=told)
    return DoctorCheck(name=name, ok=True, told=f"{address} takes the key and conditional writes")


def _check_clock() -> list[DoctorCheck]:
    """Compare the clock with that of the Prefect server, if there is one: a line, or none.

    Its workers take what is due by their own clocks, and a store may refuse what is signed at
    another time than its own.
    """
    from prefect.settings import PREFECT_API_URL

    if not (url := PREFECT_API_URL.value()):
        return []
    try:
        told_at = httpx.get(f"{url}/health", timeout=10).headers["date"]
        ahead = (datetime.now(UTC) - parsedate_to_datetime(told_at)).total_seconds()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        told = f"not compared: {url} does not tell its time ({error})"
        return [DoctorCheck(name="clock", ok=True, notable=True, told=told)]
    if abs(ahead) < MOST_CLOCK_SECONDS:
        told = f"within {MOST_CLOCK_SECONDS} s of the Prefect server's"
        return [DoctorCheck(name="clock", ok=True, told=told)]
    side, so = ("ahead of", "too early") if ahead > 0 else ("behind", "late by that")
    told = (
        f"{abs(ahead):.0f} s {side} the Prefect server's: a worker here takes jobs {so}; set it "
        "right, by NTP for instance"
    )
    return [DoctorCheck(name="clock", ok=False, told=told)]


def _check_engines(settings: Settings) -> tuple[list[str], list[DoctorCheck]]:
    """Find the engines whose weights are there.

    Returns:
        Their names, and a note for each of the others: missing weights are no failure.
    """
    engines, checks = [], []
    for spec in ENGINES.values():
        if spec.test_only:
            continue
        try:
            weight_files(spec.name, settings.weights_folder)
            engines.append(spec.name)
        except SeedVR2Error as error:
            checks.append(DoctorCheck(name=spec.name, ok=True, notable=True, told=str(error)))
    return engines, checks
