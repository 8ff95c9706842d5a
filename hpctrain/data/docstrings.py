"""Questions about Python's standard library, answered by its docstrings (adapter over the library's source files).

Nothing is imported but what the interpreter holds anyway: the modules are parsed. Which functions there are depends on the
version of Python, their order and their split into training and validation do not depend on anything else.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import math
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hpctrain.data.question_row import question_row
from hpctrain.errors import HpctrainError

MODULES = (
    "argparse", "base64", "bisect", "calendar", "cmd", "code", "collections", "colorsys", "configparser", "contextlib",
    "copy", "csv", "difflib", "dis", "enum", "filecmp", "fileinput", "fnmatch", "fractions", "ftplib", "functools",
    "getpass", "gettext", "glob", "graphlib", "gzip", "heapq", "hmac", "html", "http.client", "imaplib", "inspect",
    "ipaddress", "json", "keyword", "linecache", "locale", "logging", "mailbox", "mimetypes", "operator", "os",
    "pickle", "platform", "plistlib", "posixpath", "pprint", "queue", "quopri", "random", "reprlib", "sched", "secrets",
    "shelve", "shlex", "shutil", "smtplib", "socket", "socketserver", "statistics", "string", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "timeit", "tokenize", "trace", "traceback", "types", "urllib.parse",
    "urllib.request", "uuid", "warnings", "wave", "weakref", "webbrowser", "zipfile",
)
"""Modules with good docstrings; one that a Python does not have is left out."""
LIVE = (str, bytes, int, float, list, tuple, dict, set, frozenset, math, builtins)
"""What is written in C, and held by every interpreter."""
SHORTEST, LONGEST = 20, 160
"""Characters of an answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A name of the standard library and the first sentence of its docstring."""

    name: str
    kind: str
    answer: str

    @property
    def text(self) -> str:
        """The question in words."""
        return f"What is {self.name}?" if self.kind == "class" else f"What does {self.name} do?"


@cache
def questions() -> tuple[Question, ...]:
    """All questions, in an order that looks random and is the same every time.

    Raises:
        HpctrainError: this Python comes without the source of its library.
    """
    found = {question.name: question for question in _live()}
    root = Path(sysconfig.get_path("stdlib"))
    parsed = 0
    for module in MODULES:
        path = root / f"{module.replace('.', '/')}.py"
        path = path if path.is_file() else root / module.replace(".", "/") / "__init__.py"
        if path.is_file():
            parsed += 1
            for question in _of_module(module, path):
                found.setdefault(question.name, question)
    if not parsed:
        raise HpctrainError("this Python comes without the source of its standard library", where=str(root),
                            hint="take data.source 'python-docs' or 'arithmetic'")
    return tuple(sorted(found.values(), key=lambda question: _digest(question.name)))


def docstring_rows(format_: str) -> Iterator[dict[str, Any]]:
    """The questions as rows of a format.

    In ``preference`` rows the worse answer breaks off in the middle, or belongs to another question, in turn.
    """
    every = questions()
    for number, question in enumerate(every):
        if format_ == "prompt_completion":  # as plain text: an example of this form, too
            yield {"prompt": f"{question.text}\n", "completion": question.answer}
            continue
        worse = _broken_off(question.answer) if number % 2 else every[(number + 1) % len(every)].answer
        yield question_row(format_, question.text, question.answer, worse)


def first_sentence(doc: str | None) -> str:
    """The first sentence of a docstring on one line, "" where there is none worth asking for."""
    paragraphs = inspect.cleandoc(doc or "").split("\n\n")
    lines = [line for line in paragraphs[0].splitlines() if "->" not in line]
    if not lines and len(paragraphs) > 1:  # the signature of something written in C stands alone
        lines = paragraphs[1].splitlines()
    text = " ".join(" ".join(lines).split())
    end = text.find(". ")
    text = text[: end + 1] if end >= SHORTEST else text
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    plain = text.isascii() and text[:1].isalpha() and not text.endswith(":.") and "(" not in text.split()[0]
    return text if plain and SHORTEST <= len(text) <= LONGEST and " " in text else ""


def _of_module(module: str, path: Path) -> Iterator[Question]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    yield from _below(tree, module)


def _below(node: ast.Module | ast.ClassDef, name: str) -> Iterator[Question]:
    for child in node.body:
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or child.name.startswith("_"):
            continue
        answer = first_sentence(ast.get_docstring(child))
        if answer:
            yield Question(f"{name}.{child.name}", "class" if isinstance(child, ast.ClassDef) else "function", answer)
        if isinstance(child, ast.ClassDef):
            yield from _below(child, f"{name}.{child.name}")


def _live() -> Iterator[Question]:
    for owner in LIVE:
        prefix = "" if owner is builtins else f"{owner.__name__}."
        for name in sorted(vars(owner)):
            value = vars(owner)[name]
            if name.startswith("_") or not _belongs(value, owner):
                continue
            answer = first_sentence(getattr(value, "__doc__", None))
            if answer:
                yield Question(f"{prefix}{name}", "class" if isinstance(value, type) else "function", answer)


def _belongs(value: Any, owner: object) -> bool:
    """Part of the language: no exception, and nothing that a start-up file has put among the builtins."""
    if isinstance(value, type):
        return not issubclass(value, BaseException)
    return inspect.isbuiltin(value) or (owner is not builtins and callable(value))


def _broken_off(answer: str) -> str:
    """The first half of an answer, up to a word's end."""
    words = answer.split()
    return " ".join(words[: max(1, len(words) // 2)])


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
