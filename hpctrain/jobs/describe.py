"""One run in words (pure)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.jobs.event import SHARED, Event, saved_tier
from hpctrain.jobs.report import sentence
from hpctrain.jobs.status import JobStatus, State
from hpctrain.jobs.table import COLOURS, state_word
from hpctrain.jobs.text import ago, bar, cells, count, duration, loss, plural, stamp

LABEL = 13
"""Columns of the labels."""


@dataclass(frozen=True, slots=True)
class Description:
    """What ``describe`` shows.

    Attributes:
        nodes: folded, such as ``n[1-3]``.
    """

    status: JobStatus
    events: Sequence[Event]
    now: float
    nodes: str = ""


def render(described: Description, *, width: int, colour: bool = False) -> str:
    """The description as text, wrapped at ``width``."""
    status = described.status
    state = _tint(state_word(status), str(COLOURS[status.state]), colour)
    head = f"{_tint(status.name, '1', colour)}  job {status.id}  {state}"
    lines = [head, *_wrap(_capital(status.explanation) + ".", "  ", width)]
    if status.advice and not any(command in status.advice for command in next_commands(status)):
        lines += _wrap("What to do: " + status.advice, "  ", width)
    lines.append("")
    for label, text in [*_progress_rows(status), *_time_rows(described), *_place_rows(described)]:
        lines += _row(label, text, width)
    lines += ["", _tint("Last events", "1", colour), *_events(described, width)]
    lines += ["", _tint("Next", "1", colour), *(f"  {line}" for line in next_commands(status))]
    return "\n".join(lines)


def _progress_rows(status: JobStatus) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if status.step is not None and status.total_steps:
        share = min(1.0, status.step / status.total_steps)
        left = f", {duration(status.eta_s)} left" if status.eta_s is not None else ""
        rows.append(("Progress", f"{bar(share, 24)} {share:.0%}  step {status.step}/{status.total_steps}{left}"))
    elif status.step is not None:
        rows.append(("Progress", f"step {status.step}"))
    if status.loss is not None:
        rows.append(("Loss", loss(status.loss)))
    speed = [f"{count(status.tokens_per_s)} tokens/s"] if status.tokens_per_s is not None else []
    speed += [f"{status.step_time_s:.3g} s per step"] if status.step_time_s is not None else []
    return [*rows, ("Speed", ", ".join(speed))] if speed else rows


def _time_rows(described: Description) -> list[tuple[str, str]]:
    status, now = described.status, described.now
    rows = [("Submitted", f"{stamp(status.submitted_time)} ({ago(status.submitted_time, now)})")]
    if status.started_time is not None:
        queued = f", after {duration(status.queued_s)} in the queue"
        rows.append(("Started", f"{stamp(status.started_time)} ({ago(status.started_time, now)}){queued}"))
    if status.final and status.ended_time is not None:
        took = f", after {duration(status.elapsed_s)}" if status.elapsed_s is not None else ""
        rows.append(("Ended", f"{stamp(status.ended_time)} ({ago(status.ended_time, now)}){took}"))
    if status.time_limit_s is not None:
        rows.append(("Time limit", f"{duration(status.time_limit_s)} for each start"))
    rows.append(("Restarts", str(status.restarts) if status.restarts else "none"))
    return rows


def _place_rows(described: Description) -> list[tuple[str, str]]:
    status = described.status
    rows = []
    if status.num_nodes or described.nodes:
        where = f"{described.nodes}" if described.nodes else plural(status.num_nodes, "node")
        rows.append(("Nodes", where + (f" in partition {status.partition}" if status.partition else "")))
    if status.slurm_state:
        reason = f", reason {status.reason}" if status.reason else ""
        rows.append(("Slurm says", f"{status.slurm_state}{reason}"))
    if status.recipe:
        rows.append(("Recipe", status.recipe))
    if not status.run_dir:
        rows.append(("Directory", "it is gone; only Slurm still knows this job"))
    else:
        rows.append(("Directory", status.run_dir))
        rows.append(("Logs", "logs/ in it"))
        rows.append(("Checkpoints", f"checkpoints/ in it; {_newest(described, SHARED) or 'none saved yet'}"))
        others = {tier for event in described.events if (tier := saved_tier(event)) not in ("", SHARED)}
        rows += [("", f"{tier}: {_newest(described, tier)}") for tier in sorted(others)]
        broken = sorted(degraded_tiers(described.events).items())
        rows += [("", f"{_TIER_WORDS.get(tier, tier)}: {why}") for tier, why in broken]
    return rows


_TIER_WORDS = {"ram": "memory"}


def _newest(described: Description, tier: str) -> str:
    saved = [event for event in described.events if saved_tier(event) == tier]
    return f"newest: step {saved[-1].step}, {ago(saved[-1].time, described.now)}" if saved else ""


def degraded_tiers(events: Sequence[Event]) -> dict[str, str]:
    """Tiers that are out of order now, in the newest start, each with the reason."""
    found: dict[tuple[str, str], str] = {}
    for event in events:
        key = str(event.evidence.get("tier") or ""), event.node
        if event.kind == "job.started":
            found.clear()
        elif event.kind == "checkpoint.degraded":
            found[key] = event.reason
        elif event.kind == "checkpoint.recovered" or saved_tier(event):
            found.pop(key, None)
    return {tier: reason for (tier, _), reason in found.items()}


def _events(described: Description, width: int, limit: int = 6) -> list[str]:
    if not described.events:
        return ["  none recorded"]
    rows = [(ago(event.time, described.now), sentence(event)) for event in described.events[-limit:]]
    longest = max(cells(age) for age, _ in rows)
    lines: list[str] = []
    for age, text in rows:
        lines += _wrap(text, " " * (longest + 4), width, first=f"  {age:>{longest}}  ")
    return lines


def next_commands(status: JobStatus) -> list[str]:
    """Commands that make sense in this state."""
    name = status.name
    if status.state in (State.QUEUED, State.HELD, State.REQUEUED, State.SUSPENDED):
        return [f"hpctrain logs -f {name}", f"hpctrain cancel {name}"]
    if not status.final:
        return [f"hpctrain logs -f {name}", f"hpctrain report {name}", f"hpctrain cancel {name}"]
    if status.succeeded:
        return [f"hpctrain report {name}", f"hpctrain events {name}"]
    return [f"hpctrain logs {name} --all --tail 50", f"hpctrain events {name}", f"hpctrain report {name}"]


def _row(label: str, text: str, width: int) -> list[str]:
    return _wrap(text, " " * LABEL, width, first=f"{label:<{LABEL}}")


def _wrap(text: str, indent: str, width: int, *, first: str | None = None) -> list[str]:
    """Wrap at blanks; a long path is never broken, because people copy it."""
    wrapped = textwrap.wrap(
        " ".join(text.split()), width=max(40, width), initial_indent=indent if first is None else first,
        subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
    )
    return wrapped or [(first or indent).rstrip()]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tint(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text
