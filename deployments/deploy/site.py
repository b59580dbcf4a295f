"""The site's settings: one file that every part of an installation is given.

The file has lines NAME=value. Compose hands it to every service (env_file), systemd to host workers
(EnvironmentFile), and `make deploy` writes it into the work pools, whose workers hand it to jobs.
We take only what all three read alike.

A key is either written down, and then `make deploy` puts it into a Secret block of Prefect, or it
is a reference to such a block: {{ prefect.blocks.secret.NAME }}. A pool holds references alone.
"""

import difflib
import os
import re
import stat
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefect.blocks.system import Secret
from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from deployments.host.quiet import JSON_HANDLER, LOG_HANDLER_VARIABLE
from seedvr2_core.errors import InvalidRequestError, SeedVR2Error
from tasks.setting_groups.gateway import GatewaySettings
from tasks.settings import Settings
from tasks.storage.bunny_zone import read_zone

OF_ONE_MACHINE = frozenset(
    {
        *("work_dir", "output_dir", "weights_dir", "secrets_dir", "device", "resolutions"),
        *("allow_cpu_engine", "allow_local_files", "site_file"),
    }
)
"""Settings of one machine or one pool, which a site cannot set for all."""
NOT_FOR_JOBS = frozenset(
    {*GatewaySettings.model_fields, *("hf_endpoint", "image", "alert_url", "edge_key")}
)
"""Settings of other parts than a flow run: pools do not get them."""
_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_REFERENCE = re.compile(r"\{\{ *prefect\.blocks\.secret\.[a-z0-9-]+ *\}\}")
_PLAIN = re.compile(r"[^'\"\\$#`\s][^'\"\\$#`]*|")
_STAND_IN = "x" * 64
"""In the place of a key that only a worker can look up, when the settings are checked."""


def _variables() -> dict[str, str]:
    """The setting that each environment variable sets."""
    names = {}
    for setting, info in Settings.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [f"seedvr2_{setting}"]
        names.update({str(choice).upper(): setting for choice in choices})
    return names


def _is_key(setting: str) -> bool:
    """Whether a setting is a key that nobody may read."""
    kind = Settings.model_fields[setting].annotation
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return SecretStr in kinds


VARIABLES = _variables()
"""Environment variable -> the setting that it sets."""


class _OnlyGiven(Settings):
    """Settings from arguments alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the operator has set for the whole installation."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Value of each environment variable; a key may be a reference to a Secret block."""
    whole: bool = False
    """Whether these are all of the site's settings. If not, what pools were given before stays."""

    def settings(self, base: Settings) -> Settings:
        """`base` with what the site sets in its place."""
        given = _checked(self.values, "the site's settings")
        update = {name: getattr(given, name) for name in given.model_fields_set}
        return base.model_copy(update=update)

    def for_jobs(self) -> dict[str, str]:
        """The environment that pools give to their jobs; keys as references to Secret blocks."""
        given = {
            name: _reference(VARIABLES[name]) if self._is_open_key(name) else value
            for name, value in self.values.items()
            if VARIABLES[name] not in NOT_FOR_JOBS
        }
        if given.get("SEEDVR2_LOG_FORMAT") == "json":  # also the lines before the flow begins
            given[LOG_HANDLER_VARIABLE] = JSON_HANDLER
        return given

    def save_keys(self) -> list[str]:
        """Put the keys that are written down into Secret blocks of the Prefect server.

        Returns:
            The names of the blocks.
        """
        names = [name for name in self.for_jobs() if self._is_open_key(name)]
        for name in names:
            key = SecretStr(self.values[name])
            Secret(value=key).save(_block(VARIABLES[name]), overwrite=True)
        return [_block(VARIABLES[name]) for name in names]

    def _is_open_key(self, name: str) -> bool:
        return _is_key(VARIABLES[name]) and not _REFERENCE.fullmatch(self.values[name])


