"""The `seedvr2` command. `main` is what the installed script runs."""

from seedvr2_core.lazy import collector_waits


def main() -> None:
    """Put the command together, then run it."""
    with collector_waits():
        from deployments.cli import app
    app.main()


if __name__ == "__main__":
    main()
