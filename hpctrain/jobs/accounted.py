"""A job in Slurm's accounting, for reports: its attempts as lines and as JSON (pure)."""

from __future__ import annotations

from typing import Any

from hpctrain.jobs.books import attempt_json
from hpctrain.jobs.text import duration, plural
from hpctrain.jobs.usage import Usage, measure_usage
from hpctrain.slurm.accounting import AccountedJob, Attempt

SHOWN = 8
"""Attempts that get a line; of a job with more, the first one and the newest."""


def used(job: AccountedJob, until: float) -> Usage:
    """What all attempts used, up to a moment."""
    begin = min(job.submit_time if job.submit_time is not None else until, until)
    return measure_usage([job], since=begin, until=until, by="run")


def to_json(job: AccountedJob, until: float) -> dict[str, Any]:
    """Plain JSON."""
    total = used(job, until).total
    return {
        "id": job.job_id, "requeues": job.requeues, "queue_s": round(total.queue_s, 1), **total.hours.to_json(),
        "attempts": [attempt_json(one) for one in job.attempts],
    }


def lines(job: AccountedJob, until: float) -> list[tuple[str, str]]:
    """(label, text) pairs: what was used, and how each attempt ended."""
    usage = used(job, until)
    hours = usage.total.hours
    sums = [f"{value:.3g} {unit}" for value, unit in ((hours.gpu, "GPU-hours"), (hours.cpu, "CPU-hours")) if value > 0]
    sums = sums or [f"{hours.node:.3g} node-hours"]
    told = f"{plural(len(job.attempts), 'attempt')}, {', '.join(sums)}, {duration(usage.total.queue_s)} in the queue"
    shown = list(enumerate(job.attempts, start=1))
    if len(shown) > SHOWN:
        shown = [shown[0], *shown[-SHOWN + 1 :]]
    rows = [("Accounts", told)]
    if len(job.attempts) > 1:
        rows += [("", f"{number}. {_line(one, until)}") for number, one in shown]
    return rows


def _line(one: Attempt, until: float) -> str:
    if one.start_time is None or not one.ran:
        return f"{one.outcome}, never started"
    ran = one.elapsed_s if one.end_time is not None else max(0.0, until - one.start_time)
    nodes = plural(one.held.nodes or len(one.nodes), "node")
    return f"{one.outcome} {'for' if one.end_time is None else 'after'} {duration(ran)} on {nodes}"
