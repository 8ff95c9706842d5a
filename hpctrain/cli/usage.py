"""``hpctrain usage`` (entry point)."""

from __future__ import annotations

import shutil
import sys

import click

from hpctrain.cli.jobs import examples
from hpctrain.cli.output import output_option, print_json, say

DEFAULT_SINCE = "7d"


@click.command(epilog=examples(
    "hpctrain usage --since 30d",
    "hpctrain usage --all-users --by account --since 2026-11-01 --until 2026-12-01",
    "hpctrain usage --account research --by user -o json | jq '.usage.rows[] | {key, gpu_hours}'",
))
@click.option("--since", metavar="WHEN", default=DEFAULT_SINCE, show_default=True,
              help="From then on: an age such as 12h or 30d, or an ISO date or time (local).")
@click.option("--until", metavar="WHEN", default=None, help="Up to then, in the same forms.  [default: now]")
@click.option("--user", "users", metavar="USER", multiple=True, help="Only this user's jobs. May be repeated.")
@click.option("--all-users", is_flag=True, help="Everybody's jobs, as far as the site lets you see them.")
@click.option("--account", "accounts", metavar="ACCOUNT", multiple=True,
              help="Only jobs of this account, everybody's unless --user is given. May be repeated.")
@click.option("--by", type=click.Choice(["run", "user", "account", "partition", "qos", "state"]), default=None,
              help="What a row stands for.  [default: run for your own jobs, user for those of several]")
@output_option
def usage(  # noqa: PLR0917 - click passes every option by name
    since: str, until: str | None, users: tuple[str, ...], all_users: bool, accounts: tuple[str, ...], by: str | None,
    output: str,
) -> None:
    """Say what jobs used, what became of it, and what was lost.

    GPU-hours, CPU-hours and node-hours of your jobs (or of those you name) inside the window, from Slurm's accounting; a job
    that was queued again is one job. Goodput, the share that was training that lives on, is known for runs in your runs
    directory. Where the cluster keeps no accounting, or its database does not answer, a line on standard error says so, and
    what the controller and the run directories know is added up instead.
    """
    from hpctrain.api import current_user, make_context
    from hpctrain.jobs.accounts import DATABASE
    from hpctrain.jobs.find import list_runs
    from hpctrain.jobs.usage_read import Wish, read_usage
    from hpctrain.jobs.usage_text import render
    from hpctrain.slurm.accounting import AccountingQuery

    context = make_context(slurm_retries=1, announce=say)
    begin, end = _moment("--since", since, context.clock.time()), None
    if until is not None:
        end = _moment("--until", until, context.clock.time())
    if end is not None and end <= begin:
        raise click.UsageError("--until lies before --since")
    if begin > context.clock.time():
        raise click.BadParameter("that is in the future", param_hint="'--since'")
    several = all_users or bool(accounts) or len(users) > 1
    everybody = all_users or (bool(accounts) and not users)
    query = AccountingQuery(begin, end, users=users, accounts=accounts, all_users=everybody)
    wish = Wish(query, by or ("user" if several else "run"))
    found = read_usage(wish, list_runs(context.settings.runs_dir), context.slurm, context.clock, current_user())
    if output == "json":
        print_json("usage", found.to_json())
    elif not found.usage.rows:
        say("No jobs in that time.")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        known = found.source == DATABASE
        click.echo(render(found.usage, width=width, capacity=found.capacity, cpus_known=known))
    if context.why_no_slurm:
        say(context.why_no_slurm)
    for note in found.notes if context.slurm is not None else ():
        say(note)
    if found.source != DATABASE:
        say("This is what the controller and your run directories know: jobs that both have forgotten are missing,"
            " GPU-hours are those of your runs' plans, and CPU-hours are not known.")


def _moment(option: str, text: str, now: float) -> float:
    from hpctrain.jobs.text import parse_since

    try:
        return parse_since(text, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=f"'{option}'") from None
