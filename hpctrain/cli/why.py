"""``hpctrain why`` (entry point)."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from hpctrain.cli.jobs import echo, examples, find, job_argument, watching, width
from hpctrain.cli.output import on_terminal, output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.api import Context
    from hpctrain.jobs.find import Run
    from hpctrain.jobs.status import JobStatus
    from hpctrain.jobs.why import Statement
    from hpctrain.slurm.model import Job, Node

_WORDS = {"waits": "It waits", "restarted": "Started again", "stopped": "It has stopped", "runs": "Now"}


@click.command(epilog=examples("hpctrain why latest", "hpctrain why 4711 -o json"))
@job_argument
@output_option
def why(job: str, output: str) -> None:
    """Say why a run waits, why it was started again, and why it has stopped, with the evidence for each.

    JOB is a job id, a run's name or the unique start of one, a run directory, or 'latest'.
    """
    context = watching()
    run = find(context, job)
    status, statements = _look(run, context)
    if output == "json":
        print_json("why", {"id": status.id, "name": status.name, "state": status.state.value,
                           "statements": [statement.to_json() for statement in statements]})
        return
    colour = on_terminal()
    echo(f"{_bold(status.name, colour)}  job {status.id}  {status.state.value}")
    for statement in statements:
        echo("\n" + "\n".join(_lines(statement, width(), colour)))
    if context.why_no_slurm:
        say(f"\n{context.why_no_slurm}; this is what the run has recorded.")


def _look(run: Run, context: Context) -> tuple[JobStatus, list[Statement]]:
    from hpctrain.jobs.incidents import find_incidents
    from hpctrain.jobs.metrics import read_metrics
    from hpctrain.jobs.snapshot import ask, read_records, status_from_files
    from hpctrain.jobs.why import Known
    from hpctrain.jobs.why import why as explain

    answer = ask([run], context.slurm)[run.name]
    records, now = read_records(run), context.clock.time()
    status = status_from_files(run, answer, now, records)
    restarts = read_metrics(run.dir.metrics, samples=500).restarts
    nodes = _nodes(answer.job, context)
    known = Known(status, records.events, find_incidents(records.events, restarts), now, answer.job, nodes)
    return status, explain(known)


def _nodes(job: Job | None, context: Context) -> list[Node]:
    """The cluster's nodes, where they say why a job waits; a Slurm that does not answer says nothing."""
    from hpctrain.errors import SlurmError

    if job is None or job.state.value != "PENDING" or context.slurm is None:
        return []
    try:
        return context.slurm.nodes()
    except SlurmError as error:
        say(f"the nodes could not be looked at: {error.message}")
        return []


def _lines(statement: Statement, columns: int, colour: bool) -> list[str]:
    from hpctrain.jobs.text import stamp

    when = f" ({stamp(statement.time)})" if statement.time is not None else ""
    head = f"{_WORDS[statement.topic]}{when}: "
    text = " ".join(statement.sentence.split()) or "nothing is recorded"
    first, *rest = textwrap.wrap(head + text + ("" if text.endswith((".", "!", "?")) else "."), max(40, columns),
                                 subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    lines = [_bold(first[: len(head.rstrip())], colour) + first[len(head.rstrip()):], *rest]
    for line in statement.evidence:
        lines += _wrapped(line, columns)
    if statement.advice:
        lines += _wrapped("What to do: " + statement.advice, columns, mark="> ")
    return lines


def _wrapped(text: str, columns: int, mark: str = "- ") -> list[str]:
    if text.startswith("  "):
        return [f"    {text}"]  # a line of a traceback keeps its shape
    return textwrap.wrap(" ".join(text.split()), max(40, columns), initial_indent=f"  {mark}", subsequent_indent="    ",
                         break_long_words=False, break_on_hyphens=False)


def _bold(text: str, colour: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if colour else text
