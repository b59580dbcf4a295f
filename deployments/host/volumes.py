"""Checks that this user can work in the folders that are mounted into its container.

A new volume belongs to the image's user, because Docker copies the owner from the image. A folder
of the host keeps the owner that it has there, and jobs would fail one by one at their first write.

    python -P -m deployments.host.volumes /var/lib/seedvr2/work
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from deployments.host.exits import exit_codes, run_program, say
from seedvr2_core.errors import ResourceError
from seedvr2_core.files.locks import has_flock

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders as the container sees them.")],
) -> None:
    """Check that these folders can be written and locked."""
    with exit_codes("nothing was changed"):
        for folder in folders:
            check_folder(folder, os.environ.get("SEEDVR2_WORK_VOLUME") or str(folder))
            say(f"{folder} can be written, and locks work")


def check_folder(folder: Path, on_host: str) -> None:
    """Check a folder by making a file and a lock in it.

    Args:
        folder: as this process sees it.
        on_host: volume or path as the operator knows it, for the message.

    Raises:
        ResourceError: it cannot be written, or its file system has no locks.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".seedvr2-check-"):
            locks = has_flock(folder)
    except OSError as error:
        owner = folder.stat().st_uid if folder.exists() else "nobody, as it does not exist"
        raise ResourceError(
            f"{on_host}, mounted at {folder}, cannot be written ({error.strerror}): it belongs to "
            f"uid {owner} and this container runs as uid {os.getuid()}; on the host, run "
            f"chown -R {os.getuid()} {on_host}"
        ) from error
    if not locks:
        raise ResourceError(
            f"{on_host}, mounted at {folder}, is on a file system without locks (flock), which "
            "jobs need; mount it with locks or use another one"
        )


if __name__ == "__main__":
    run_program(app)
