"""The `seedvr2` command. `main` is what the installed script runs."""

import sys

from seedvr2_core.lazy import collector_waits


def main() -> None:
    """Put the command together, then run it."""
    try:
        with collector_waits():
            from deployments.cli import app
    except KeyboardInterrupt:  # what tells it otherwise (host/exits.py) is not loaded yet
        print("interrupted; nothing had begun: run it again", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
