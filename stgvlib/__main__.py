"""`stgv` and `python -m stgvlib`: ready for signals and closed streams before anything else is imported."""

import os
import signal
import sys


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends like Ctrl-C, with its own exit status."""


def _stop(number: int, _) -> None:
    raise Stopped(number)


def main() -> None:
    for descriptor in range(3):  # a closed stream's number would go to the next file, and messages into that file
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = sys.stdout or open(os.devnull, "w"), sys.stderr or open(os.devnull, "w")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _stop)
    try:
        from stgvlib.cli import main as command

        command()
    except KeyboardInterrupt as stop:
        print("stgv: stopped; files that were not finished are gone", file=sys.stderr)
        sys.exit(128 + (stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT))


if __name__ == "__main__":
    main()
