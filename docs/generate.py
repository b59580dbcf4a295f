"""Writes docs/options.md, settings.md, errors.md, cards.md and http.md from the code.

`python docs/generate.py` (or `make docs`) writes the pages. tests/docs/test_generated.py fails
when a committed page differs from what this file would write.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from deployments.cli.app import app
from seedvr2_core.config import ENGINES
from seedvr2_core.errors import all_errors
from seedvr2_core.planning.sizes import NAMED
from seedvr2_core.video.alpha.wish import ALPHA_EXAMPLES
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # a test loads this file by its path

from cards_page import cards_page  # noqa: E402
from http_page import http_page  # noqa: E402
from page_parts import prose, table  # noqa: E402

NOTICE = (
    "<!-- Written by docs/generate.py from the code. Change the code, then run `make docs`. -->"
)

SECTIONS = (
    ("Sources", ("fetch_",)),
    ("Bunny storage", ("bunny_",)),
    ("Object stores and buckets", ("store", "link_", "s3_", "gcs_", "azure_")),
    ("Gateway, edge and callbacks", ("gateway_", "allowed_", "edge_", "public_url", "callback_")),
    ("Deploying and recovering", ("deployments", "image", "alert_", "heartbeat_", "recover_")),
)
"""Heading of a table of settings, and how the names of its fields begin."""
FIRST_SECTION = "This machine or pool"
"""Heading for the fields that no other section takes."""

REQUEST_COMMANDS = ("upscale", "plan", "submit")
"""Commands that take the options of the request."""

OTHER_VARIABLES = (
    ("PREFECT_API_URL", "Prefect server that records the runs; `seedvr2 serve` does not use it."),
    ("PREFECT_API_AUTH_STRING", "user:password that clients of the Prefect server show to it."),
    (
        "PREFECT_SERVER_API_AUTH_STRING",
        "user:password that a Prefect server asks for; `seedvr2 serve` makes one if it is not set.",
    ),
    ("PREFECT_HOME", "Folder of Prefect's own database where the server is not PostgreSQL."),
    ("SEEDVR2_GPU", "Docker workers: index or UUID of the GPU that the worker's runs get."),
    ("SEEDVR2_WORK_VOLUME", "Docker workers: volume or folder of the work directory."),
    ("SEEDVR2_WEIGHTS_VOLUME", "Docker workers: volume or folder of the weights."),
    (
        "SEEDVR2_LOG_HANDLER",
        "Compose: tasks.json_logs.JsonConsole for JSON logs of workers that Prefect starts.",
    ),
    ("SEEDVR2_NETWORK", "Docker workers: network of the containers; optional."),
    ("SEEDVR2_POLL_SECONDS", "`upscale.sh`: seconds between two questions; default 5."),
    ("SEEDVR2_SHARED", "Tests: folder of the full case set; without it those tests are skipped."),
)
"""Variables that are read outside tasks/settings.py: by Prefect, the pools, scripts and tests."""


def options_page() -> str:
    """The page on requests and on the options of every command."""
    parts = [
        "# Options",
        NOTICE,
        prose(
            "A request is the same everywhere: the parameters of the flow, the form in Prefect's "
            "UI, the fields of the gateway's JSON and the options of `seedvr2 upscale` and "
            "`seedvr2 submit` are one list. What an installation allows is on the page "
            "[settings](settings.md)."
        ),
        "## The request",
        prose(
            "A request names exactly one source: `video_url`, `video_path` or `video_base64`. On "
            "the command line the source is the argument `SOURCE`, a file or an address. Every "
            "option that changes a byte of the output is part of the job's key, so another value "
            "makes another job. A field without an option is taken by the other doors only."
        ),
        table(("field", "option", "default", "values", "meaning"), request_rows()),
        "## The commands",
        "The tables leave out the options of the request.",
        *command_parts(),
    ]
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """The page on the environment."""
    parts = [
        "# Settings",
        NOTICE,
        prose(
            "The environment says what an installation allows and where it keeps things; what one "
            "job should do is [an option](options.md). `tasks/settings.py` is the only reader. If "
            "`SEEDVR2_SECRETS_DIR` is set, a value may also stand in a file of that folder that is "
            "named like the variable; the environment wins. A variable that is empty counts as one "
            "that is not set."
        ),
        prose(
            "The commands that run jobs on your own machine (`seedvr2 upscale`, `plan`, `doctor`, "
            "`serve`) turn `SEEDVR2_ALLOW_LOCAL_FILES` and `SEEDVR2_ALLOW_CPU_ENGINE` on. "
            "Durations are in seconds, sizes in bytes."
        ),
    ]
    for heading, fields in settings_by_section():
        rows = [settings_row(name, field) for name, field in fields]
        parts += [f"## {heading}", table(("variable", "default", "values", "meaning"), rows)]
    others = [(f"`{name}`", meaning) for name, meaning in OTHER_VARIABLES]
    parts += [
        "## Read elsewhere",
        prose(
            "These variables are no fields of `Settings`: Prefect, the docker pools, `upscale.sh` "
            "and the tests read them."
        ),
        table(("variable", "meaning"), others),
    ]
    return "\n\n".join(parts) + "\n"


def errors_page() -> str:
    """The page on the kinds of errors."""
    rows = (
        (
            f"`{kind.code}`",
            (kind.__doc__ or "").strip().partition("\n")[0],
            kind.remedy,
            "2" if kind.user_mistake else "1",
            "no" if kind.permanent else "yes",
        )
        for kind in all_errors()
    )
    parts = [
        "# Errors",
        NOTICE,
        prose(
            "Every error has a code that never changes and a sentence of its own that says what "
            "is wrong, what was got, what was expected and what to do. The command shows the code "
            "behind the sentence (`error: ... [invalid_video]`), and below it what helps; the "
            "message of a failed run in Prefect has all three. The gateway has `error`, "
            "`error_code` and `error_remedy` in a job's status and `detail`, `code` and `remedy` "
            "in a refusal; a [callback](callbacks.md) has the same three as a status. What a "
            "failure looks like and how to find its cause is on the page "
            "[troubleshooting](troubleshooting.md)."
        ),
        prose(
            "The exit code is that of the commands; a step whose error may heal is tried again by "
            "itself before the job fails."
        ),
        table(("code", "meaning", "what helps", "exit code", "tried again"), rows),
    ]
    return "\n\n".join(parts) + "\n"


def request_rows() -> Iterator[tuple[str, ...]]:
    """One row for each field of the request."""
    commands = [command_named(name) for name in ("submit", "upscale")]
    options = {param.name: param.opts[0] for command in commands for param in command.params}
    for name, field in UpscaleRequest.model_fields.items():
        option = options.get(name)
        if name in ("video_url", "video_path"):
            option = "SOURCE"
        yield (
            f"`{name}`",
            f"`{option}`" if option else "",
            default_of(field),
            values_of(field),
            field.description or "",
        )


def settings_by_section() -> list[tuple[str, list[tuple[str, FieldInfo]]]]:
    """Every field of the settings under its heading, in the order of the code."""
    found: dict[str, list[tuple[str, FieldInfo]]] = {FIRST_SECTION: []}
    found |= {heading: [] for heading, _ in SECTIONS}
    for name, field in Settings.model_fields.items():
        found[section_of(name)].append((name, field))
    return list(found.items())


def section_of(name: str) -> str:
    """Heading of a field."""
    return next((h for h, begins in SECTIONS if name.startswith(begins)), FIRST_SECTION)


def settings_row(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Variable with its other names, default, values, meaning."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        variables = [str(choice) for choice in alias.choices]
    else:
        variables = [f"SEEDVR2_{name.upper()}"]
    shown = " or ".join(f"`{variable}`" for variable in variables)
    return shown, default_of(field), values_of(field), field.description or ""


def command_parts() -> Iterator[str]:
    """A heading, a sentence and a table for each command."""
    of_request = set(UpscaleRequest.model_fields) | {"sources"}
    for name, command in commands(typer.main.get_command(app)):
        left_out = of_request if name in REQUEST_COMMANDS else set[str]()
        yield f"### `seedvr2 {name}`"
        yield (command.help or "").strip()
        rows = [option_row(param) for param in command.params if param.name not in left_out]
        if rows:
            yield table(("option", "default", "meaning"), rows)


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, command) for every command, those of groups with the group's name in front."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def command_named(name: str) -> Any:
    """The click command of that name."""
    return dict(commands(typer.main.get_command(app)))[name]


def option_row(param: Any) -> tuple[str, str, str]:
    """An option or argument, its default and its help text."""
    argument = param.param_type_name == "argument"
    shown = param.metavar or param.name.upper() if argument else param.opts[0]
    default = param.default
    if param.required:
        return f"`{shown}`", "required", param.help or ""
    return f"`{shown}`", text_of(default), param.help or ""


def default_of(field: FieldInfo) -> str:
    """The default as a cell."""
    return text_of(field.default) or "none"


def text_of(value: object) -> str:
    """A default value in the words of the environment; nothing where there is none."""
    if value is None or value in ("", (), []) or not isinstance(value, _SHOWN):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Path):
        home = Path.home()
        return f"`~/{value.relative_to(home)}`" if value.is_relative_to(home) else f"`{value}`"
    if isinstance(value, dict):
        return ", ".join(f"`{key}={item}`" for key, item in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value:.12g}`" if isinstance(value, float) else f"`{value}`"


_SHOWN = (str, bool, int, float, Path, dict, tuple, list)


def values_of(field: FieldInfo) -> str:
    """What a field may be: its words, or its bounds."""
    kind = plain_type(field.annotation)
    if field is UpscaleRequest.model_fields.get("model"):
        return ", ".join(f"`{name}`" for name in ("auto", *offered()))
    if field is UpscaleRequest.model_fields["resolution"]:
        return ", ".join(f"`{name}`" for name in (*NAMED, "2x", "1920x1080"))
    if field is UpscaleRequest.model_fields["alpha"]:
        return ", ".join(f"`{name}`" for name in ALPHA_EXAMPLES)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind is SecretStr:
        return bounds(field.metadata, "secret")
    return bounds(field.metadata, "")


def offered() -> Iterable[str]:
    """The engines that every installation offers; those for trials need a setting."""
    return (name for name, spec in ENGINES.items() if not spec.test_only)


def plain_type(kind: Any) -> Any:
    """The type without `| None` and annotations."""
    if get_origin(kind) is Annotated:
        return plain_type(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return plain_type(next(one for one in get_args(kind) if one is not NoneType))
    return kind


def bounds(metadata: Sequence[Any], kind: str) -> str:
    """Limits in words: "1 to 10000"."""
    words = [kind] if kind else []
    least = next((m.ge for m in metadata if isinstance(m, Ge)), None)
    most = next((m.le for m in metadata if isinstance(m, Le)), None)
    above = next((m.gt for m in metadata if isinstance(m, Gt)), None)
    below = next((m.lt for m in metadata if isinstance(m, Lt)), None)
    length = next((m.min_length for m in metadata if isinstance(m, MinLen)), None)
    words += [f"{least} or more"] if least is not None and most is None else []
    words += [f"{least} to {most}"] if least is not None and most is not None else []
    words += [f"more than {above}"] if above is not None else []
    words += [f"at most {most}"] if least is None and most is not None else []
    words += ["less than 2^64" if below == 2**64 else f"less than {below}"] if below else []
    words += [f"{length} characters or more"] if length is not None else []
    return ", ".join(words)


PAGES = {
    "options.md": options_page,
    "settings.md": settings_page,
    "errors.md": errors_page,
    "cards.md": lambda: cards_page(NOTICE),
    "http.md": lambda: http_page(NOTICE),
}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")


if __name__ == "__main__":
    main()
