"""The project's image, and one of PostgreSQL, built in a test's engine without a registry.

There is no registry to take the base image from, so `debootstrap` makes one with Debian's Python,
and it is handed to our Dockerfile as the build argument that names the base. Packages come the way
this machine gets them: pip downloads what the locks name, and a server on loopback shows the files
to the build. Base and packages are kept in the temporary folder for the next time.
"""

import contextlib
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from packaging.markers import Marker

from tests.kits.containers.engine import Engine, needs
from tests.kits.processes import ROOT

IMAGE = "seedvr2:of-this-test"
POSTGRES = "seedvr2-test-postgres:latest"
"""Stands in for the official image: Debian's PostgreSQL, with the same variables and folders."""
BASE = "seedvr2-test-base:latest"
DOCKERFILE = "deployments/docker/Dockerfile"
LOCKS = ("base", "cpu", "sbom")
PACKAGES_PORT = 47311
"""Always the same: the address is part of the base image, and with it of Docker's build cache."""
SECRET_FILES = ("deployments/.env", "deployments/site.env")
"""What an operator has beside compose.yaml; it is in the context of the tests' build."""
_CACHE = Path(tempfile.gettempdir()) / f"seedvr2-test-image-{os.getuid()}"
_DEBIAN = "bookworm"
_BUILD_SECONDS = 1800


def build_image(engine: Engine, folder: Path, tag: str = IMAGE) -> None:
    """Build the project's image from this checkout's files and the Dockerfile as it is.

    Args:
        engine: to build in.
        folder: for the build's context.
        tag: the image's name.
    """
    version = _import_base(engine)
    context = folder / "context"
    _copy_checkout(context)
    with _packages(_wheels(version)):
        _build(engine, tag, context, "--build-arg", "TORCH=cpu", dockerfile=DOCKERFILE)
    shutil.rmtree(context)


def build_postgres(engine: Engine, tag: str = POSTGRES) -> None:
    """Build the image that stands in for PostgreSQL's."""
    _import_base(engine)
    _build(engine, tag, Path(__file__).parent / "postgres")


def _build(
    engine: Engine, tag: str, context: Path, *options: str, dockerfile: str = "Dockerfile"
) -> None:
    done = engine.docker(
        *("build", "--network", "host", "--build-arg", f"BASE_IMAGE={BASE}", *options),
        *("--file", context / dockerfile, "--tag", tag, context),
        check=False,
        timeout=_BUILD_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _copy_checkout(context: Path) -> None:
    """Copy what git would commit, and what must stay out of the image."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, context / name)
    for name in SECRET_FILES:
        (context / name).write_text("POSTGRES_PASSWORD=a-secret-of-the-operator\n")


def _import_base(engine: Engine) -> str:
    """Make sure the base image is there; returns its Python's version."""
    _CACHE.mkdir(exist_ok=True)
    archive = _CACHE / f"{_DEBIAN}.tar"
    if not archive.exists():
        needs("debootstrap")
        _bootstrap(archive)
    settings = f"ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=http://127.0.0.1:{PACKAGES_PORT}/"
    if BASE not in {tag for image in engine.client.images.list() for tag in image.tags}:
        engine.docker("import", "--change", settings, archive, BASE)
    told = engine.run(BASE, "python", "-c", "import platform; print(platform.python_version())")
    assert re.fullmatch(r"3\.\d+\.\d+", told)
    return told


def _bootstrap(archive: Path) -> None:
    """Make Debian with its Python, as an archive of its root."""
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        root = Path(folder) / "root"
        packages = "python3,python3-venv,ca-certificates"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", _DEBIAN, root],
            check=True,
            capture_output=True,
            timeout=_BUILD_SECONDS,
        )
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for settings in Path("/etc/apt/apt.conf.d").iterdir():
            shutil.copy(settings, root / "etc/apt/apt.conf.d")
        part = archive.with_suffix(".part")
        subprocess.run(["tar", "-C", root, "-cf", part, "."], check=True)
        part.replace(archive)


def _wheels(version: str) -> Path:
    """Download what the locks name for a Python, the way this machine's pip is set up."""
    texts = [(ROOT / "requirements" / f"{name}.lock").read_text() for name in LOCKS]
    digest = hashlib.sha256("".join([version, *texts]).encode()).hexdigest()[:16]
    folder = _CACHE / f"wheels-{digest}"
    if folder.exists():
        return folder
    for old in _CACHE.glob("wheels-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
        part = Path(scratch) / "wheels"
        for name, text in zip(LOCKS, texts, strict=True):
            lock = Path(scratch) / f"{name}.txt"
            lock.write_text(_for_python(text, version))
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                    *("--require-hashes", "--only-binary", ":all:", "--dest", part),
                    *("--python-version", version, "--requirement", lock),
                ],
                capture_output=True,
                text=True,
                timeout=_BUILD_SECONDS,
            )
            if done.returncode:
                pytest.skip(f"pip cannot get what {name}.lock names: {done.stderr[-300:]}")
        part.replace(folder)
    return folder


def _for_python(lock: str, version: str) -> str:
    """A lock's entries for one Python on Linux: pip would judge the markers by its own."""
    target = {"python_full_version": version, "python_version": version.rpartition(".")[0]}
    entries = []
    for entry in re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]:
        head, line, rest = entry.partition(" \\\n")
        requirement, _, marker = head.partition(" ; ")
        if not marker or Marker(marker).evaluate(target):
            entries.append(requirement + line + rest)
    return "".join(entries)


@contextlib.contextmanager
def _packages(folder: Path) -> Iterator[None]:
    """Show the files of a folder on loopback."""
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", PACKAGES_PORT), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""
