"""What users see when their input cannot be used: one line that says what came, what was expected and what to do."""


class StgvError(Exception):
    """Input that cannot be used; its text is one line for the user."""


def size_text(size: tuple[int, int]) -> str:
    """(height, width) in px as messages print it: 1280x640 is 1280 wide."""
    return f"{size[1]}x{size[0]}"