def read_site(path: Path) -> Site:
    """Read the site's file.

    Raises:
        InvalidRequestError: the file cannot be read, a line is not of the form NAME=value, a name
            is no setting, a value is wrong, or others may read keys that are written down.
    """
    try:
        # str.splitlines ends lines at characters where nobody else does.
        lines = path.read_text().split("\n")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the site's file {path} cannot be read: {error}") from error
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text, where = line.strip(" \t\r"), f"{path} line {number}"
        if text.startswith("#") and text.endswith("\\"):
            raise InvalidRequestError(
                f"{where} is a comment that ends with \\; for systemd it goes on in the next line"
            )
        if text and not text.startswith("#"):
            name, value = _read_line(text, where)
            values[name] = value
    _checked(values, str(path))
    site = Site(values=values, whole=True)
    if mode & (stat.S_IRGRP | stat.S_IROTH) and any(map(site._is_open_key, values)):
        raise InvalidRequestError(
            f"others can read {path}, and keys are written down in it: chmod 600 {path}"
        )
    return site


def site_of_environment(*, whole: bool) -> Site:
    """The site's settings as this process's environment has them.

    Args:
        whole: whether the environment holds all of them, as it does in Compose.
    """
    values = {
        name: value
        for name, value in os.environ.items()
        if name in VARIABLES and VARIABLES[name] not in OF_ONE_MACHINE and value
    }
    _checked(values, "the environment")
    return Site(values=values, whole=whole)


def _read_line(line: str, where: str) -> tuple[str, str]:
    """Read NAME=value. Values are shown in no message: one may be a key."""
    if not line.isprintable():
        raise InvalidRequestError(
            f"{where} has a character that cannot be seen; Compose, systemd and we may take it for "
            "the end of the line: remove it"
        )
    match = _LINE.fullmatch(line)
    if match is None:
        raise InvalidRequestError(f"{where} is not of the form NAME=value")
    name, value = match[1], match[2].strip()
    if name not in VARIABLES:
        like = difflib.get_close_matches(name, VARIABLES, n=1)
        hint = f"; is {like[0]} meant?" if like else "; docs/settings.md lists all of them"
        raise InvalidRequestError(f"{where}: {name} is no setting{hint}")
    if VARIABLES[name] in OF_ONE_MACHINE:
        raise InvalidRequestError(
            f"{where}: {name} belongs to one machine or one pool, not to the site: set it there"
        )
    if len(value) > 1 and value[0] == value[-1] == "'" and "'" not in value[1:-1]:
        return name, value[1:-1]
    if not _PLAIN.fullmatch(value):
        raise InvalidRequestError(
            f"{where}: the value of {name} has quotes, a space in front, or one of \\ $ # `, which "
            "Compose, systemd and we would read differently; put it between single quotes"
        )
    return name, value


def _checked(values: Mapping[str, str], where: str) -> Settings:
    """Check values as a job would, the storage's included.

    Raises:
        InvalidRequestError: a value is wrong or one is missing; no value is shown.
    """
    given = {}
    for name, value in values.items():
        is_reference = _REFERENCE.fullmatch(value)
        if "{{" in value and not (is_reference and _is_key(VARIABLES[name])):
            raise InvalidRequestError(
                f"{where}: {name} is no reference to a key; only keys may be taken from Secret "
                "blocks, by {{ prefect.blocks.secret.NAME }}"
            )
        given[VARIABLES[name]] = _STAND_IN if is_reference else value
    try:
        settings = _OnlyGiven(**given)  # pyright: ignore[reportArgumentType]
        if settings.storage == "bunny":
            read_zone(settings)
    except ValidationError as error:
        names = {setting: name for name, setting in VARIABLES.items() if name in values}
        told = [
            f"{names.get(str(one['loc'][0]), one['loc'][0])}: {one['msg']}"
            for one in error.errors(include_input=False, include_url=False)
        ]
        raise InvalidRequestError(f"{where} is wrong: {'; '.join(told)}") from error
    except SeedVR2Error as error:
        raise InvalidRequestError(f"{where} is wrong: {error}") from error
    return settings


def _block(setting: str) -> str:
    """Name of the Secret block of a key that was written down."""
    return f"seedvr2-{setting.replace('_', '-')}"


def _reference(setting: str) -> str:
    return f"{{{{ prefect.blocks.secret.{_block(setting)} }}}}"
