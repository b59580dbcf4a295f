"""Set up a Prefect server for this checkout and this site.

PREFECT_API_URL=http://127.0.0.1:4200/api python -P -m deployments.deploy pools|deploy|check
"""

from deployments.host.exits import exit_codes, run_program
from deployments.host.loopback import keep_loopback_direct
from deployments.host.quiet import outside_the_folder
from tasks.settings import get_settings, use_settings


def main() -> None:
    """Run a command outside of the caller's folder; see `commands`."""
    with exit_codes("nothing was applied"):
        use_settings(get_settings())  # their paths are relative to that folder
    with outside_the_folder():
        from deployments.deploy.commands import app

        app()


if __name__ == "__main__":
    keep_loopback_direct()
    run_program(main)
