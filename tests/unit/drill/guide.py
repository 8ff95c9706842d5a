"""The tables in docs/recovery.md: ``python -m tests.unit.drill.guide`` writes that of causes.

What was measured is written by tests/cluster/test_causes_of_death.py where TEST_WRITES_GUIDE is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hpctrain.drill.catalogue import KINDS, Place
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


def rows(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A row for each drill that was carried out, by kind."""
    found = {}
    for kind, drill in measured.items():
        one = drill.get("incident") or {}
        phases = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in one.get("phases_s", {}).items()
                           if name != "queue")
        total = "-" if drill["total_s"] is None else f"{drill['total_s']:.1f} s"
        queue = f"{drill['queue_s']:.1f} s" if drill["queue_s"] else "-"
        redone = "-" if one.get("redone_steps") is None else str(one["redone_steps"])
        found[kind] = (f"| `{kind}` | {drill['rung'] or 'none'} | {total} | {queue} | {one.get('tier') or '-'} | {redone} | "
                       f"{phases or '-'} |")
    return found


def write(name: str, text: str) -> None:
    """Replace what stands between the marks of that name."""
    between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    PAGE.write_text(between.sub(lambda match: match[1] + text + match[2], PAGE.read_text()))


def write_measured(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Put new rows beside those that stand there, in the order of the catalogue."""
    lines = PAGE.read_text().partition("<!-- measured -->")[2].partition("<!-- /measured -->")[0].splitlines()
    old = {(line.split("`")[1], line.split("|")[2].strip()): line for line in lines if line.startswith("| `")}
    new = {(kind, line.split("|")[2].strip()): line for kind, line in rows(measured).items()}
    have = old | new
    head = ["| drill | rung | to the first new step | queue | state from | steps done again | phases in seconds |",
            "|---|---|---|---|---|---|---|"]
    write("measured", "\n".join([*head, *(have[key] for kind in KINDS for key in sorted(have) if key[0] == kind)]))


if __name__ == "__main__":
    write("causes", table())
