"""A real PostgreSQL of Debian's, on a port and in a folder of its own, that a test may kill."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kits.processes import ends_with_us, free_port, kill_tree
from tests.kits.server import eventually

USER, DATABASE = "prefect", "prefect"
SECONDS = 120
_AT_ONCE = signal.SIGQUIT
"""At this signal PostgreSQL ends at once, with all processes that serve a connection."""


def binaries() -> Path:
    """The folder with the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    assert found, "apt-get install postgresql"
    return found[-1]


class Postgres:
    """One cluster. It trusts everybody who reaches its port, which is on loopback."""

    def __init__(self, folder: Path) -> None:
        """Make the cluster and start it."""
        self._bin, self._data, self.folder = binaries(), folder / "data", folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:  # it refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self.run("initdb", "--username", USER, "--auth", "trust", "--no-sync", "-D", self._data)
        self.start()
        self.run("createdb", *self._where, DATABASE)

    @property
    def url(self) -> str:
        """Value of PREFECT_SERVER_DATABASE_CONNECTION_URL."""
        return f"postgresql+asyncpg://{USER}:unused@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--host", "127.0.0.1", "--port", str(self.port), "--username", USER)

    def run(self, program: str, *words: str | Path) -> str:
        """Run one of its programs as its user; returns what it prints."""
        command = [str(self._bin / program), *map(str, words)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, cwd=self.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ("-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-F")
        owner = "postgres" if os.geteuid() == 0 else None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-k", self.folder, *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                user=owner,
                group=owner,
                extra_groups=[] if owner else None,
                preexec_fn=ends_with_us(_AT_ONCE),
            )
        eventually(self._answers, f"the start of PostgreSQL ({self.folder / 'log'})")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        asked = subprocess.run([self._bin / "pg_isready", *self._where], capture_output=True)
        return asked.returncode == 0

    def kill(self) -> None:
        """kill -9 it, with all processes that serve a connection."""
        assert self._process is not None
        kill_tree(self._process.pid)
        self._process.wait()

    def stop(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.send_signal(_AT_ONCE)  # does nothing to one that has ended
            self._process.wait(SECONDS)

    def ask(self, query: str, database: str = DATABASE) -> list[list[str]]:
        """The rows of a query, as text."""
        told = self.run("psql", *self._where, "-At", "-F", "\t", "-c", query, database)
        return [line.split("\t") for line in told.splitlines()]

    def dump(self, file: Path) -> None:
        """Back the database up, as docs/operations.md does it."""
        self.run("pg_dump", *self._where, "-Fc", "-f", file, DATABASE)

    def restore(self, file: Path) -> None:
        """Replace the database by a backup, as docs/operations.md does it."""
        self.run("dropdb", *self._where, "--if-exists", "--force", DATABASE)
        self.run("createdb", *self._where, DATABASE)
        self.run("pg_restore", *self._where, "--exit-on-error", "-d", DATABASE, file)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A cluster that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="seedvr2-postgres-"))
    folder.chmod(0o755)
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
