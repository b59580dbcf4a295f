"""`seedvr2 init`: asks five questions and writes the settings of the installation."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.init.questions import Answers, Questionnaire
from deployments.cli.init.settings_file import settings_file, write_settings
from deployments.cli.words import absolute
from deployments.host.exits import exit_codes, say, tell
from deployments.host.quiet import outside_the_folder
from seedvr2_core.errors import InvalidRequestError

SITE_FILE = Path(__file__).parents[2] / "site.env"
"""What `make deploy` reads if SEEDVR2_SITE_FILE names no other."""


def init(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; default: site.env in the folder deployments, which "
            "`make deploy` and Compose read.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(help="Where work is kept: folder (the work directory) or s3://BUCKET/FOLDER."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Where finished videos go: local, bunny or s3.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="Which GPUs make the videos: local, h100, h200, or both (h100, h200)."),
    ] = None,
    token: Annotated[
        bool | None,
        typer.Option(
            "--token/--no-token", help="Whether callers of the gateway need a token; it is made."
        ),
    ] = None,
    hour_price: Annotated[
        str | None, typer.Option(help="What an hour of a worker's machine costs, or none.")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting by its variable (docs/settings.md); may be given again. A key is "
            "better in the environment, where init finds it by its name.",
        ),
    ] = None,
) -> None:
    """Ask five questions and write the settings of the installation.

    What an option answers is not asked. Where nobody can be asked, all five have to be given. The
    file is for its owner alone (mode 600), and none is replaced without --overwrite. The last line
    of stdout is its path.
    """
    with exit_codes("nothing was written", then="run it again"):
        path = settings_file(absolute(output or SITE_FILE, "--output"), overwrite=overwrite)
        answers = Answers(
            store=store,
            storage=storage,
            pool=pool,
            token=token,
            hour_price=hour_price,
            settings=_settings_of(more or ()),
        )
        asks = sys.stdin.isatty()
        if answers.missing and not asks:
            raise InvalidRequestError(
                "stdin is no terminal, so nobody can be asked; give "
                f"{', '.join(answers.missing)} as options, or run it in a terminal"
            )
        with outside_the_folder():
            from deployments.deploy.site import check_values

            questions = Questionnaire(
                answers, lambda values: check_values(values, "this answer"), asks=asks
            )
            questions.run()
            write_settings(path, questions.values, overwrite=overwrite)
        _say_what_next(path, questions.token)
    tell(str(path))


def _settings_of(given: Sequence[str]) -> dict[str, str]:
    """The settings of --set.

    Raises:
        InvalidRequestError: one is not of the form NAME=VALUE, or no setting of an installation.
    """
    from deployments.deploy.site import read_setting

    return dict(read_setting(one, "--set") for one in given)


def _say_what_next(path: Path, token: str) -> None:
    """How the file is used, and the token, which stands nowhere else."""
    say(f"done: {path}, which its owner alone can read")
    if token:
        say(f"  token for callers, shown this once: {token}")
        say("  the file holds its digest; commands send it by SEEDVR2_GATEWAY_TOKEN")
    named = shlex.quote(str(path))
    say(f"  one machine: set -a; . {named}; set +a; make serve")
    if path == SITE_FILE:
        say("  several: make deploy (docs/operations.md)")
    else:
        say(f"  several: SEEDVR2_SITE_FILE={named} make deploy (docs/operations.md)")
