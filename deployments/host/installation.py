"""The installation in one PREFECT_HOME: its API password, and the server of it that is running.

Prefect's API can start any code on the workers. So the server of `seedvr2 serve` asks for a
password, which is made at the first start and kept in a file that only its owner can read.

Two servers on one SQLite file would lock each other out. So an installation has one at a time: that
of `seedvr2 serve`, or one that `seedvr2 upscale` starts and shares with every other command that
comes while it runs. A lock says that there is one, a second file says where it is.
"""

import contextlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from seedvr2_core.errors import DeadlineError, InvalidRequestError, ServiceError
from seedvr2_core.files import hold_lock

USER = "seedvr2"
END_SECONDS = 60.0
"""What a server may take for its end. Then its process is ended as it is, because all commands that
come later wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAddress:
    """Where a Prefect server's API is, and what it asks for."""

    url: str
    auth: str | None = field(default=None, repr=False)
    """user:password; None: it asks for nothing."""


def prefect_home() -> Path:
    """Folder of the database, of the password and of the record. Absolute."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser().absolute()


def is_healthy(address: str) -> bool:
    """Whether a health address of one of our servers answers 200; False if nothing listens there.

    Our servers are on this machine, so no proxy is asked.
    """
    try:
        return httpx.get(address, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


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
def only_server(home: Path) -> Iterator[None]:
    """Be the only one who runs a server of an installation while the block runs.

    Raises:
        InvalidRequestError: another one is running.
    """

    def refuse() -> None:
        raise InvalidRequestError(
            f"a Prefect server is running already on the database in {home}, that of a seedvr2 "
            "serve or of a seedvr2 upscale at work; stop it or wait for its end, or set "
            "PREFECT_HOME to another folder"
        )

    with hold_lock(_lock(home), timeout=0, on_wait=refuse):
        _record(home).unlink(missing_ok=True)  # of one that was killed
        try:
            yield
        finally:
            _record(home).unlink(missing_ok=True)


def announce(home: Path, address: ApiAddress) -> None:
    """Say where the server of this installation is; `only_server` takes it back."""
    part = _record(home).with_suffix(".part")
    part.unlink(missing_ok=True)
    _write_private(part, json.dumps({"url": address.url, "auth": address.auth}))
    part.replace(_record(home))


@contextlib.contextmanager
def used_by_command(home: Path) -> Iterator[None]:
    """Keep the server that commands share running while the block runs.

    Raises:
        ServiceError: one that was to end has not ended.
    """
    patience = 1.5 * END_SECONDS
    lock = hold_lock(_commands_lock(home), timeout=patience, on_wait=lambda: None, shared=True)
    with contextlib.ExitStack() as until_end:
        try:
            until_end.enter_context(lock)
        except DeadlineError as error:
            raise ServiceError(
                f"the Prefect server on the database in {home} was to end and has not ended after "
                f"{patience:g} s: end the process `deployments.host.prefect_server --shared`, then "
                "run this again"
            ) from error
        yield


def when_unused(home: Path, end: Callable[[], None]) -> None:
    """Wait until no command uses the server any more, then call `end`, which ends this process.

    The lock is kept until then: a command that comes now waits for that, and starts a server of its
    own. So a process that does not end within END_SECONDS is ended here.
    """
    lock = hold_lock(_commands_lock(home), timeout=math.inf, on_wait=lambda: None)
    with lock:
        end()
        time.sleep(END_SECONDS)
        os._exit(1)


def running_server(home: Path) -> ApiAddress | None:
    """The server that is running on this installation; None: none is, or it does not answer.

    A record alone is no proof: a server that was killed leaves it, and somebody else may listen at
    its address by now and would be shown the password. The lock tells, which ends with its holder.
    """
    try:
        record = json.loads(_record(home).read_text())
        address = ApiAddress(url=record["url"], auth=record["auth"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not has_server(home) or not is_healthy(f"{address.url}/health"):
        return None
    return address


def has_server(home: Path) -> bool:
    """Whether somebody runs a server of this installation, which may still be coming up."""

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


def _commands_lock(home: Path) -> Path:
    return home / "seedvr2-commands.lock"


def _record(home: Path) -> Path:
    return home / "seedvr2-serve.json"


def _write_private(path: Path, text: str) -> None:
    """Write a new file that nobody but its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
