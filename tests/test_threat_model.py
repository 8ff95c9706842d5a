"""The threat model names a test for each thing that it says somebody may or may not do."""

from __future__ import annotations

import ast
import re

from tests.source_tree import ROOT

PROOF = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_proof_exists() -> None:
    """Each row of the table has one, and each that is named is a test that there is."""
    text = (ROOT / "docs/threat-model.md").read_text()
    table = text.split("## Who may do what")[1].split("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]

    assert len(rows) > 8
    assert [row for row in rows if not PROOF.search(row)] == []
    for file, name in PROOF.findall(text):
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {name}"
