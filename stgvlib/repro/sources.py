"""Which code decides a result: a hash of the definitions that it reaches, and of the kernels that they launch.

All definitions of the modules that are named count, and what these use of stgvlib, and so on: functions, classes and
values of a module, each on its own. So a record stays current when code changes that its run does not reach, or when
only words change: comments, docstrings and empty lines do not count.
"""

import ast
import hashlib
import importlib
import importlib.util
import io
import sys
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

PACKAGE = "stgvlib"
ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "ops/cuda"
COMPILER = f"{PACKAGE}.ops.cuda.compiler"
LAUNCHES = ("run", "kernel")  # whose first argument is a kernel file's name
BODY = ""  # stands for what a module does besides imports and definitions

Use = tuple[str, str | None]  # module, a definition of it; None: all of it


def sources_hash(*modules: str) -> str:
    """16 hexadecimal digits for modules by their dotted names and what they reach."""
    digest = hashlib.sha256()
    for module, name in sorted(reached(*modules)):
        text = "\n".join(_parsed(module).texts[name]) if module else code_of(KERNELS / name)
        digest.update(f"{module} {name}\n{text}".encode())
    return digest.hexdigest()[:16]


@lru_cache
def reached(*modules: str) -> frozenset[tuple[str, str]]:
    """(module, definition) of all that modules reach; ("", file) for kernels."""
    found: set[tuple[str, str]] = set()
    todo: list[Use] = [(module, None) for module in modules]
    while todo:
        module, name = todo.pop()
        if (parsed := _parsed(module)) is None:
            continue
        # A name that is not defined there comes from somewhere else, or is made when it runs: all of the module counts.
        names = {name, BODY} if name in parsed.nodes else set(parsed.nodes)
        for each in names - {n for m, n in found if m == module}:
            found.add((module, each))
            found |= {("", file) for file in parsed.kernels(each)}
            todo += parsed.uses(each)
    return frozenset(found)


@lru_cache
def code_of(path: Path) -> str:
    """The text of a source file without comments, docstrings and empty lines."""
    return "\n".join(filter(None, _lines(path)))


def file_of(module: str) -> Path | None:
    """A module's file; none for packages of stgvlib, whose own files hold nothing that decides a result."""
    if module == PACKAGE or module.startswith(f"{PACKAGE}."):
        path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        return path if path.is_file() else None
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is None and loaded is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


class _Module:
    """The definitions of one file, and what each of them uses."""

    def __init__(self, name: str, path: Path):
        self.name = name
        self.nodes: dict[str, list[ast.stmt]] = {BODY: []}
        self.imports: dict[str, Use] = {}  # by the names that they have here
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.imports |= {here: use for n in ast.walk(node) for here, use in _imported(n)}
            if not isinstance(node, ast.Import | ast.ImportFrom):
                for name in _defined(node) or [BODY]:
                    self.nodes.setdefault(name, []).append(node)
        lines = _lines(path)
        self.texts = {name: [line for n in nodes for line in _part(lines, n)] for name, nodes in self.nodes.items()}

    def uses(self, name: str) -> Iterator[Use]:
        """What a definition names, also in strings, as annotations are."""
        nodes = [node for top in self.nodes[name] for node in ast.walk(top)]
        of_modules = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
        inside = {id(n.value) for n in of_modules}
        for node in of_modules:
            module, imported = self.imports.get(node.value.id, ("", ""))
            if imported is None:
                yield module, node.attr
        for node in nodes:
            yield from (use for _, use in _imported(node))  # inside a function
            word = node.id if isinstance(node, ast.Name) else getattr(node, "value", None)
            if not isinstance(word, str):
                continue
            if word in self.nodes:
                yield self.name, word
            if word in self.imports and (self.imports[word][1] is not None or id(node) not in inside):
                yield self.imports[word]
            if word.startswith(f"{PACKAGE}.") and file_of(word):
                yield word, None

    def kernels(self, name: str) -> set[str]:
        """Files of the kernels that a definition launches."""
        calls = [n for top in self.nodes[name] for n in ast.walk(top) if isinstance(n, ast.Call) and n.args]
        launches = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id in LAUNCHES]
        named = {getattr(c.args[0], "value", None) for c in launches}
        found = {word for word in named if isinstance(word, str) and (KERNELS / f"{word}.cu").is_file()}
        shared = ast.literal_eval(_parsed(COMPILER).nodes["SHARED"][0].value) if found else {}
        files = {f"{word}.cu" for word in found} | {file for word in found for file in shared.get(word, ())}
        return files | ({"half.cuh"} if found else set())


@lru_cache
def _parsed(module: str) -> _Module | None:
    path = file_of(module)
    return None if path is None else _Module(module, path)


def _imported(node: ast.AST) -> Iterator[tuple[str, Use]]:
    """(name here, what it is) for each import of stgvlib in a statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == PACKAGE:
                yield alias.asname or alias.name, (alias.name, None)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
        for alias in node.names:
            module, name = node.module, alias.name
            if file_of(f"{module}.{name}"):
                module, name = f"{module}.{name}", None
            elif file_of(module) is None:  # a package that finds its names when they are asked for
                places = getattr(importlib.import_module(module), "_PLACE_OF", {})
                module = f"{module}.{places[name]}" if name in places else module
            yield alias.asname or alias.name, (module, name)


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return []


def _part(lines: list[str], node: ast.stmt) -> list[str]:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return [line for line in lines[first - 1 : node.end_lineno] if line]


@lru_cache
def _lines(path: Path) -> list[str]:
    """Lines of a source file, empty where they are comments or docstrings."""
    text = path.read_text()
    lines = text.splitlines()
    if path.suffix != ".py":
        return [line.partition("//")[0].rstrip() for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return [line.rstrip() for line in lines]
