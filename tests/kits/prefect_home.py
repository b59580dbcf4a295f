"""A Prefect database that has its tables, made once on a machine and then copied.

A server that must create the tables itself starts 15 s later, and the tests start many servers.
Starting on an empty PREFECT_HOME is tested too: test_command.py, test_serve.py.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


def prepare_home(home: Path) -> None:
    """Copy the database into a PREFECT_HOME that has none yet."""
    database = home / "prefect.db"
    if not database.exists():
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_template(), database)


def _template() -> Path:
    """The database for this version of Prefect; a lock lets only one process make it."""
    name = f"seedvr2-test-database-{os.getuid()}-{version('prefect')}"
    template = Path(tempfile.gettempdir()) / f"{name}.db"
    with template.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            with tempfile.TemporaryDirectory(prefix=name) as folder:
                os.replace(_migrated(Path(folder)), template)
    return template


def _migrated(home: Path) -> Path:
    """Make a database with `prefect server database upgrade`."""
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    subprocess.run(
        command,
        env=environment | {"PREFECT_HOME": str(home)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return home / "prefect.db"
