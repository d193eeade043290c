"""Which code decides a result: a hash of modules, of all of stgvlib that they import, and of the kernels.

Comments, docstrings and empty lines do not count, so a record stays current when only words change.
"""

import ast
import hashlib
import importlib.util
import io
import sys
import tokenize
from functools import lru_cache
from pathlib import Path

PACKAGE = "stgvlib"
KERNELS = f"{PACKAGE}.ops.cuda.compiler"  # who imports it decides with all .cu files


def sources_hash(*modules: str) -> str:
    """16 hexadecimal digits for modules by their dotted names and what they import, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(_closure(modules)):
        if (path := _file(name)) is not None:
            digest.update(f"{name}\n{code_of(path)}".encode())
    return digest.hexdigest()[:16]


@lru_cache
def code_of(path: Path) -> str:
    """The text of a source file without comments, docstrings and empty lines."""
    text = path.read_text()
    if path.suffix != ".py":
        lines = [line.partition("//")[0].rstrip() for line in text.splitlines()]
        return "\n".join(filter(None, lines))
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


@lru_cache
def _closure(modules: tuple[str, ...]) -> frozenset[str]:
    found, todo = set(), list(modules)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name == KERNELS:
            found.update(f"kernel:{path.name}" for path in Path(__file__).parents[1].glob("ops/cuda/*.cu*"))
        if (path := _file(name)) is not None and path.suffix == ".py":
            todo += _imports(path)
    return frozenset(found)


def _imports(path: Path) -> list[str]:
    """Modules of stgvlib that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name for name in inside if _file(name) is not None] or [node.module]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
    return names


def _file(name: str) -> Path | None:
    root = Path(__file__).parents[1]
    if name.startswith("kernel:"):
        return root / "ops/cuda" / name.removeprefix("kernel:")
    if name == PACKAGE or name.startswith(f"{PACKAGE}."):  # packages' own files hold nothing that decides a result
        path = root.joinpath(*name.split(".")[1:]).with_suffix(".py")
        return path if path.is_file() else None
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if origin is None and module is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None
