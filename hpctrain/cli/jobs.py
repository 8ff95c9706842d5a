"""``hpctrain list``, ``describe``, ``events``, ``cancel`` (entry point)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.output import link_to_user, on_terminal, output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.api import Context
    from hpctrain.jobs.find import Run
    from hpctrain.jobs.status import JobStatus

F = TypeVar("F", bound=Callable[..., Any])

NEWEST = 20
"""Runs that ``list`` shows without ``--all``; those that have not ended are always shown."""


def examples(*lines: str) -> str:
    """The end of a command's help; the backspace character keeps click from joining the lines."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def job_argument(function: F) -> F:
    """Add the argument ``JOB``: id, name, unique start of a name, directory, or ``latest``."""
    return click.argument("job", metavar="JOB", shell_complete=complete_runs)(function)


def complete_runs(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Run names for shell completion: directory names only, because it runs at every key press."""
    from hpctrain.settings_file import load_settings

    try:
        names = [entry.name for entry in os.scandir(load_settings().runs_dir) if entry.is_dir()]
    except Exception:  # noqa: BLE001 - completion must never print an error into the prompt
        return []
    return [name for name in ["latest", *sorted(names)] if name.startswith(incomplete)]


def width() -> int:
    """Columns to lay text out for: the terminal's, or 100 in a pipe."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def watching(*, following: bool = False) -> Context:
    """Settings, clock, and a Slurm that is given up on sooner than one that must carry something out."""
    from hpctrain.api import make_context

    return make_context(slurm_timeout_s=8.0, slurm_retries=0 if following else 1, announce=None if following else say)


def find(context: Context, key: str) -> Run:
    """The run that a person means."""
    from hpctrain.jobs.strays import find_or_ask

    return find_or_ask(key, context.settings.runs_dir, context.slurm)


def find_followed(context: Context, key: str) -> Run:
    """:func:`find`; after a connection broke, the run that was followed before, whatever 'latest' means by now."""
    link = link_to_user()
    return find(context, str(link.at.get("key") or key) if link is not None else key)


def followed(run: Run) -> dict[str, Any]:
    """What the position of a command that follows a run says about the run; see :func:`find_followed`."""
    return {"run": run.name, "job": run.job_id, "key": str(run.dir.path) if run.dir.record.exists() else run.name}


def asked_time(context: Context) -> float:
    """What ages such as 10m count from: now, or when the command was first asked for over connections that broke."""
    link = link_to_user()
    return link.now if link is not None else context.clock.time()


def echo(text: str) -> None:
    """Print text whose colours have been decided already."""
    click.echo(text, color=True)


@click.command(name="list", epilog=examples(
    "hpctrain list", "hpctrain list --all --since 7d",
    "hpctrain list --all -o json | jq '.runs[] | select(.state == \"failed\") | .name'",
))
@click.option("--all", "all_", is_flag=True, help=f"All runs, not only the newest {NEWEST} and those that have not ended.")
@click.option("--since", metavar="WHEN", help="All that were submitted, or did anything, since then: an age such as 12h or"
              " 30d, or an ISO date or time (local).")
@output_option
def list_(all_: bool, since: str | None, output: str) -> None:
    """List your runs, newest first.

    TIME is the time left while a run trains, the time in the queue before it has started, and else the time since its
    first start. Wider terminals show more columns. With --all or --since, Slurm's accounting is asked how the jobs ended
    that the controller has forgotten, and for runs whose directory is gone.
    """
    from hpctrain.api import current_user
    from hpctrain.jobs.accounts import Accounts
    from hpctrain.jobs.find import list_runs
    from hpctrain.jobs.snapshot import look_at_list
    from hpctrain.jobs.table import render

    context, every = watching(), all_ or since is not None
    runs, moment = list_runs(context.settings.runs_dir), moment_of(since, context)
    accounts = Accounts(context.slurm, context.clock, current_user()) if every else None
    statuses = look_at_list(
        runs, context.slurm, context.clock, newest=None if every else NEWEST, since=moment, memory=accounts,
    )
    if accounts is not None and accounts.problem and context.slurm is not None:
        say(f"{accounts.problem}; how older jobs ended is known from their own records only.")
    if output == "json":
        print_json("runs", [status.to_json() for status in statuses])
        return
    if not statuses and (runs or every):
        say("No runs in that time." if since else "There are no runs.")
        return
    if not statuses:
        say(f"There are no runs in {context.settings.runs_dir} yet.")
        say("Start one: hpctrain submit quickstart --follow")
        return
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    echo(render(statuses, context.clock.time(), width=columns, colour=on_terminal()))
    _say_what_is_missing(statuses, len(statuses) if every else len(runs), context)


def _say_what_is_missing(statuses: list[JobStatus], total: int, context: Context) -> None:
    problem = context.why_no_slurm or next((status.slurm_error for status in statuses if status.slurm_error), "")
    if problem:
        say(f"\n{problem}; the table shows what the runs have recorded.")
    if total > len(statuses):
        say(f"\n{total - len(statuses)} older runs are not shown: hpctrain list --all")


@click.command(epilog=examples("hpctrain describe latest", "hpctrain describe 4711 -o json"))
@job_argument
@output_option
def describe(job: str, output: str) -> None:
    """Say how a run is doing, in plain words: state, why it waits, progress, speed, and what to do next.

    JOB is a job id, a run's name or the unique start of one, a run directory, or 'latest'.
    """
    from hpctrain.jobs.describe import Description, next_commands, render
    from hpctrain.jobs.reader import read_events
    from hpctrain.jobs.snapshot import look_at
    from hpctrain.slurm.nodelist import fold

    context = watching()
    run = find(context, job)
    status = look_at(run, context.slurm, context.clock)
    events = read_events(run.dir)
    if output == "json":
        last = [event.to_json() for event in events[-10:]]
        print_json("run", {**status.to_json(), "last_events": last, "next": next_commands(status)})
        return
    described = Description(status, events, context.clock.time(), fold(status.nodes))
    echo(render(described, width=width(), colour=on_terminal()))
    if context.why_no_slurm:
        say(f"\n{context.why_no_slurm}; this is what the run has recorded.")


@click.command(epilog=examples("hpctrain events latest", "hpctrain events latest -f --kind checkpoint --kind job"))
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until the run ends.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND",
    help="Only these, such as 'checkpoint.saved', or 'job' for all that start with it. May be repeated.",
)
@click.option("--source", "sources", multiple=True, metavar="SOURCE", help="Only from 'coordinator', 'agent', 'trainer', "
              "'writer', 'submit', 'watchdog' or 'cli'. May be repeated.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only from or about this node. May be repeated.")
