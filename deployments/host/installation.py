"""The installation in one PREFECT_HOME: its API password, and the server of it that is running.

Prefect's API can start any code on the workers. So the server of `seedvr2 serve` asks for a
password, which is made at the first start and kept in a file that only its owner can read. While
serve runs, a second file says where its server is. Our other commands on the same PREFECT_HOME use
that server: two servers on one SQLite file would lock each other out.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deployments.host.health import is_healthy
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files import hold_lock

USER = "seedvr2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAddress:
    """Where a Prefect server's API is, and what it asks for."""

    url: str
    auth: str | None = field(default=None, repr=False)
    """user:password; None: it asks for nothing."""


def prefect_home() -> Path:
    """Folder of the database, of the password and of the record. Absolute."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser().absolute()


def auth_file(home: Path) -> Path:
    """The file with user:password of the installation's API."""
    return home / "seedvr2-api-auth"


def api_auth(home: Path) -> str:
    """user:password of the installation's API; made at the first call.

    The file is made with its final rights and content under another name, so that nobody ever sees
    half of it; of two that make it at the same time, both use the one that is there in the end.
    """
    file = auth_file(home)
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        part = home / f"{file.name}.{secrets.token_hex(4)}.part"
        _write_private(part, f"{USER}:{secrets.token_urlsafe(24)}\n")
        with contextlib.suppress(FileExistsError):
            os.link(part, file)
        part.unlink()
    file.chmod(0o600)
    return file.read_text().strip()


@contextlib.contextmanager
def only_serve(home: Path) -> Iterator[None]:
    """Be the only `seedvr2 serve` of an installation while the block runs.

    Raises:
        InvalidRequestError: another one is running.
    """

    def refuse() -> None:
        raise InvalidRequestError(
            f"seedvr2 serve is running already on the Prefect database in {home}; stop it first, "
            "or set PREFECT_HOME to another folder"
        )

    with hold_lock(_lock(home), timeout=0, on_wait=refuse):
        _record(home).unlink(missing_ok=True)  # of one that was killed
        try:
            yield
        finally:
            _record(home).unlink(missing_ok=True)


def announce(home: Path, address: ApiAddress) -> None:
    """Say where the server of this installation is; `only_serve` takes it back."""
    part = _record(home).with_suffix(".part")
    part.unlink(missing_ok=True)
    _write_private(part, json.dumps({"url": address.url, "auth": address.auth}))
    part.replace(_record(home))


def running_server(home: Path) -> ApiAddress | None:
    """The server of the `seedvr2 serve` that is running on this installation; None: none is.

    A record alone is no proof: a serve that was killed leaves it, and somebody else may listen at
    its address by now and would be shown the password. The lock tells, which ends with its holder.
    """
    try:
        record = json.loads(_record(home).read_text())
        address = ApiAddress(url=record["url"], auth=record["auth"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not _is_held(home) or not is_healthy(f"{address.url}/health"):
        return None
    return address


def _is_held(home: Path) -> bool:
    """Whether a serve holds this installation's lock."""

    class HeldError(Exception):
        """Somebody holds it."""

    def held() -> None:
        raise HeldError

    try:
        with hold_lock(_lock(home), timeout=0, on_wait=held):
            return False
    except HeldError:
        return True


def _lock(home: Path) -> Path:
    return home / "seedvr2-serve.lock"


def _record(home: Path) -> Path:
    return home / "seedvr2-serve.json"


def _write_private(path: Path, text: str) -> None:
    """Write a new file that nobody but its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
