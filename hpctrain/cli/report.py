"""``hpctrain report`` (entry point)."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from hpctrain.cli.jobs import examples, find, job_argument, watching
from hpctrain.cli.output import on_terminal, output_option, print_json

if TYPE_CHECKING:
    from hpctrain.jobs.report import Report

SAMPLES = 4000
"""Points read of a large metrics file: several for each column of the widest terminal."""


@click.command(epilog=examples(
    "hpctrain report latest",
    "hpctrain report latest --width 120 > report.txt",
))
@job_argument
@click.option(
    "--width", type=click.IntRange(40, 400), default=None, help="Columns of the picture.  [default: the terminal's, or 80]",
)
@output_option
def report(job: str, width: int | None, output: str) -> None:
    """Draw the loss curve of a run, and sum up its throughput, restarts and timeline.

    JOB is a job id, a run's name or the unique start of one, a run directory, or 'latest'. Steps that were done twice
    because of a restart are drawn once. The report of a running job is its report so far.
    """
    from hpctrain.jobs.metrics import read_metrics
    from hpctrain.jobs.reader import read_events
    from hpctrain.jobs.report import make_report
    from hpctrain.jobs.snapshot import look_at

    context = watching()
    run = find(context, job)
    status = look_at(run, context.slurm, context.clock)
    made = make_report(status, read_events(run.dir), read_metrics(run.dir.metrics, samples=SAMPLES))
    if output == "json":
        print_json("report", made.to_json())
        return
    columns = width or (min(160, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 80)
    click.echo(_text(made, columns), color=True)


def _text(made: Report, columns: int) -> str:
    from hpctrain.cli.report_text import render

    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return render(made, width=columns, colour=on_terminal(), unicode=unicode)
