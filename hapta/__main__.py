"""`python -m hapta` and the `hapta` command: both are the command line of `hapta.cli`."""

from __future__ import annotations


def main() -> None:
    """Runs the command line and ends the process with its status."""
    from hapta.cli.main import run

    run()


if __name__ == "__main__":
    main()
