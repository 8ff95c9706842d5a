"""The project's own source as values: modules, their kind, and what they import. Used by the tests that hold the design."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("pure", "adapter", "service", "entry point")
_KIND = re.compile(r"\((pure|adapter|service|entry point)\b")


@dataclass(frozen=True)
class Import:
    """One imported module, by its full dotted name, wherever in the file it is imported."""

    name: str
    line: int

    @property
    def top(self) -> str:
        """The first part: the distribution, as far as that can be told from a name."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """One Python file."""

    path: str
    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)

    @property
    def is_package(self) -> bool:
        """It is an ``__init__.py``."""
        return self.path.endswith("__init__.py")

    @property
    def domain(self) -> str:
        """The folder of hpctrain it lies in; the module's own name for a root module; "" outside hpctrain."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "hpctrain" and len(parts) > 1 else ""

    @cached_property
    def kind(self) -> str:
        """What the first paragraph of the docstring says it is; "" if it says nothing."""
        summary = (ast.get_docstring(self.tree) or "").split("\n\n")[0]
        match = _KIND.search(" ".join(summary.split()))
        return match.group(1) if match else ""

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import, also inside functions; ``from hpctrain.a import b`` names ``hpctrain.a.b`` if that is a file."""
        return tuple(self._imports())

    def _imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield Import(full if _is_module(full) else base, node.lineno)
            elif isinstance(node, ast.Call) and _is_import_module(node):
                yield Import(node.args[0].value, node.lineno)  # type: ignore[attr-defined] - checked by _is_import_module

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        package = parts if self.is_package else parts[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])

    def where(self, line: int) -> str:
        """``path:line``, as editors understand it."""
        return f"{self.path}:{line}"


def modules(*folders: str) -> list[Module]:
    """Every Python file below these folders of the checkout, in order of path."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)
    return [_read(path) for path in paths]


def package() -> list[Module]:
    """Every file of the package."""
    return modules("hpctrain")


def is_standard(name: str) -> bool:
    """The module is part of Python (tomllib is not yet, in 3.10)."""
    return name.partition(".")[0] in sys.stdlib_module_names or name == "__future__"


def functions(tree: ast.AST) -> Iterable[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def _read(path: Path) -> Module:
    relative = path.relative_to(ROOT)
    parts = list(relative.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return Module(str(relative), ".".join(parts), path.read_text())


@cache
def _is_module(name: str) -> bool:
    base = ROOT.joinpath(*name.split("."))
    return name.startswith("hpctrain.") and (base.with_suffix(".py").is_file() or base.is_dir())


def _is_import_module(node: ast.Call) -> bool:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    return called in ("import_module", "__import__") and isinstance(first, ast.Constant) and isinstance(first.value, str)
