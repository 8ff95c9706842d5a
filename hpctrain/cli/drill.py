"""``hpctrain drill`` (entry point)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from hpctrain.cli.jobs import complete_runs, examples, find
from hpctrain.cli.output import output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.drill.catalogue import Kind
    from hpctrain.drill.causes import Aim
    from hpctrain.drill.run import Driller, Outcome

BROKEN = 1
"""Exit code when a promise was broken."""


@click.command(epilog=examples(
    "hpctrain drill --list", "hpctrain drill kill-rank latest", "hpctrain drill kill-node latest --node n2 --yes",
    "hpctrain drill --random --seed 1 --count 10 latest --yes",
))
@click.argument("kind_and_job", metavar="[KIND] [JOB]", nargs=-1, shell_complete=complete_runs)
@click.option("--list", "list_", is_flag=True, help="List the kinds and what is promised; with JOB, for that job.")
@click.option("--random", "random_", is_flag=True, help="Faults of random kinds at random moments, one after the other.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of --random: the same seed, the same faults.")
@click.option("--count", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Of --random: how many.")
@click.option("--only", metavar="KIND", multiple=True, help="Of --random: draw from these kinds alone; may be repeated.")
@click.option("--node", metavar="NODE", help="Hit this node.  [default: one without the coordinator]")
@click.option("--rank", type=click.IntRange(0), help="Hit this rank.  [default: the last one]")
@click.option("--patience", type=click.FloatRange(1), default=240.0, show_default=True, metavar="SECONDS",
              help="Longest wait for what becomes of a fault.")
@click.option("--any-time", is_flag=True, help="Do not hold the job to the promised times, only to the rungs.")
@click.option("--yes", is_flag=True, help="Do not ask before breaking the job.")
@click.option("--dry-run", is_flag=True, help="Only say what would be broken, and what is promised.")
@output_option
def drill(  # noqa: PLR0917 - click passes every option by name
    kind_and_job: tuple[str, ...], list_: bool, random_: bool, seed: int, count: int, only: tuple[str, ...],
    node: str | None, rank: int | None, patience: float, any_time: bool, yes: bool, dry_run: bool, output: str,
) -> int:
    """Break a running job of yours on purpose, and compare what happens with what is promised.

    Faults are real: processes are killed or stopped, nodes of a private cluster lose their power, checkpoints are damaged.
    A job that is about to train is waited for, up to five minutes; it must have steps left to do. Exit code 1 when a
    promise was broken.
    """
    from hpctrain.drill.causes import Aim

    kinds, job = _words(kind_and_job, list_=list_, random_=random_)
    if only and not random_:
        raise click.UsageError("--only goes with --random")
    if list_:
        _list(job, output)
        return 0
    assert job is not None  # noqa: S101 - for the type checker: _words insists on it
    driller = _driller(job, patience, dry=dry_run)
    series = _series(driller, kinds, only=only, random_=random_, seed=seed, count=count)
    if dry_run:
        _rehearse(driller, [kind for kind, _, _ in series], Aim(node, rank), output)
        return 0
    if not yes:
        _confirm(driller, [kind for kind, _, _ in series])
    outcomes = _carry_out(driller, series, Aim(node, rank), any_time=any_time, output=output)
    if output == "json":
        print_json("drills", [outcome.to_json() for outcome in outcomes])
    broken = [one for one in outcomes if not one.judgement.kept or (one.judgement.late and not any_time)]
    return BROKEN if broken else 0


def _words(words: tuple[str, ...], *, list_: bool, random_: bool) -> tuple[list[Kind], str | None]:
    """``KIND JOB``, or only ``JOB`` for a random series, or nothing for the list."""
    from hpctrain.drill.catalogue import kind_named

    if list_ or random_:
        if len(words) > 1 or (random_ and not words):
            raise click.UsageError("--random and --list take a JOB and no KIND")
        return [], words[0] if words else None
    if len(words) != 2:
        raise click.UsageError("say what to break and which job: hpctrain drill KIND JOB; --list shows the kinds")
    return [kind_named(words[0])], words[1]


def _driller(job: str, patience_s: float, *, dry: bool) -> Driller:
    from hpctrain.api import current_user, default_context, require_slurm
    from hpctrain.drill.run import Driller

    context = default_context()
    run = find(context, job)
    return Driller(run, require_slurm(context), context.clock, current_user(), os.uname().nodename,
                   lambda sentence: say(f"  {sentence}"), patience_s=patience_s, dry=dry)


def _series(
    driller: Driller, kinds: list[Kind], *, only: tuple[str, ...], random_: bool, seed: int, count: int
) -> list[tuple[Kind, float, int | None]]:
    from hpctrain.drill.catalogue import KINDS, kind_named
    from hpctrain.drill.run import choose
    from hpctrain.errors import UsageError

    driller.check(may_wait=not driller.dry)
    named = [kind_named(name) for name in only] if random_ else kinds
    for kind in named:
        if not driller.possible(kind):
            raise UsageError(f"the drill '{kind.name}' needs a {kind.needs}",
                             hint="make one with 'hpctrain cluster up' and submit the job there")
    if not random_:
        return [(kind, 0.0, None) for kind in kinds]
    able = list(dict.fromkeys(named)) or [kind for kind in KINDS.values() if kind.random and driller.possible(kind)]
    return [(kind, wait, number) for kind, wait, number in choose(able, count, seed)]


def _confirm(driller: Driller, kinds: list[Kind]) -> None:
    names = ", ".join(dict.fromkeys(kind.name for kind in kinds))
    what = kinds[0].what if len(kinds) == 1 else f"{len(kinds)} faults ({names})"
    say(f"This breaks {driller.run.name} (job {driller.run.job_id}) on purpose: {what}.")
    if not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask: add --yes")
    click.confirm("Go on?", abort=True, err=True)


def _carry_out(
    driller: Driller, series: list[tuple[Kind, float, int | None]], aim: Aim, *, any_time: bool, output: str
) -> list[Outcome]:
    from hpctrain.drill.report import lines, summary
    from hpctrain.errors import JobStateError

    outcomes: list[Outcome] = []
    for number, (kind, wait_s, pick) in enumerate(series, start=1):
        try:
            driller.wait_until_steady()
        except JobStateError as error:
            if not outcomes:
                raise
            say(f"the series ends after {len(outcomes)} of {len(series)} drills: {error.message}")
            break
        driller.clock.sleep(wait_s)
        target = aim if pick is None else driller.pick(pick)
        if len(series) > 1:
            say(f"{number} of {len(series)}: {kind.name}")
        outcome = driller.drill(kind, target)
        outcomes.append(outcome)
        if output == "text":
            click.echo("\n".join(lines(kind, outcome.promise, outcome.judgement, any_time=any_time)))
    if output == "text" and len(outcomes) > 1:
        click.echo("\n" + "\n".join(summary([(one.kind, one.judgement) for one in outcomes], any_time=any_time)))
    return outcomes


def _rehearse(driller: Driller, kinds: list[Kind], aim: Aim, output: str) -> None:
    from hpctrain.drill.report import promised

    told = []
    for kind in kinds:
        promise, done = driller.rehearse(kind, aim)
        told.append({"kind": kind.name, "would": done, "promised": promised(promise)})
        if output == "text":
            click.echo(f"{kind.name}: {kind.what}\n  promised  {promised(promise)}")
    if output == "json":
        print_json("plan", told)


def _list(job: str | None, output: str) -> None:
    from hpctrain.drill.catalogue import KINDS, Place
    from hpctrain.drill.report import catalogue, promised

    place, possible = Place(), list(KINDS)
    if job is not None:
        driller = _driller(job, 240.0, dry=True)
        place, possible = driller.place(), [kind.name for kind in KINDS.values() if driller.possible(kind)]
    if output == "json":
        print_json("kinds", [
            {"name": kind.name, "what": kind.what, "needs": kind.needs, "random": kind.random,
             "possible": kind.name in possible, "promised": promised(kind.promise(place)),
             "rungs": list(kind.promise(place).rungs), "within_s": kind.promise(place).within_s} for kind in KINDS.values()
        ])
        return
    click.echo("\n".join(catalogue(place, possible)))
