"""The player's JavaScript modules as one script, which works from file:// and in a notebook, where imports do not.

Each module becomes a function that returns its exports; there is no build step and nothing else is changed.
"""

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
MODULES = (
    *("entropy", "header", "format", "field", "predict", "shaders", "pack", "render"),
    *("keyframes", "clock", "window", "compare", "overlay", "controls", "input", "player", "start"),
)
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.M)


@cache
def script() -> str:
    """All modules, in an order in which each finds what it imports."""
    return "const modules = {};\n" + "".join(map(_wrapped, MODULES))


def _wrapped(name: str) -> str:
    text = source(f"{name}.js")
    exports = [found.group(1) for found in _EXPORT.finditer(text)]
    body = _EXPORT.sub("", _IMPORT.sub(r"const {\1} = modules.\2;\n", text))
    if stray := re.search(r"^(import|export)\b.*", body, re.M):
        raise ValueError(f"{name}.js: the bundle does not know the form {stray.group()!r}")
    return f"modules.{name} = (() => {{\n{body}return {{ {', '.join(exports)} }};\n}})();\n"


def source(name: str) -> str:
    """A file of the player."""
    return (FOLDER / name).read_text(encoding="utf-8")
