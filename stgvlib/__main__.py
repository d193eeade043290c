"""`stgv` and `python -m stgvlib`."""

import sys

from stgvlib.signals import prepare, status


def main() -> None:
    """Run the command; exits with 0, 2 (bad input), 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP)."""
    prepare()
    try:
        from stgvlib.cli import main as command

        command()
    except KeyboardInterrupt as stop:
        print("stgv: stopped; files that were not finished are gone", file=sys.stderr)
        sys.exit(status(stop))


if __name__ == "__main__":
    main()
