"""What users see when their input cannot be used: one line that says what came, what was expected and what to do."""


class StgvError(Exception):
    """Input that cannot be used. Its text is one line: what came, what was expected, what to do.

    Examples:
        >>> from stgvlib import StgvError, open_video
        >>> try:
        ...     open_video("nowhere.mp4")
        ... except StgvError as error:
        ...     print(error)
        nowhere.mp4 does not exist; expected a video file or a folder of PNG or JPEG frames
    """


def size_text(size: tuple[int, int]) -> str:
    """(height, width) in px as messages print it: 1280x640 is 1280 wide."""
    return f"{size[1]}x{size[0]}"
