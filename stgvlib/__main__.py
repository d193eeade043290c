"""`python -m stgvlib` is the `stgv` command."""

from stgvlib.cli import main

main()
