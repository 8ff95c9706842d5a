"""What jobs used, as a table and a few sentences (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.jobs.goodput import BETWEEN, OTHER, RECOVERY, REDONE, STARTUP, TRAINING
from hpctrain.jobs.text import cells, cut, duration, plural
from hpctrain.jobs.usage import LOST, PARTS, Hours, Row, Usage

ROWS = 40
WORDS = {
    TRAINING: "training that lives on", BETWEEN: "checkpoints and validation between steps",
    REDONE: "work that was lost and done again", RECOVERY: "recovering from failures", STARTUP: "starting up",
    OTHER: "on nodes without training", "completed": "jobs that completed", "running": "jobs that run",
    "cancelled": "jobs that were cancelled", "failed": "jobs that failed",
    "requeued": "before a requeue (what a checkpoint kept of it is not known)",
}


def render(usage: Usage, *, width: int | None, capacity: Hours | None = None, cpus_known: bool = True) -> str:
    """The table, what became of the hours, and what was lost.

    Args:
        width: columns of the terminal; None shows names in full.
        capacity: what the nodes offered.
        cpus_known: CPU-hours are on record.
    """
    lines = [*table(usage, width=width, cpus_known=cpus_known), *_where(usage), *_lost(usage)]
    if capacity is not None:
        lines += _idle(usage, capacity)
    return "\n".join(lines)


def table(usage: Usage, *, width: int | None, cpus_known: bool = True) -> list[str]:
    """One line per row, the largest first, and the total."""
    shown = list(usage.rows[:ROWS])
    heads = [usage.by.upper(), "JOBS", "REQUEUES", "GPU-HOURS", "CPU-HOURS", "NODE-HOURS", "MEAN WAIT", "GOODPUT", "LOST"]
    lines = [heads, *(_cells(usage, row, cpus_known) for row in shown)]
    if len(usage.rows) != 1:
        lines.append(_cells(usage, usage.total, cpus_known))
    widths = [max(cells(line[column]) for line in lines) for column in range(len(heads))]
    if width is not None:
        spare = width - sum(widths[1:]) - 2 * (len(heads) - 1)
        widths[0] = max(12, min(widths[0], spare))
    text = []
    for line in lines:
        first = cut(line[0], widths[0])
        rest = "".join("  " + " " * (widths[at] - cells(line[at])) + line[at] for at in range(1, len(heads)))
        text.append(first + " " * (widths[0] - cells(first)) + rest)
    if len(usage.rows) > ROWS:
        text.insert(-1, f"... and {len(usage.rows) - ROWS} more, which -o json lists")
    return text


def plain(text: str) -> str:
    """A name without what would move a terminal's cursor: job names may hold anything."""
    return "".join(char if char.isprintable() else " " for char in text)


def _cells(usage: Usage, row: Row, cpus_known: bool) -> list[str]:
    wait = duration(row.queue_s / row.starts) if row.starts else "-"
    goodput = f"{row.goodput:.1%}" if row.goodput is not None else "-"
    lost = usage.in_unit(row.sum_of(part for parts in LOST.values() for part in parts))
    return [
        plain(row.key), str(row.jobs), str(row.requeues), _number(row.hours.gpu),
        _number(row.hours.cpu) if cpus_known else "-", _number(row.hours.node), wait, goodput, _number(lost),
    ]


def _where(usage: Usage) -> list[str]:
    total = usage.in_unit(usage.total.hours)
    if total <= 0:
        return []
    rows = [(usage.in_unit(usage.total.parts[part]), WORDS[part]) for part in PARTS if part in usage.total.parts]
    rows = [(value, words) for value, words in rows if value > 0]
    size = max(len(_number(value)) for value, _ in rows)
    lines = ["", f"Of {_number(total)} {usage.unit}:"]
    return lines + [f"  {_number(value):>{size}}  {value / total:4.0%}  {words}" for value, words in rows]


def _lost(usage: Usage) -> list[str]:
    total = usage.in_unit(usage.total.hours)
    lost = [(name, usage.in_unit(usage.total.sum_of(parts))) for name, parts in LOST.items()]
    if total <= 0 or not any(value > 0 for _, value in lost):
        return []
    words = {"failures": "to failures", "requeues": "before requeues", "idle": "idle on nodes"}
    told: Sequence[str] = [f"{_number(value)} {words[name]}" for name, value in lost if value > 0]
    return ["", f"Lost: {', '.join(told)} ({sum(value for _, value in lost) / total:.1%} of all)"]


def _idle(usage: Usage, capacity: Hours) -> list[str]:
    offered, used = usage.in_unit(capacity), usage.in_unit(usage.total.hours)
    if offered <= 0:
        return []
    nodes = plural(round(capacity.node / ((usage.until - usage.since) / 3600.0)), "node")
    share = f"{used / offered:.1%} of {_number(offered)} {usage.unit}"
    return [f"Used: {share} that the {nodes} Slurm has now could give; {_number(max(0.0, offered - used))} were nobody's"]


def _number(hours: float) -> str:
    """Three digits that count, and no more than a person reads: 0, 0.042, 1.25, 37.1, 12,345."""
    if hours == 0:
        return "0"
    if hours < 0.0005:
        return "<0.001"
    if hours < 1:
        return f"{hours:.3f}".rstrip("0")
    return f"{hours:.2f}" if hours < 10 else f"{hours:.1f}" if hours < 100 else f"{hours:,.0f}"
