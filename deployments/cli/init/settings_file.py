"""The settings file that `seedvr2 init` writes: for its owner alone, and never over one unasked."""

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.place import place
from seedvr2_core.job.output_file import OutputFile, check_output_file

_HEAD = """\
# Settings of the whole installation, written by `seedvr2 init`. Keep the file to yourself: it may
# hold keys. `make deploy`, Compose and systemd read it, and so does a shell:
#   set -a; . {path}; set +a
# docs/settings.md lists the names, deployments/site.env.sample shows the others that are usual.
"""


def settings_file(path: Path, *, overwrite: bool) -> Path:
    """Where the settings go, checked before anybody is asked; leaves nothing behind.

    Args:
        path: as it was asked for; links are followed, as for every file that a command writes.
        overwrite: whether a file of this name is replaced.

    Raises:
        InvalidRequestError: as `check_output_file`.
    """
    file = OutputFile(path=path, overwrite=overwrite, endings=())
    check_output_file(file)
    return file.target


def write_settings(path: Path, values: Mapping[str, str], *, overwrite: bool) -> None:
    """Write the file, readable by its owner alone; it is read again as `make deploy` reads it.

    Raises:
        InvalidRequestError: a value cannot be written so that all who read the file agree, or
            somebody has made the file meanwhile.
    """
    from deployments.deploy.site import read_site

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    lines = [f"{name}={_quoted(name, value)}" for name, value in values.items()]
    text = _HEAD.format(path=shlex.quote(str(path))) + "\n" + "\n".join(lines) + "\n"
    try:
        descriptor = os.open(
            part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR
        )
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if dict(read_site(part).values) != dict(values):
            raise InvalidRequestError("a value does not survive being written: use plain letters")
        if not place(part, path, part_name=f"{part.name}.named", replace=overwrite):
            raise InvalidRequestError(f"{path} has come into being meanwhile, and is not replaced")
    finally:
        part.unlink(missing_ok=True)


def _quoted(name: str, value: str) -> str:
    """A value as Compose, systemd, shells and we read it alike.

    Raises:
        InvalidRequestError: it has a single quote beside what needs them.
    """
    from deployments.deploy.site import PLAIN

    if PLAIN.fullmatch(value) and not any(letter in value for letter in " \t&;|<>()~!"):
        return value
    if "'" in value:
        raise InvalidRequestError(
            f"{name} has a single quote, which Compose, systemd and shells read differently"
        )
    return f"'{value}'"
