"""A command that is ready for signals and closed streams, before it imports anything else."""

import os
import signal
import sys


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends like Ctrl-C, with its own exit status."""


def prepare() -> None:
    """SIGTERM and SIGHUP raise `Stopped`; standard streams are open, and print names that are no UTF-8."""
    for descriptor in range(3):  # a closed stream's number would go to the next file, and messages into that file
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = sys.stdout or open(os.devnull, "w"), sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _stop)


def _stop(number: int, _) -> None:
    raise Stopped(number)


def status(stop: KeyboardInterrupt) -> int:
    """The exit status that shells expect: 130 after Ctrl-C."""
    return 128 + (stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT)
