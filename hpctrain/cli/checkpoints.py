"""``hpctrain checkpoints``: look at, verify, pin and prune what a run has saved (entry point)."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.checkpoint_out import copy, export
from hpctrain.cli.checkpoint_place import Place, dry_run_option, find_place, object_tier, run_argument
from hpctrain.cli.jobs import echo, examples
from hpctrain.cli.output import on_terminal, output_option, print_json, say
from hpctrain.cli.progress import ByteProgress

if TYPE_CHECKING:
    from hpctrain.checkpoint.catalogue import Listed
    from hpctrain.checkpoint.retention import Retention
    from hpctrain.checkpoint.store import Store


@click.group()
def checkpoints() -> None:
    """List, verify, pin, prune, copy and export what a run has saved.

    RUN is a job id, a run's name or the unique start of one, 'latest', a run directory, the path of a directory of
    checkpoints, or the URL of an object store such as s3://bucket/prefix/run. STEP is a step, 'latest' for the newest
    complete checkpoint, or a name such as step-00000040.i003.
    """


@checkpoints.command("list", short_help="List a run's checkpoints, newest first.", epilog=examples(
    "hpctrain checkpoints list latest", "hpctrain checkpoints list 4711 -o json",
))
@run_argument
@output_option
def list_(run: str, output: str) -> None:
    """List a run's checkpoints, newest first, as far as can be told without reading them.

    Those in the object store that its recipe names are listed too; other commands find them by that URL.
    """
    from hpctrain.cli.checkpoint_text import table

    place = find_place(run)
    found = [(place.tier, item) for item in place.look()] + _in_object_store(place)
    listed = sorted(found, key=lambda pair: pair[1].name, reverse=True)
    tiers = {tier.where: tier.tier for tier, _ in listed}
    if output == "json":
        print_json("checkpoints", [
            {**item.to_json(), "tier": tier.tier, "path": tier.at(item.name)} for tier, item in listed])
    elif listed:
        names = [tier.tier for tier, _ in listed] if len(tiers) > 1 else None
        echo(table([item for _, item in listed], time.time(), colour=on_terminal(), tiers=names))
        for where, tier in tiers.items() if len(tiers) > 1 else ():
            say(f"{tier}: {where}")
    else:
        say(f"There are no checkpoints in {place.where} yet.")
        say("The recipe's checkpoint: section says when one is saved; 'hpctrain events RUN --kind checkpoint' what happened."
            if place.run else "Name a run, or the directory that holds step-... directories.")


def _in_object_store(place: Place) -> list[tuple[Store, Listed]]:
    """What is there; a store that cannot be reached must not hide what is here."""
    from hpctrain.errors import HpctrainError

    url = place.object_url()
    if not url:
        return []
    try:
        store = object_tier(url)
        return [(store, item) for item in Place(store, None).look()]
    except HpctrainError as error:
        say(f"warning: the object store is left out: {error}" + (f" ({error.advice})" if error.advice else ""))
        return []


@checkpoints.command("show", short_help="Show what is in one checkpoint.", epilog=examples(
    "hpctrain checkpoints show latest latest", "hpctrain checkpoints show 4711 40",
))
@run_argument
@click.argument("step", metavar="STEP", default="latest")
@output_option
def show(run: str, step: str, output: str) -> None:
    """Show what is in one checkpoint: parameters, tensors, data position, files."""
    from hpctrain.checkpoint.contents import contents
    from hpctrain.cli.checkpoint_text import details

    place = find_place(run)
    item = place.choose_complete(step)
    found = contents(place.tier, item.name, place.tier.open(item.name)[1])
    if output == "json":
        print_json("checkpoint", {**item.to_json(), "path": place.tier.at(item.name), **found.to_json()})
    else:
        click.echo(details(item, found, time.time()))


@checkpoints.command("verify", short_help="Read every byte and compare it with what was saved.", epilog=examples(
    "hpctrain checkpoints verify latest", "hpctrain checkpoints verify latest 40", "hpctrain checkpoints verify 4711 --all",
))
@run_argument
@click.argument("step", metavar="[STEP]", default="latest", required=False)
@click.option("--all", "all_", is_flag=True, help="Every checkpoint that has a commit record.")
@output_option
def verify(run: str, step: str, all_: bool, output: str) -> int:
    """Read every byte and compare it with what was saved; without STEP the newest one.

    Exit code 13 if anything is wrong; the file is named.
    """
    from hpctrain.checkpoint.catalogue import verify as verify_one
    from hpctrain.recipe.units import format_bytes

    place = find_place(run)
    chosen = [item for item in place.look() if item.state != "incomplete"] if all_ else [place.choose(step)]
    verdicts = []
    for item in chosen:
        with ByteProgress(f"verify {item.name}", item.size_bytes) as progress:
            verdict = verify_one(place.tier, item.name, progress.add)
        verdicts.append(verdict)
        if output == "text":
            _print_verdict(str(item.name), verdict.problems,
                           f"{verdict.files} files, {format_bytes(verdict.size_bytes)}, {progress.seconds:.1f} s")
    if output == "json":
        print_json("verification", [
            {"name": str(verdict.name), "ok": not verdict.problems, "problems": list(verdict.problems),
             "files": verdict.files, "size_bytes": verdict.size_bytes} for verdict in verdicts])
    if not chosen:
        say(f"There are no checkpoints in {place.where} yet.")
    bad = sum(bool(verdict.problems) for verdict in verdicts)
    return _damaged(bad, len(verdicts), place) if bad else 0


def _print_verdict(name: str, problems: tuple[str, ...], summary: str) -> None:
    click.secho("DAMAGED" if problems else "OK", fg="red" if problems else "green", bold=True, nl=False)
    click.echo(f"  {name}  {'' if problems else summary}".rstrip())
    for problem in problems:
        click.echo(f"  {problem}")


def _damaged(bad: int, total: int, place: Place) -> int:
    from hpctrain.errors import CheckpointError

    raise CheckpointError(
        f"{bad} of {total} checkpoints must not be used", where=place.where,
        hint="a restore passes over them by itself, for the newest one that is whole",
    )


@checkpoints.command("pin", short_help="Keep a checkpoint whatever the retention says.", epilog=examples(
    "hpctrain checkpoints pin latest 40 --reason 'before the data change'",
))
@run_argument
@click.argument("step", metavar="STEP")
@click.option("--reason", default="", help="Why; 'list' shows it.")
@output_option
def pin(run: str, step: str, reason: str, output: str) -> None:
    """Keep a checkpoint whatever the retention says, in the trainer's pruning too."""
    from hpctrain.checkpoint import pins

    place = find_place(run)
    item = place.choose_complete(step)
    pins.pin(place.tier, item.name, reason, time.time())
    _tell_pin(str(item.name), pinned=True, changed=item.pin is None, output=output)


