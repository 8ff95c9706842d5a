"""``hpctrain report`` (entry point)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpctrain.cli.jobs import examples, find, job_argument, watching
from hpctrain.cli.output import on_terminal, output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.jobs.report import Report

SAMPLES = 4000
"""Points read of a large metrics file: several for each column of the widest terminal."""


@click.command(epilog=examples(
    "hpctrain report latest",
    "hpctrain report latest --width 120 > report.txt",
    "hpctrain report latest --html report.html",
))
@job_argument
@click.option(
    "--width", type=click.IntRange(40, 400), default=None, help="Columns of the picture.  [default: the terminal's, or 80]",
)
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(dir_okay=False), default=None,
    help="Write a page with pictures to this file instead; '-' for standard output.",
)
@output_option
def report(job: str, width: int | None, page: str | None, output: str) -> None:
    """Draw the loss curve of a run, and say where its time went: throughput, failures, goodput, timeline.

    JOB is a job id, a run's name or the unique start of one, a run directory, or 'latest'. Steps that were done twice
    because of a restart are drawn once. The report of a running job is its report so far. Where the cluster keeps accounts,
    every start of the job is listed with what it held; where it does not, a line on standard error says so. The page of
    --html holds everything in itself: no script, and nothing from the network; a file that is there already is replaced.
    """
    from hpctrain.api import current_user
    from hpctrain.jobs.accounts import Accounts
    from hpctrain.jobs.metrics import read_metrics
    from hpctrain.jobs.reader import planned_size, read_events, read_plan
    from hpctrain.jobs.report import make_report
    from hpctrain.jobs.snapshot import look_at

    context = watching()
    run = find(context, job)
    accounts = Accounts(context.slurm, context.clock, current_user())
    accounted = accounts.of(run)
    status = look_at(run, context.slurm, context.clock, accounted)
    made = make_report(
        status, read_events(run.dir), read_metrics(run.dir.metrics, samples=SAMPLES), now=context.clock.time(),
        size=planned_size(read_plan(run.dir)), accounted=accounted,
    )
    if accounts.problem and context.slurm is not None:
        say(f"{accounts.problem}; the report is made of the run's own records.")
    if page is not None:
        _write_page(made, page, context.clock.time(), output)
        return
    if output == "json":
        print_json("report", made.to_json())
        return
    columns = width or (min(160, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 80)
    click.echo(_text(made, columns), color=True)


def _write_page(made: Report, page: str, now: float, output: str) -> None:
    from hpctrain import __version__
    from hpctrain.jobs.page import render

    html = render(made, made_at=now, version=__version__)
    if page == "-":
        if output == "json":
            raise click.UsageError("--html - and -o json both want standard output")
        click.echo(html, nl=False)
        return
    write_page(html, page, output)


def write_page(html: str, page: str, output: str) -> None:
    """Write the page of ``--html FILE``, and say so."""
    from hpctrain.files import write_atomic

    path = Path(page).expanduser()
    write_atomic(path, html, durable=False)
    if output == "json":
        print_json("page", {"path": str(path.absolute()), "size_bytes": len(html.encode())})
    else:
        say(f"the report is in {path}")


def _text(made: Report, columns: int) -> str:
    from hpctrain.cli.report_text import render

    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return render(made, width=columns, colour=on_terminal(), unicode=unicode)
