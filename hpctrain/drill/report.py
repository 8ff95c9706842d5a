"""What drills showed, beside what was promised (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from hpctrain.drill.catalogue import ANYWHERE, ELSEWHERE, KINDS, Kind, Place, Promise
from hpctrain.drill.judge import Judgement
from hpctrain.jobs.incident_text import seconds
from hpctrain.jobs.text import plural


def promised(promise: Promise) -> str:
    """A promise as a clause: ``R1 within 1.2s: all ranks start again ...``."""
    rungs = " or ".join(promise.rungs) or promise.outcome
    within = f" within {seconds(promise.within_s)}" if promise.within_s is not None else ""
    return f"{rungs}{within}: {promise.words}" if promise.words else rungs + within


def verdict(judgement: Judgement, *, any_time: bool) -> str:
    """``kept``, ``kept, but late``, ``broken``."""
    if not judgement.kept:
        return "broken"
    return "kept, but late" if judgement.late and not any_time else "kept"


def lines(kind: Kind, promise: Promise, judgement: Judgement, *, any_time: bool) -> list[str]:
    """One drill, in four lines or more."""
    found = [
        f"{kind.name}: {kind.what}", f"  promised  {promised(promise)}", f"  happened  {judgement.happened}",
        f"  verdict   {verdict(judgement, any_time=any_time)}",
    ]
    return found + [f"            {problem}" for problem in judgement.problems]


def summary(outcomes: Sequence[tuple[Kind, Judgement]], *, any_time: bool) -> list[str]:
    """Several drills: how many of each kind, how many kept, times."""
    groups: dict[str, list[Judgement]] = defaultdict(list)
    for kind, judgement in outcomes:
        groups[kind.name].append(judgement)
    rows = [("drill", "times", "kept", "late", "median", "longest")]
    for name, judged in groups.items():
        times = sorted(one.total_s for one in judged if one.total_s is not None)
        rows.append((name, str(len(judged)), str(sum(one.kept for one in judged)), str(sum(one.late for one in judged)),
                     seconds(median(times)) if times else "-", seconds(times[-1]) if times else "-"))
    broken = sum(not one.kept or (one.late and not any_time) for _, one in outcomes)
    end = f"{plural(len(outcomes), 'drill')}, " + (f"{plural(broken, 'broken promise')}" if broken else "every promise kept")
    return [*_table(rows), end]


def catalogue(place: Place | None = None, possible: Sequence[str] = ()) -> list[str]:
    """The list of drills; with a place the promises are those that hold there."""
    left = max(len(name) for name in KINDS) + 2
    rows: list[str] = []
    for kind in KINDS.values():
        here = not possible or kind.name in possible
        where = "" if kind.needs == ANYWHERE else f" ({'only on' if here else 'not possible here: only on'} a {kind.needs})"
        rows += [f"{kind.name.ljust(left)}{kind.what}{where}", f"{' ' * left}{promised(kind.promise(place or Place()))}"]
    return [*rows, "", *(f"Not a drill: {name}: {why}." for name, why in ELSEWHERE.items())]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
