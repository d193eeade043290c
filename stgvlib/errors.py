"""The one error that users see: bad input, told in one line; the command line prints it and exits with status 2."""


class StgvError(Exception):
    """Something the user can mend. The message says what came, what was expected and what to do."""