@click.option("--since", metavar="WHEN", help="Only since then: an age such as 10m or 1h30m, or an ISO time.")
@output_option
def events(  # noqa: PLR0917 - click passes every option by name
    job: str, follow: bool, kinds: tuple[str, ...], sources: tuple[str, ...], nodes: tuple[str, ...], since: str | None,
    output: str,
) -> int:
    """Show what happened to a run: submitted, started, saved, failed, brought back, requeued, finished.

    JOB is a job id, a run's name or the unique start of one, a run directory, or 'latest'. With -o json and -f each
    event is one line. Ctrl-C ends -f and leaves the job alone.
    """
    from hpctrain.jobs.event_list import EventPrinter, Filter, follow_events
    from hpctrain.jobs.follow import goodbye
    from hpctrain.jobs.reader import read_events

    context = watching(following=follow)
    run = find_followed(context, job) if follow else find(context, job)
    chosen = Filter(kinds, sources, nodes, moment_of(since, context))
    printer = EventPrinter(
        run.submitted_time, chosen, width=width() if sys.stdout.isatty() else None, colour=on_terminal(),
        json_lines=output == "json",
    )
    if follow:
        link, mark = link_to_user(), None
        if link is not None:
            link.following = True
            mark = lambda event: link.mark({"events": [event] if event else [], **followed(run)})  # noqa: E731
        try:
            follow_events(
                run, context.slurm, context.clock, printer, out=echo, say=say, mark=mark,
                shown_before=link.at.get("events", ()) if link is not None else (),
            )
        except KeyboardInterrupt:
            say(goodbye(run, "events -f"))
            return 130
        return 0
    found = [event for event in read_events(run.dir) if chosen.takes(event)]
    if output == "json":
        print_json("events", [event.to_json() for event in found])
        return 0
    if not found:
        say(f"{run.name} has recorded no such events." if chosen != Filter() else f"{run.name} has recorded no events yet.")
    for event in found:
        echo(printer.show(event))
    return 0


def moment_of(since: str | None, context: Context) -> float | None:
    """The moment that ``--since`` means; click's error for what is no time."""
    from hpctrain.jobs.text import parse_since

    try:
        return None if since is None else parse_since(since, asked_time(context))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--since'") from None


@click.command(epilog=examples("hpctrain cancel latest", "hpctrain cancel 4711 4712 --dry-run"))
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True, shell_complete=complete_runs)
@click.option("--dry-run", is_flag=True, help="Only say what would be cancelled.")
@output_option
def cancel(jobs: tuple[str, ...], dry_run: bool, output: str) -> None:
    """End runs for good, queued or running. What they have saved stays.

    JOB is a job id, a run's name or the unique start of one, a run directory, or 'latest'. All names are looked up
    before anything is cancelled. A run that has already ended is left alone.
    """
    from hpctrain.api import current_user, default_context, require_slurm
    from hpctrain.jobs.cancel import cancel as cancel_run

    context = default_context()
    runs = {run.name: run for run in (find(context, key) for key in jobs)}
    slurm = require_slurm(context)
    results = []
    for run in runs.values():
        done = cancel_run(run, slurm, context.clock, host=os.uname().nodename, user=current_user(), dry_run=dry_run)
        results.append({"name": done.name, "id": done.job_id, "changed": done.changed, "message": done.message})
        if output == "text":
            click.echo(done.message)
    if output == "json":
        print_json("cancelled", {"dry_run": dry_run, "runs": results})
