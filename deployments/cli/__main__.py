"""The `seedvr2` command. `main` is what the installed script runs."""

import gc


def main() -> None:
    """Put the command together, then run it.

    The garbage collector waits meanwhile: what modules make at their import is used until the end,
    and looking through it again and again takes a fifth of the time to the first word.
    """
    gc.disable()
    from deployments.cli import app

    gc.freeze()
    gc.enable()
    app.main()


if __name__ == "__main__":
    main()
