"""Read what jobs used in a window, from the accounts, the queue and the runs' own records (service)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.clock import Clock
from hpctrain.errors import SlurmError
from hpctrain.jobs import reader
from hpctrain.jobs.accounts import DATABASE, Accounts, Books
from hpctrain.jobs.books import as_job
from hpctrain.jobs.find import Run
from hpctrain.jobs.goodput import Segment
from hpctrain.jobs.metrics import read_metrics
from hpctrain.jobs.report import make_report
from hpctrain.jobs.snapshot import Answer, status_from_files
from hpctrain.jobs.state import SlurmAnswer
from hpctrain.jobs.text import iso, plural
from hpctrain.jobs.usage import Facts, Hours, Key, Usage, key_of, measure_usage
from hpctrain.slurm.accounting import AccountedJob, AccountingQuery
from hpctrain.slurm.port import Slurm

SAMPLES = 2000
"""Points read of a large metrics file: shares of a run's time do not need every step."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be added up.

    Attributes:
        query: which jobs, in a window with a beginning.
        by: how rows are made, one of :data:`hpctrain.jobs.usage.BY`.
    """

    query: AccountingQuery
    by: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The sums, and what must be known to read them.

    Attributes:
        source: ``accounting`` or ``records``; see :class:`hpctrain.jobs.accounts.Books`.
        notes: sentences: what could not be asked, and what the sums leave out.
        capacity: what all nodes that Slurm has now offered in the window; None unless everybody's jobs were asked for.
        measured_runs: runs whose directories said how their time was spent.
    """

    usage: Usage
    source: str
    notes: tuple[str, ...]
    capacity: Hours | None = None
    measured_runs: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        usage = self.usage
        return {
            "since": usage.since, "since_iso": iso(usage.since), "until": usage.until, "until_iso": iso(usage.until),
            "by": usage.by, "source": self.source, "notes": list(self.notes), "measured_runs": self.measured_runs,
            "rows": [row.to_json() for row in usage.rows], "total": usage.total.to_json(),
            "capacity": self.capacity.to_json() if self.capacity else None,
        }


def read_usage(wish: Wish, runs: Sequence[Run], slurm: Slurm | None, clock: Clock, user: str) -> Answered:
    """Ask everybody who may know, and add up.

    Args:
        runs: the caller's runs, any of them.
        user: the caller.
    """
    now, query = clock.time(), wish.query
    since, until = query.since or 0.0, min(now, now if query.until is None else query.until)
    books = Accounts(slurm, clock, user).read(query, runs)
    found = dict(books.runs or {})
    segments = _segments(found, {key_of(job): job for job in books.jobs}, now)
    facts = Facts({key: run.name for key, run in found.items()}, segments, books.runaways)
    usage = measure_usage(books.jobs, since=since, until=until, by=wish.by, facts=facts)
    notes = [*books.problems, *_left_out(books)]
    capacity = None
    if slurm is not None and books.source == DATABASE:
        capacity, note = _capacity(usage, slurm, everybody=query.all_users and not query.users and not query.accounts)
        notes += [note] if note else []
    return Answered(usage, books.source, tuple(notes), capacity, len(segments))


def _segments(runs: Mapping[Key, Run], jobs: Mapping[Key, AccountedJob], now: float) -> dict[Key, Sequence[Segment]]:
    """How the time of each run was spent; runs that have recorded too little to say are left out."""
    found: dict[Key, Sequence[Segment]] = {}
    for key, run in runs.items():
        ended = as_job(jobs[key], now)
        answer = Answer(SlurmAnswer.KNOWN, ended) if ended else Answer(SlurmAnswer.FORGOTTEN)
        events = reader.read_events(run.dir)
        status = status_from_files(run, answer, now)
        made = make_report(status, events, read_metrics(run.dir.metrics, samples=SAMPLES), now=now)
        if made.goodput is not None and any(event.kind == "job.started" for event in events):
            found[key] = made.goodput.segments
    return found


def _left_out(books: Books) -> list[str]:
    if not books.runaways:
        return []
    ids = ", ".join(map(str, sorted(books.runaways)[:5])) + (", ..." if len(books.runaways) > 5 else "")
    them = plural(len(books.runaways), "job")
    return [
        f"{them} run only in the accounting database ({ids}): the record of the end was lost, and the hours are not counted;"
        " an administrator mends that with 'sacctmgr show runawayjobs'"
    ]


def _capacity(usage: Usage, slurm: Slurm, *, everybody: bool) -> tuple[Hours | None, str]:
    """What the nodes offered, and a warning where GPUs seem to be missing from the accounts."""
    blind = usage.total.hours.gpu == 0 and usage.total.hours.node > 0
    if not everybody and not blind:
        return None, ""
    try:
        nodes = slurm.nodes()
    except SlurmError:
        return None, ""
    hours = (usage.until - usage.since) / 3600.0
    offered = Hours(sum(node.gpus for node in nodes), sum(node.cpus for node in nodes), len(nodes)) * hours
    note = ""
    if blind and offered.gpu > 0:
        note = (
            "no job has GPUs on record, and the nodes have some: GPU-hours are counted only where the site sets"
            " AccountingStorageTRES=gres/gpu"
        )
    return (offered if everybody else None), note
