"""The documentation as values: pages, their fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import ROOT

EXECUTED = "<!-- executed by tests/cluster/test_docs_run.py -->"
"""Stands on the line before a block whose commands a test runs for real."""
_FENCE = re.compile(r"^```(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    executed: bool

    @property
    def where(self) -> str:
        """``path:line`` of its first line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Words of each command a reader would type: lines after ``$`` in a console, every line in bash."""
        for line in self.text.replace("\\\n", " ").split("\n"):
            if self.language == "console" and line.startswith("$ "):
                words = shlex.split(line[2:], comments=True)
            elif self.language == "bash":
                words = shlex.split(line, comments=True)
            else:
                continue
            while words and re.match(r"^\w+=", words[0]):
                words.pop(0)
            if words:
                yield words


def pages() -> list[Path]:
    """Every Markdown page of the project."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, lines, start = [], page.read_text().split("\n"), None
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if match and start is None:
            start, language = number, match.group(1)
        elif line.startswith("```") and start is not None:
            text = "\n".join(lines[start + 1:number])
            found.append(Block(page, start + 2, language, text, start > 0 and lines[start - 1].strip() == EXECUTED))
            start = None
    return found


def anchors(page: Path) -> set[str]:
    """Names that a link may end in, made from headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
