"""The settings file that `seedvr2 init` writes: for its owner alone, and never over one unasked."""

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.place import place, try_writing

_HEAD = """\
# Settings of the whole installation, written by `seedvr2 init`. Keep the file to yourself: it may
# hold keys. `make deploy`, Compose and systemd read it, and so does a shell:
#   set -a; . {path}; set +a
# docs/settings.md lists the names, deployments/site.env.sample shows the others that are usual.
"""


def check_target(path: Path, *, overwrite: bool) -> None:
    """Check before anybody is asked that the file can be written; leaves nothing behind.

    Raises:
        InvalidRequestError: it is there already, is no regular file, or its folder cannot be
            written.
    """
    if os.path.lexists(path):
        if not path.is_file():
            raise InvalidRequestError(f"{path} is there and no file; name another with --output")
        if not overwrite:
            raise InvalidRequestError(
                f"{path} exists already, and is replaced only with --overwrite; name another with "
                "--output"
            )
    if not path.parent.is_dir():
        raise InvalidRequestError(f"the folder {path.parent} does not exist; name another file")
    try:
        try_writing(path.parent)
    except OSError as error:
        raise InvalidRequestError(
            f"the folder {path.parent} cannot be written ({error.strerror}); name another file"
        ) from error


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
