"""The tables in docs/recovery.md: ``python -m tests.unit.drill.guide`` writes that of causes.

What was measured is written by tests/cluster/test_causes_of_death.py where TEST_WRITES_GUIDE is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hpctrain.drill.catalogue import KINDS, Kind, Place
from hpctrain.jobs.incident_text import seconds
from tests.source_tree import ROOT

PAGE = ROOT / "docs" / "recovery.md"


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


HEAD = ("drill", "circumstance", "rung", "to the first new step", "queue", "state from", "steps done again",
        "phases in seconds")
Key = tuple[str, str]
"""Kind of a drill, and the circumstance that its promise depends on."""


def circumstance(kind: Kind, spares: int) -> str:
    """Whether there was a spare node, where that decides what is promised; else ""."""
    if kind.promise(Place(spares=1)) == kind.promise(Place()):
        return ""
    return "a spare" if spares else "no spare"


def row(drill: Mapping[str, Any]) -> tuple[Key, str]:
    """What a drill showed, as a row of the table, and what the row is about."""
    kind, one = KINDS[drill["kind"]], drill.get("incident") or {}
    phases = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in one.get("phases_s", {}).items()
                       if name != "queue")
    where = circumstance(kind, int(drill["place"]["spares"]))
    redone = "-" if one.get("redone_steps") is None else str(one["redone_steps"])
    cells = (
        f"`{kind.name}`", where or "-", drill["rung"] or "none",
        "-" if drill["total_s"] is None else f"{drill['total_s']:.1f} s",
        f"{drill['queue_s']:.1f} s" if drill["queue_s"] else "-", one.get("tier") or "-", redone, phases or "-",
    )
    return (kind.name, where), f"| {' | '.join(cells)} |"



def write(name: str, text: str) -> None:
    """Replace what stands between the marks of that name."""
    between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    PAGE.write_text(between.sub(lambda match: match[1] + text + match[2], PAGE.read_text()))


def write_measured(drills: Iterable[Mapping[str, Any]]) -> None:
    """Put new rows in the place of those about the same cause in the same circumstance, in the catalogue's order."""
    lines = PAGE.read_text().partition("<!-- measured -->")[2].partition("<!-- /measured -->")[0].splitlines()
    have = {key_of(line): line for line in lines if line.startswith("| `")} | dict(map(row, drills))
    head = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    write("measured", "\n".join([*head, *(have[key] for kind in KINDS for key in sorted(have) if key[0] == kind)]))


def key_of(line: str) -> Key:
    """What a row is about."""
    cells = [cell.strip() for cell in line.split("|")]
    return cells[1].strip("`"), cells[2].replace("-", "")



if __name__ == "__main__":
    write("causes", table())