@checkpoints.command("unpin", short_help="Let the retention decide again.", epilog=examples(
    "hpctrain checkpoints unpin latest 40",
))
@run_argument
@click.argument("step", metavar="STEP")
@output_option
def unpin(run: str, step: str, output: str) -> None:
    """Let the retention decide about a checkpoint again."""
    from hpctrain.checkpoint import pins

    place = find_place(run)
    item = place.choose(step)
    changed = pins.unpin(place.tier, item.name)
    _tell_pin(str(item.name), pinned=False, changed=changed, output=output)


def _tell_pin(name: str, *, pinned: bool, changed: bool, output: str) -> None:
    if output == "json":
        print_json("pin", {"name": name, "pinned": pinned, "changed": changed})
    else:
        state = "pinned" if pinned else "not pinned"
        click.echo(f"{name} is {state}" if changed else f"{name} was {state} already")


@checkpoints.command("prune", short_help="Remove old checkpoints.", epilog=examples(
    "hpctrain checkpoints prune latest --dry-run", "hpctrain checkpoints prune 4711 --keep-last 1",
))
@run_argument
@click.option("--keep-last", type=click.IntRange(1), default=None, help="Newest ones to keep.  [default: the recipe's]")
@click.option(
    "--keep-every", type=click.IntRange(0), default=None, metavar="STEPS",
    help="Also keep multiples of this; 0 for none.  [default: the recipe's]",
)
@click.option("--no-verify", is_flag=True, help="Do not read the newest checkpoint before others are removed.")
@dry_run_option("removed")
@output_option
def prune(run: str, *, keep_last: int | None, keep_every: int | None, no_verify: bool, dry_run: bool, output: str) -> None:
    """Remove old checkpoints, by the recipe's retention or by --keep-last.

    Safe while the run trains: nothing without a commit record is touched, since it may be a save in flight, and the newest
    checkpoint always stays. Before anything goes, checkpoints are read, newest first, until one is whole; it stays too.
    Pinned ones stay.
    """
    from hpctrain.checkpoint.pruning import plan_prune
    from hpctrain.checkpoint.pruning import prune as remove
    from hpctrain.recipe.units import format_bytes, several

    place = find_place(run)
    listed = place.look()
    retention = _retention(place, keep_last, keep_every)
    newest = next((item.size_bytes for item in listed if item.state == "complete"), 0)
    with ByteProgress("read what stays", newest) as progress:
        plan = plan_prune(place.tier, listed, retention, check=not no_verify, on_bytes=progress.add)
    gone = list(plan.remove) if dry_run else remove(place.tier, plan)
    if output == "json":
        print_json("pruned", {
            "dry_run": dry_run, "removed": [str(item.name) for item in gone], "kept": [str(item.name) for item in plan.keep],
            "freed_bytes": sum(item.size_bytes for item in gone), "verified": str(plan.sound) if plan.sound else None})
        return
    for item in gone:
        click.echo(f"{'would remove' if dry_run else 'removed'} {item.name}  {format_bytes(item.size_bytes)}")
    freed = format_bytes(sum(item.size_bytes for item in gone))
    say(f"{several(len(gone), 'checkpoint')}, {freed}; {len(plan.keep)} stay" if gone else
        f"nothing to remove; {several(len(plan.keep), 'checkpoint')} stay")


def _retention(place: Place, keep_last: int | None, keep_every: int | None) -> Retention:
    from hpctrain.checkpoint.retention import Retention
    from hpctrain.errors import UsageError

    section: dict[str, Any] = {}
    if place.run is not None:
        try:
            section = dict(json.loads(place.run.dir.resolved_json.read_bytes()).get("checkpoint") or {})
        except (OSError, ValueError):
            section = {}
    last = keep_last or section.get("keep_last")
    if last is None:
        raise UsageError("there is no recipe here that says how many to keep", where=place.where, hint="say --keep-last N")
    every = section.get("keep_every_steps") if keep_every is None else keep_every or None
    return Retention(int(last), every)


checkpoints.add_command(copy)
checkpoints.add_command(export)
