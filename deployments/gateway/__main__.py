"""Run the gateway, or make a token for it.

SEEDVR2_GATEWAY_TOKENS=<digest>,... python -P -m deployments.gateway --host 0.0.0.0 --port 8000
"""

import re
from typing import Annotated

import typer

from deployments.gateway.auth import check_exposure, digest, make_token
from deployments.host.exits import exit_codes, run_program
from deployments.host.loopback import keep_loopback_direct
from deployments.host.quiet import outside_the_folder
from seedvr2_core.errors import InvalidRequestError
from tasks.net.signing import key_id, receiver_secret
from tasks.settings import Settings, get_settings


def main(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine, behind a proxy.")
    ] = "127.0.0.1",
    parent: Annotated[
        int | None, typer.Option(help="Id of a process; the gateway ends with it.")
    ] = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Print a new token and its digest, and exit.")
    ] = False,
    receiver: Annotated[
        str | None,
        typer.Option(help="Print the callback secret of the receiver with this host, and exit."),
    ] = None,
) -> None:
    """Run the gateway; it submits jobs to the Prefect server at PREFECT_API_URL."""
    with exit_codes("jobs go on"):
        if new_token:
            token = make_token()
            typer.echo(f"token (for the caller):            {token}")
            typer.echo(f"digest (SEEDVR2_GATEWAY_TOKENS):   {digest(token)}")
            return
        settings = get_settings()
        if receiver is not None:
            print_receiver(receiver, settings)
            return
        check_exposure(host, settings)
        with outside_the_folder():
            from deployments.gateway.app import create_app
            from deployments.gateway.prefect_api import PrefectApi
            from deployments.host.listen import run_server

            app = create_app(settings, PrefectApi())
            run_server(app, "gateway", host=host, port=port, parent=parent)


def print_receiver(host: str, settings: Settings) -> None:
    """Print the secret that one receiver of callbacks checks signatures with.

    Raises:
        InvalidRequestError: the operator's secret is not set, or this is no host.
    """
    if settings.callback_secret is None:
        raise InvalidRequestError(
            "set SEEDVR2_CALLBACK_SECRET: a receiver's secret is made from it"
        )
    if re.fullmatch(r"[A-Za-z0-9._:-]+", host) is None or "//" in host:
        raise InvalidRequestError(f"got {host[:80]!r}; expected a host name without scheme or path")
    secret = receiver_secret(settings.callback_secret, host)
    typer.echo(f"secret (for {host}): {secret}")
    typer.echo(f"key id (k in the header): {key_id(secret)}")


if __name__ == "__main__":
    keep_loopback_direct()
    run_program(lambda: typer.run(main))
