"""The table of causes in docs/recovery.md: ``python -m tests.unit.drill.guide`` writes it."""

from __future__ import annotations

import re

from hpctrain.drill.catalogue import KINDS, Place
from hpctrain.jobs.incident_text import seconds
from tests.source_tree import ROOT

PAGE = ROOT / "docs" / "recovery.md"
_BETWEEN = re.compile(r"(<!-- causes -->\n).*?(\n<!-- /causes -->)", re.DOTALL)


def table() -> str:
    """A row for each kind; where a spare makes a difference, both promises."""
    rows = ["| drill | cause | rung | aim | what happens |", "|---|---|---|---|---|"]
    for kind in KINDS.values():
        promises = [kind.promise(Place(spares=1)), kind.promise(Place())]
        if promises[0] == promises[1]:
            promises.pop()
        for promise in promises:
            aim = "-" if promise.within_s is None else seconds(promise.within_s)
            rung = " or ".join(promise.rungs) or promise.outcome
            rows.append(f"| `{kind.name}` | {kind.what} | {rung} | {aim} | {promise.words} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(_BETWEEN.sub(lambda match: match[1] + table() + match[2], PAGE.read_text()))
