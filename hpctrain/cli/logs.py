"""``hpctrain logs`` (entry point)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hpctrain.cli.jobs import asked_time, examples, find, find_followed, followed, job_argument, watching
from hpctrain.cli.output import link_to_user, on_terminal, output_option, say

if TYPE_CHECKING:
    from hpctrain.api import Context
    from hpctrain.jobs.find import Run
    from hpctrain.jobs.follow import LogRequest

FOLLOW_TAIL = 50
"""Lines that ``-f`` starts with."""


class TailCount(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """A number of lines, or ``all``."""

    name = "N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read the option."""
        if value == "all" or isinstance(value, int):
            return value if isinstance(value, int) else "all"
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        return self.fail(f"{value!r} is neither a number of lines nor 'all'", param, ctx)


@click.command(epilog=examples(
    "hpctrain logs -f latest",
    "hpctrain logs latest --all --tail 50",
    "hpctrain logs 4711 --rank 3 --since 10m",
    "hpctrain logs 4711 --node n2 --since 2026-11-21T01:54",
))
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, across restarts and requeues, until the run ends.")
@click.option("--rank", type=click.IntRange(min=0), default=None, help="Only this rank.")
@click.option("--node", metavar="X", default=None, help="Only the ranks on this node.")
@click.option("--all", "all_", is_flag=True, help="All ranks and the batch step.")
@click.option(
    "--tail", type=TailCount(), default=None,
    help=f"Only the newest N lines, or 'all'.  [default: all; with -f: {FOLLOW_TAIL}]",
)
@click.option(
    "--since", metavar="T", default=None, help="Only lines younger than 10m or 1h30m, or written after an ISO time.",
)
@click.option("-t", "--timestamps", is_flag=True, help="Put the time (UTC) before each line.")
@output_option
def logs(  # noqa: PLR0917 - click passes every option by name
    job: str, follow: bool, rank: int | None, node: str | None, all_: bool, tail: int | str | None, since: str | None,
    timestamps: bool, output: str,
) -> int:
    """Show what the ranks print: rank 0 and the batch step, unless told otherwise.

    JOB is a job id, a run's name or the unique start of one, a run directory, or 'latest'. Lines of several ranks are in
    order of time. Ctrl-C ends -f and leaves the job alone. With -o json each line is one JSON object.
    """
    from hpctrain.jobs.follow import LogRequest
    from hpctrain.jobs.logs import LineFormat, Selection

    if all_ and (rank is not None or node is not None):
        raise click.UsageError("--all already shows every rank: leave out --rank and --node, or --all")
    context = watching(following=follow)
    run = find_followed(context, job) if follow else find(context, job)
    if tail is None and follow and since is None:
        tail = FOLLOW_TAIL
    request = LogRequest(
        Selection(rank=rank, node=node, all=all_), tail=tail if isinstance(tail, int) else None,
        since=_since(since, asked_time(context)), format=LineFormat(on_terminal(), timestamps, output == "json"),
    )
    return follow_run(run, context, request) if follow else _show(run, request)


def _show(run: Run, request: LogRequest) -> int:
    from hpctrain.errors import NotFoundError
    from hpctrain.jobs.follow import show
    from hpctrain.jobs.reader import planned_ranks, read_plan
    from hpctrain.jobs.screen import Screen
    from hpctrain.jobs.tail import known_places

    if show(run, request, Screen(sys.stdout, sys.stderr)):
        return 0
    ranks, nodes = known_places(run.dir)
    if not ranks:
        say(f"{run.name} has no logs yet. How it is doing: hpctrain describe {run.name}")
        return 0
    selection = request.selection
    if selection.rank is not None and selection.rank not in ranks:
        # A rank that prints nothing leaves no file: how many there are is in the plan.
        last = max(planned_ranks(read_plan(run.dir)) - 1, ranks[-1])
        if selection.rank > last:
            raise NotFoundError(f"{run.name} has no rank {selection.rank}", hint=f"its ranks are 0 to {last}")
        say(f"Rank {selection.rank} has printed nothing.")
        return 0
    if selection.node is not None and selection.node not in nodes:
        raise NotFoundError(f"no rank of {run.name} ran on {selection.node!r}", hint="its nodes: " + ", ".join(nodes[:20]))
    say("No lines fit.")
    return 0


def follow_run(
    run: Run, context: Context, request: LogRequest, *, say_goodbye: bool = True, must_succeed: bool = False
) -> int:
    """Follow a run in this terminal until it ends; Ctrl-C ends that with 130 and says that the job goes on.

    Raises:
        JobFailedError: ``must_succeed``, and the work is not complete.
    """
    from hpctrain.jobs.follow import follow, goodbye
    from hpctrain.jobs.position import Position
    from hpctrain.jobs.screen import Screen
    from hpctrain.jobs.wait import require_success

    screen = Screen(sys.stdout, sys.stderr, live=on_terminal() and sys.stderr.isatty())
    link, at, mark = link_to_user(), None, None
    if link is not None:
        link.following = True
        at = Position.from_json(link.at["logs"]) if "logs" in link.at else None
        mark = lambda changes: link.mark({"logs": changes, **followed(run)})  # noqa: E731
    try:
        status = follow(run, context.slurm, context.clock, screen, request, at=at, mark=mark)
    except KeyboardInterrupt:
        if say_goodbye:
            say(goodbye(run))
        return 130
    if must_succeed:
        require_success(status)
    return 0


def _since(text: str | None, now: float) -> float | None:
    from hpctrain.jobs.text import parse_since

    if text is None:
        return None
    try:
        return parse_since(text, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None
