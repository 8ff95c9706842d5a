"""The table of ``hpctrain list``: columns that give way on narrow terminals (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpctrain.jobs.status import JobStatus, State
from hpctrain.jobs.text import ago, cells, count, cut, duration, loss

GAP = 2

COLOURS: dict[State, int] = {
    State.RUNNING: 32, State.STARTING: 32, State.STOPPING: 33, State.QUEUED: 33, State.REQUEUED: 33, State.HELD: 35,
    State.SUSPENDED: 35, State.FINISHED: 36, State.FAILED: 31, State.CANCELLED: 2, State.UNKNOWN: 35,
}
"""ANSI colour of each state."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its head, its text for a run, its side, and when it gives way (the highest number first, 0 never)."""

    head: str
    text: Callable[[JobStatus, float], str]
    right: bool = False
    gives_way: int = 0


def _steps(status: JobStatus, _now: float) -> str:
    if status.step is None and status.total_steps is None:
        return "-"
    done = "0" if status.step is None else str(status.step)
    return f"{done}/{status.total_steps}" if status.total_steps else done


def _time(status: JobStatus, _now: float) -> str:
    if status.eta_s is not None and status.state is State.RUNNING:
        return f"{duration(status.eta_s)} left"
    if status.state in (State.QUEUED, State.HELD) and status.queued_s is not None:
        return f"{duration(status.queued_s)} queued"
    return duration(status.elapsed_s)


def state_word(status: JobStatus) -> str:
    """The state, with what must not be overlooked."""
    return f"{status.state.value} (silent)" if status.silent else status.state.value


COLUMNS = (
    Column("RUN", lambda s, _: s.name),
    Column("JOB", lambda s, _: "-" if s.id is None else str(s.id), right=True),
    Column("STATE", lambda s, _: state_word(s)),
    Column("STEP", _steps, right=True),
    Column("LOSS", lambda s, _: loss(s.loss), right=True, gives_way=2),
    Column("TOKENS/S", lambda s, _: count(s.tokens_per_s), right=True, gives_way=4),
    Column("TIME", _time, right=True, gives_way=1),
    Column("NODES", lambda s, _: str(s.num_nodes or "-"), right=True, gives_way=3),
    Column("RESTARTS", lambda s, _: str(s.restarts or "-"), right=True, gives_way=6),
    Column("SUBMITTED", lambda s, now: ago(s.submitted_time, now), right=True, gives_way=5),
    Column("PARTITION", lambda s, _: s.partition or "-", gives_way=7),
)


def render(statuses: Sequence[JobStatus], now: float, *, width: int | None, colour: bool = False) -> str:
    """The table as text.

    Args:
        width: columns of the terminal; None shows everything in full (for pipes).
    """
    columns = list(COLUMNS)
    rows = {column.head: [column.text(status, now) for status in statuses] for column in columns}
    widths = {column.head: max(cells(text) for text in [column.head, *rows[column.head]]) for column in columns}
    while width is not None and _total(columns, widths) > width and any(column.gives_way for column in columns):
        columns.remove(max(columns, key=lambda column: column.gives_way))
    if width is not None:
        widths["RUN"] = max(12, widths["RUN"] - max(0, _total(columns, widths) - width))
    lines = [_line([column.head for column in columns], columns, widths, "1" if colour else "")]
    for index, status in enumerate(statuses):
        texts = [cut(rows[column.head][index], widths[column.head]) for column in columns]
        tint = str(COLOURS[status.state]) if colour else ""
        lines.append(_line(texts, columns, widths, tint, only="STATE"))
    return "\n".join(lines)


def _total(columns: Sequence[Column], widths: dict[str, int]) -> int:
    return sum(widths[column.head] for column in columns) + GAP * (len(columns) - 1)


def _line(texts: Sequence[str], columns: Sequence[Column], widths: dict[str, int], tint: str, only: str = "") -> str:
    parts = []
    for text, column in zip(texts, columns, strict=True):
        space = " " * (widths[column.head] - cells(text))
        shown = f"\x1b[{tint}m{text}\x1b[0m" if tint and only in ("", column.head) else text
        parts.append(space + shown if column.right else shown + space)
    return (" " * GAP).join(parts).rstrip()
